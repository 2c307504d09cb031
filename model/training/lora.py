"""Low-rank adaptation: a trained model stays frozen, each of its matrices learns a correction of small rank.

    y = W x + U (D x),   D (rank, in),  U (out, rank), zero at the start       a linear layer
    y = W * x + U (D * x)                                                      the same with D a convolution
    merged:  W' = W + U D                                                      the model's own shape again

`add_lora` swaps layers in place, `lora_rule` freezes everything else, `merged` gives the tensors of the
plain model back, so that an adapted world is exported, loaded and run like any other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wm_env.model.training.optimizers import ParameterGroup

DOWN, UP = "lora_down", "lora_up"
GATES = ("beta", "decay", "gate")  # tiny outputs that steer the memory: left as they are


class LoRALinear(nn.Linear):
    """A linear layer with a correction: weight `(out, in)`, lora_down `(rank, in)`, lora_up `(out, rank)`."""

    def __init__(self, base: nn.Linear, rank: int) -> None:
        super().__init__(base.in_features, base.out_features, bias=base.bias is not None, device="meta")
        self.weight, self.bias = base.weight, base.bias
        down = torch.randn(rank, base.in_features) / base.in_features**0.5
        self.lora_down = nn.Parameter(down.to(base.weight))
        self.lora_up = nn.Parameter(base.weight.new_zeros(base.out_features, rank))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias) + F.linear(F.linear(x, self.lora_down), self.lora_up)


class LoRAConv2d(nn.Conv2d):
    """A convolution with a correction: lora_down `(rank, in, kh, kw)`, lora_up `(out, rank, 1, 1)`."""

    def __init__(self, base: nn.Conv2d, rank: int) -> None:
        height, width = base.kernel_size
        super().__init__(base.in_channels, base.out_channels, (height, width), device="meta")
        self.stride, self.padding, self.dilation = base.stride, base.padding, base.dilation
        self.weight, self.bias = base.weight, base.bias
        taps = base.weight[0].numel()
        self.lora_down = nn.Parameter((torch.randn(rank, *base.weight.shape[1:]) / taps**0.5).to(base.weight))
        self.lora_up = nn.Parameter(base.weight.new_zeros(base.out_channels, rank, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        inner = self._conv_forward(x, self.lora_down, None)
        return self._conv_forward(x, self.weight, self.bias) + F.conv2d(inner, self.lora_up)


def adapts(name: str, module: nn.Module) -> bool:
    """Return whether `add_lora` adapts a layer by default.

    These are the projections of the attention and feed-forward parts of a transformer's blocks, and every
    dense convolution with zero padding (the refiner); not gates, embeddings and the head of a transformer.
    """
    if isinstance(module, nn.Conv2d):
        return module.groups == 1 and module.padding_mode == "zeros"
    return isinstance(module, nn.Linear) and ".blocks." in f".{name}" and name.split(".")[-1] not in GATES


def add_lora(
    model: nn.Module, rank: int, *, seed: int = 0, which: Callable[[str, nn.Module], bool] = adapts
) -> list[str]:
    """Swap the layers that `which` names for adapted ones, in place; return their names.

    The model computes what it did until it is trained. rank: at least 1, and below every adapted matrix's
    smaller side, where it would save nothing.
    """
    chosen = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d) and which(name, module)
    }
    if not chosen:
        raise ValueError(f"LoRA finds no layer to adapt in a {type(model).__name__}")
    least = min(min(module.weight.shape[0], module.weight[0].numel()) for module in chosen.values())
    if not 1 <= rank < least:
        raise ValueError(f"LoRA rank={rank} must be in [1, {least - 1}]: the smallest layer has rank {least}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for name, module in chosen.items():
            parent, _, last = name.rpartition(".")
            adapted = LoRALinear(module, rank) if isinstance(module, nn.Linear) else LoRAConv2d(module, rank)
            setattr(model.get_submodule(parent), last, adapted)
    return list(chosen)


def lora_rule(name: str, parameter: nn.Parameter) -> ParameterGroup:
    """Put the corrections "adamw" and the base "frozen"."""
    return "adamw" if name.endswith((DOWN, UP)) else "frozen"


def merged(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the state dict of the plain model that computes the same: W + U D for every adapted layer."""
    plain = {name: tensor for name, tensor in tensors.items() if not name.endswith((DOWN, UP))}
    for name, down in tensors.items():
        if name.endswith(DOWN):
            layer = name.removesuffix(DOWN)
            up, weight = tensors[layer + UP].flatten(1), plain[f"{layer}weight"]  # (out, rank)
            change = up.double() @ down.double().flatten(1)  # (out, in kh kw)
            plain[f"{layer}weight"] = (weight.double() + change.view(weight.shape)).to(weight.dtype)
    return plain
