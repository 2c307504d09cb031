"""Which optimizer trains which parameter: AdamW, AdamW at a slower rate, Muon, or none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from wm_env.model.training.muon import ShardedMuon
from wm_env.model.training.schedule import LoopConfig

ParameterGroup = Literal["adamw", "muon", "slow", "frozen"]


def default_rule(name: str, parameter: nn.Parameter) -> ParameterGroup:
    """Return "adamw" for every parameter."""
    return "adamw"


def freeze(model: nn.Module, rule: Callable[[str, nn.Parameter], ParameterGroup]) -> None:
    """Let the parameters ruled "frozen" have no gradient."""
    for name, parameter in model.named_parameters():
        if rule(name, parameter) == "frozen":
            parameter.requires_grad_(False)


def make_optimizers(
    model: nn.Module, config: LoopConfig, rule: Callable[[str, nn.Parameter], ParameterGroup]
) -> list[torch.optim.Optimizer]:
    """Return AdamW (normal and slow group) and, where `rule` asks for it, Muon; none has "frozen" ones."""
    groups: dict[str, list[nn.Parameter]] = {"adamw": [], "muon": [], "slow": [], "frozen": []}
    for name, parameter in model.named_parameters():
        groups[rule(name, parameter)].append(parameter)
    adamw = [
        {"params": groups[kind], "lr": config.lr * factor, "peak": config.lr * factor}
        for kind, factor in (("adamw", 1.0), ("slow", config.slow_factor))
        if groups[kind]
    ]
    optimizers: list[torch.optim.Optimizer] = []
    if adamw:
        optimizers.append(
            torch.optim.AdamW(adamw, betas=config.betas, eps=1e-8, weight_decay=config.weight_decay)
        )
    if groups["muon"]:
        split = any(isinstance(parameter, DTensor) for parameter in groups["muon"])
        optimizers.append(
            (ShardedMuon if split else torch.optim.Muon)(
                [{"params": groups["muon"], "lr": config.muon_lr, "peak": config.muon_lr}],
                momentum=0.95,
                weight_decay=config.weight_decay,
                adjust_lr_fn="match_rms_adamw",
            )
        )
    return optimizers
