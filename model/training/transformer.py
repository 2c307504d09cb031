"""What the trainings of a transformer share: who trains what, where memories start, how channels count."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wm_env.model.attention import GDNAttention
from wm_env.model.dit import Block, DiT
from wm_env.model.training.optimizers import ParameterGroup
from wm_env.model.vae.tiny import TinyVAE


def parameter_rule(name: str, parameter: nn.Parameter) -> ParameterGroup:
    """Return "muon" for the matrices of the blocks, "adamw" for gates, norms, embeddings and the head.

    The decay of the recurrent states is "slow": within clips of seconds forgetting at once is never punished,
    so at the full rate the gates close (measured half-lives 0.06-0.3 s) and a rollout remembers nothing.
    """
    if name.endswith((".A_log", ".dt_bias")) or ".decay." in name:
        return "slow"
    gate = any(part in name for part in (".beta.", "depthwise", "modulation"))
    return "muon" if parameter.ndim == 2 and name.startswith("blocks.") and not gate else "adamw"


@torch.no_grad()
def set_half_lives(model: DiT, half_lives: Sequence[float]) -> None:
    """Start the decay gates of every block at half-lives in latent frames, one per head, for any input.

    exp(A_log) softplus(dt_bias) = ln 2 / half-life (docs/reference/transformer.md#gates), with the input's
    part of the gate at zero.
    """
    if len(half_lives) != model.cfg.heads or min(half_lives) <= 0:
        raise ValueError(f"half_lives={tuple(half_lives)}: {model.cfg.heads} positive numbers, one per head")
    rate = math.log(2) / torch.tensor(half_lives)  # (H,) per frame
    for block in model.blocks:
        assert isinstance(block, Block)
        attention = block.attn
        if isinstance(attention, GDNAttention):
            nn.init.zeros_(attention.decay.weight)
            nn.init.zeros_(attention.decay.bias)
            attention.dt_bias.fill_(-5.0)
            attention.A_log.copy_(torch.log(rate / F.softplus(attention.dt_bias)))


@torch.no_grad()
def channel_weights(vae: TinyVAE, latents: Tensor) -> Tensor:
    """Return w^2 `(C,)` with mean 1: the root of what half a deviation of a channel changes in the pixels.

    latents `(B, C, h, w)`, a sample. Inverse depth counts a tenth. In the embedded autoencoder 22 of 32 parts
    of the colour energy are in one channel; with equal weights most of the loss is unpredictable detail.
    """
    state = vae.start_decoding(latents)
    reference, _ = vae.decode(latents, state)
    energies = []
    for channel in range(latents.shape[1]):
        moved = latents.clone()
        moved[:, channel] += 0.5
        change = (vae.decode(moved, state)[0] - reference).square().mean((0, 1, 3, 4))  # (4,)
        energies.append(change[:3].mean() + 0.1 * change[3])
    roots = torch.stack(energies).sqrt()
    return roots / roots.mean()
