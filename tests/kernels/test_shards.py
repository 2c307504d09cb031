"""Frames spread over shards: the memory and its gradients pass from shard to shard exactly."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from wm_env.kernels.frame_gdn import GDNMemory, frame_gdn
from wm_env.kernels.frame_gdn.shards import (
    Affine,
    bidirectional_shard,
    compose,
    frame_maps,
    memory_after,
    memory_before,
    reduce_frames,
    shard_map,
)
from wm_env.kernels.inputs import GDNInputs, gdn_inputs

FLOAT64 = 1e-11  # rounding of sums over a few frames in float64
CUTS = [(0, 7), (0, 1, 7), (0, 3, 4, 6, 7), (0, 1, 2, 3, 4, 5, 6, 7)]  # shards of 7 frames


def inputs(normalised: bool) -> GDNInputs:
    made = gdn_inputs(
        seed=2, batch=2, heads=2, frames=7, tokens=4, key_dim=6, value_dim=3, normalised=normalised
    )
    return GDNInputs(*(None if x is None else x.requires_grad_(True) for x in made))


def cut(x: GDNInputs, a: int, b: int) -> dict[str, Tensor | None]:
    names = ("q", "k", "v", "beta", "g", "q_norm", "k_norm")
    return {n: None if t is None else t[:, :, a:b] for n, t in zip(names, x, strict=False)}


def maps_of(x: GDNInputs, cuts: tuple[int, ...], reverse: bool = False) -> list:
    pieces = [cut(x, a, b) for a, b in itertools.pairwise(cuts)]
    wanted = ("k", "v", "beta", "g", "k_norm")
    return [shard_map(**{name: piece[name] for name in wanted}, reverse=reverse) for piece in pieces]  # type: ignore[arg-type]


def gradients(out: Tensor, memory: Tensor | None, x: GDNInputs) -> list[Tensor]:
    weight = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)
    loss = (out * weight).sum() + (0.0 if memory is None else memory.square().sum())
    leaves = [t for t in x if t is not None]
    found = torch.autograd.grad(loss, leaves, allow_unused=True, materialize_grads=True)
    return list(found)


def assert_close(found: list[Tensor], expected: list[Tensor]) -> None:
    for a, b in zip(found, expected, strict=True):
        assert (a - b).abs().max() <= FLOAT64 * b.abs().max().clamp_min(1.0)


@pytest.mark.parametrize("cuts", CUTS)
@pytest.mark.parametrize("normalised", [True, False])
def test_causal_shards_equal_one_scan_with_gradients(cuts: tuple[int, ...], normalised: bool) -> None:
    x = inputs(normalised)
    assert x.S is not None
    start = GDNMemory(x.S, x.z)
    whole, end = frame_gdn(**cut(x, 0, 7), state=start, chunk_starts=tuple(range(7)), impl="naive")  # type: ignore[arg-type]
    maps, outs = maps_of(x, cuts), []
    for shard, (a, b) in enumerate(itertools.pairwise(cuts)):
        state = memory_before(maps, shard, start)
        out, _ = frame_gdn(**cut(x, a, b), state=state, chunk_starts=tuple(range(b - a)))  # type: ignore[arg-type]
        outs.append(out)
    last = memory_before(maps, len(maps), start)
    assert last is not None
    out = torch.cat(outs, dim=2)
    assert_close([out, last.S], [whole, end.S])
    assert_close(gradients(out, last.S, x), gradients(whole, end.S, x))


@pytest.mark.parametrize("cuts", CUTS)
@pytest.mark.parametrize("normalised", [True, False])
def test_a_bidirectional_chunk_may_be_cut_anywhere(cuts: tuple[int, ...], normalised: bool) -> None:
    x = inputs(normalised)
    assert x.S is not None
    start = GDNMemory(x.S, x.z)
    whole, _ = frame_gdn(**cut(x, 0, 7), state=start, impl="naive")  # type: ignore[arg-type]
    forward, backward = maps_of(x, cuts), maps_of(x, cuts, reverse=True)
    outs = [
        bidirectional_shard(
            **cut(x, a, b),
            before=memory_before(forward, p, start),
            after=memory_after(backward, p),  # type: ignore[arg-type]
        )
        for p, (a, b) in enumerate(itertools.pairwise(cuts))
    ]
    out = torch.cat(outs, dim=2)
    assert_close([out], [whole])
    assert_close(gradients(out, None, x), gradients(whole, None, x))


def test_maps_compose_in_any_grouping_but_not_in_any_order() -> None:
    x = inputs(False)
    C, H = frame_maps(k=x.k, v=x.v, beta=x.beta, g=x.g)
    a, b, c = (Affine(C[:, :, t], H[:, :, t]) for t in range(3))
    left, right = compose(compose(a, b), c), compose(a, compose(b, c))
    assert_close(list(left), list(right))
    tree = reduce_frames(Affine(C[:, :, :3], H[:, :, :3]))
    assert_close(list(tree), list(left))
    assert (compose(a, b).increment - compose(b, a).increment).abs().max() > 1e-3
