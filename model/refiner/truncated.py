"""Truncated-sigma refinement: part of the noise is added back and taken away by a second network (pure).

    x = (1 - s_0) z + s_0 eps,    network v,    x_0 = x - s v,    x <- (s'/s) x + (1 - s'/s) x_0

as in docs/reference/pipeline.md#refiner. Latent frame 0, the sink, is the input image: it is shown to the
network clean and never refined. Two modes: the whole clip at once, or block after block with the
network's memory as an explicit value. Legend: `B` batch, `C` channels, `T` latent frames, `M` tokens of a
call, `p` spatial patch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from wm_env.model.flow import clean_path

TIMESTEPS = 1000
REFINER_SIGMAS = (0.909375, 0.725, 0.421875, 0.0)


class Span(NamedTuple):
    """Where the tokens of a call lie: first latent frame, latent frames, grid rows and columns in patches."""

    start: int
    frames: int
    rows: int
    columns: int


class RefinerNetwork(Protocol):
    """A refiner: tokens in, velocity out, and the memory to hand to later blocks.

    tokens `(B, M, p*p*C)`; timestep `(B, M)` float32 in [0, 1000]; memory is None before the first call.
    Returns the velocity like tokens, and the memory with this call's frames included: it is kept only for
    calls at timestep 0, so the network itself decides how much history it keeps.
    """

    def __call__(self, tokens: Tensor, timestep: Tensor, span: Span, memory: Any) -> tuple[Tensor, Any]: ...


class RefinerState(NamedTuple):
    """What block mode carries: `frame`, the next latent frame to refine, and the network's memory."""

    frame: int
    memory: Any


def pack(latents: Tensor, patch: int = 1) -> Tensor:
    """Return tokens `(B, T*h/p*w/p, C*p*p)` of latents `(B, C, T, h, w)`.

    Token order t, y, x; feature order c, dy, dx.
    """
    height, width = latents.shape[-2:]
    if height % patch or width % patch:
        raise ValueError(f"a grid of {height}x{width} does not divide into patches of {patch}")
    x = latents.unflatten(-1, (-1, patch)).unflatten(-3, (-1, patch))  # (B, C, T, y, p, x, p)
    return x.permute(0, 2, 3, 5, 1, 4, 6).flatten(4, 6).flatten(1, 3)


def unpack(tokens: Tensor, span: Span, patch: int = 1) -> Tensor:
    """Return latents `(B, C, T, h, w)` of tokens packed by `pack`."""
    x = tokens.unflatten(1, (span.frames, span.rows, span.columns))  # (B, T, y, x, C*p*p)
    x = x.unflatten(-1, (-1, patch, patch)).permute(0, 4, 1, 2, 5, 3, 6)  # (B, C, T, y, p, x, p)
    return x.flatten(-2).flatten(-3, -2)


def refine_clip(
    network: RefinerNetwork,
    latents: Tensor,
    noise: Tensor,
    *,
    sigmas: Sequence[float] = REFINER_SIGMAS,
    sink: int = 1,
    patch: int = 1,
) -> Tensor:
    """Return the clip `(B, C, T, h, w)` refined in one shot.

    The first `sink` frames go in clean at timestep 0 in every call and come out unchanged.
    noise: `(B, C, T - sink, h, w)`.
    """
    span = _span(latents, 0, patch)
    clean = pack(latents[:, :, :sink], patch)
    x = _noised(pack(latents[:, :, sink:], patch), pack(noise, patch), sigmas[0])

    def frames_at_zero(x: Tensor, sigma: float) -> Tensor:
        tokens = torch.cat([clean, x], dim=1)  # (B, M, C*p*p)
        timestep = torch.full(tokens.shape[:2], sigma * TIMESTEPS, device=x.device)
        timestep[:, : clean.shape[1]] = 0.0
        v, _ = network(tokens, timestep, span, None)
        return x.float() - sigma * v[:, clean.shape[1] :].float()

    x = clean_path(frames_at_zero, x, sigmas)
    return unpack(torch.cat([clean, x], dim=1), span, patch)


def begin_blocks(network: RefinerNetwork, sink: Tensor, *, patch: int = 1) -> RefinerState:
    """Return the state of block mode after the network has seen the clean sink `(B, C, 1, h, w)`."""
    memory = _commit(network, pack(sink, patch), _span(sink, 0, patch), None)
    return RefinerState(sink.shape[2], memory)


def refine_block(
    network: RefinerNetwork,
    latents: Tensor,
    state: RefinerState,
    noise: Tensor,
    *,
    sigmas: Sequence[float] = REFINER_SIGMAS,
    patch: int = 1,
    denoise: RefinerNetwork | None = None,
) -> tuple[Tensor, RefinerState]:
    """Return the next block `(B, C, n, h, w)` refined, and the state after it; noise is like latents.

    Denoising calls read the memory and drop the one returned; one more call on the refined block at
    timestep 0 gives the memory that is kept. denoise: the same network for the calls before that one, which
    need not make a memory; None is `network`.
    """
    walk = denoise or network
    span = _span(latents, state.frame, patch)
    x = _noised(pack(latents, patch), pack(noise, patch), sigmas[0])

    def frames_at_zero(x: Tensor, sigma: float) -> Tensor:
        timestep = torch.full(x.shape[:2], sigma * TIMESTEPS, device=x.device)
        v, _ = walk(x, timestep, span, state.memory)
        return x.float() - sigma * v.float()

    x = clean_path(frames_at_zero, x, sigmas)
    memory = _commit(network, x, span, state.memory)
    return unpack(x, span, patch), RefinerState(state.frame + span.frames, memory)


def commit_block(
    network: RefinerNetwork, latents: Tensor, state: RefinerState, *, patch: int = 1
) -> RefinerState:
    """Return the state after a true block `(B, C, n, h, w)`, which is shown and not refined."""
    span = _span(latents, state.frame, patch)
    return RefinerState(state.frame + span.frames, _commit(network, pack(latents, patch), span, state.memory))


def refine_blocks(
    network: RefinerNetwork,
    latents: Tensor,
    noise: Callable[[int], Tensor],
    *,
    block: int = 3,
    sigmas: Sequence[float] = REFINER_SIGMAS,
    sink: int = 1,
    patch: int = 1,
) -> Tensor:
    """Return the clip `(B, C, T, h, w)` refined block after block; the last block may be short.

    noise: block index -> noise like that block.
    """
    state = begin_blocks(network, latents[:, :, :sink], patch=patch)
    out = [latents[:, :, :sink]]
    for index, chunk in enumerate(latents[:, :, sink:].split(block, dim=2)):
        refined, state = refine_block(network, chunk, state, noise(index), sigmas=sigmas, patch=patch)
        out.append(refined)
    return torch.cat(out, dim=2)


def _span(latents: Tensor, start: int, patch: int) -> Span:
    frames, height, width = latents.shape[2:]
    return Span(start, frames, height // patch, width // patch)


def _commit(network: RefinerNetwork, tokens: Tensor, span: Span, memory: Any) -> Any:
    _, memory = network(tokens, torch.zeros(tokens.shape[:2], device=tokens.device), span, memory)
    return memory


def _noised(clean: Tensor, noise: Tensor, sigma: float) -> Tensor:
    return ((1 - sigma) * clean.float() + sigma * noise.float()).to(clean.dtype)
