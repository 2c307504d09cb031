"""Weights that visit a device block by block: equal results, three blocks at most, nothing changed."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from wm_env.model.visiting import AT_ONCE, Visitor, blocks_of, in_turn


class Blocks(nn.Module):
    """Five equal blocks between two layers; counts the bytes of blocks that are there at every call."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 4), nn.Linear(4, 6)
        self.layers = nn.ModuleList(nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)) for _ in range(5))

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for layer in self.layers:
            x = x + layer(x)
        return self.last(x)


def frozen() -> Blocks:
    torch.manual_seed(0)
    return Blocks().eval().requires_grad_(False)


def test_blocks_in_turn_compute_the_same_and_are_three_at_most() -> None:
    network, x, there = frozen(), torch.randn(3, 6), []
    expected = network(x)
    blocks = blocks_of(network)
    of_one = sum(value.nbytes for value in blocks[0].state_dict().values())
    turns = in_turn(network, blocks, "cpu")
    for block in blocks:
        block.register_forward_pre_hook(lambda *_: there.append(turns.nbytes))
    for _ in range(3):
        assert torch.equal(network(x), expected)
    assert max(there) == AT_ONCE * of_one and there[0] == 2 * of_one
    assert torch.equal(frozen().layers[2][0].weight, network.layers[2][0].weight)


def test_the_rest_stays_and_a_block_is_there_only_while_it_is_called() -> None:
    network, seen = frozen(), []
    in_turn(network, list(network.layers), "meta")

    def there() -> list[int]:
        return [i for i, layer in enumerate(network.layers) if layer[0].weight.is_meta]

    for block in network.layers:
        block.register_forward_pre_hook(lambda *_: seen.append(there()))
    out = network(torch.zeros(2, 6, device="meta"))
    assert out.device.type == network.first.weight.device.type == "meta"
    assert seen == [[i] for i in range(5)] and there() == []
    assert {layer[1].running_mean.device.type for layer in network.layers} == {"cpu"}


def test_two_blocks_stay_once_they_are_there() -> None:
    network, x = frozen(), torch.randn(3, 6)
    network.layers = network.layers[:2]
    expected = network(x)
    turns = in_turn(network, list(network.layers), "cpu")
    assert all(torch.equal(network(x), expected) for _ in range(3)) and len(turns.there) == 2


def test_a_visitor_brings_all_weights_and_takes_nothing_back() -> None:
    network = frozen()
    visitor = Visitor(network, "meta")
    assert visitor.nbytes == sum(value.nbytes for value in network.state_dict().values())
    visitor.arrive(visitor.copies())
    assert {value.device.type for value in network.state_dict().values()} == {"meta"}
    visitor.leave()
    assert torch.equal(network.last.weight, frozen().last.weight)


def test_what_cannot_visit_is_refused() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Visitor(Blocks(), "meta")
    with pytest.raises(ValueError, match="no list of blocks"):
        blocks_of(nn.Linear(2, 2))
    with pytest.raises(ValueError, match="without blocks"):
        in_turn(frozen(), [], "cpu")
