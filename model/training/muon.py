"""Muon for matrices that FSDP2 has split over processes: each update is gathered once, then cut again.

    B <- mu B + (1 - mu) G,   U = (1 - mu) G + mu B                     on the shard here (Nesterov)
    O = newton_schulz(U)                                                on the whole matrix, everywhere
    W <- (1 - lr decay) W - 0.2 lr sqrt(max(rows, columns)) O           on the shard here

The same numbers as `torch.optim.Muon(adjust_lr_fn="match_rms_adamw")`, whose states it reads and writes. That
one runs on split matrices too, but every product inside its iteration then communicates, and sums in another
order than on one process.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from wm_env.model.training.distributed import split_like


def newton_schulz(update: Tensor, coefficients: tuple[float, float, float], steps: int, eps: float) -> Tensor:
    """Return `(m, n)` bfloat16 with the singular vectors of `update` and singular values near 1.

    X <- a X + (b A + c A A) X with A = X X^T, from X = update / |update|, wide rather than tall.
    """
    a, b, c = coefficients
    x = update.bfloat16()
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    x = x / x.norm().clamp(min=eps)
    for _ in range(steps):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T if tall else x


class ShardedMuon(torch.optim.Muon):
    """`torch.optim.Muon` whose parameters may be split by FSDP2; see the module docstring."""

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            if not group["nesterov"] or group["adjust_lr_fn"] != "match_rms_adamw":
                raise ValueError("ShardedMuon has Nesterov momentum and adjust_lr_fn='match_rms_adamw' only")
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                state = self.state[weight]
                if "momentum_buffer" not in state:
                    state["momentum_buffer"] = torch.zeros_like(weight.grad)
                momentum = state["momentum_buffer"]
                momentum.lerp_(weight.grad, 1 - group["momentum"])
                update = weight.grad.lerp(momentum, group["momentum"])
                whole = update.full_tensor() if isinstance(update, DTensor) else update
                whole = newton_schulz(whole, group["ns_coefficients"], group["ns_steps"], group["eps"])
                rate = 0.2 * group["lr"] * max(weight.shape) ** 0.5
                weight.mul_(1 - group["lr"] * group["weight_decay"])
                weight.add_(split_like(whole.to(weight.dtype), weight), alpha=-rate)
