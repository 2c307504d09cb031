"""Flow matching: noise schedules, guidance and the solvers of the released pipelines (pure).

    x_s = (1 - s) x_0 + s eps,    network v = eps - x_0,    Euler  x <- x + (s' - s) v

`sigma` s is the noise level in [0, 1]; the network is told the timestep 1000 s (and truncates it to an
integer itself, while the solver keeps the fraction). Every latent frame has its own sigma: a held frame (the
start image) has 0 and never moves, chunks of one clip may be at different steps. Facts:
docs/reference/pipeline.md#schedules and docs/reference/pipeline.md#solvers. Legend: `B` batch, `C` channels,
`T` latent frames, `K` denoising steps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any, Literal, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor

from wm_env.model.placement import placed

TIMESTEPS = 1000
STUDENT_STEPS = (1000.0, 960.0, 889.0, 727.0, 0.0)  # released streaming list: 4 uniform points, shift 8
State = TypeVar("State")
Solver = Literal["euler", "renoise"]

Velocity = Callable[[Tensor, Tensor, Sequence[int]], Tensor]
"""`(x (B, C, T, h, w), timestep (B, T), chunk_starts) -> v` like x; a clip of T frames known so far."""

Noise = Callable[[int], Tensor]
"""Standard normal noise of a denoising step, a pure function of the step index."""


class StreamingVelocity(Protocol):
    """A network with memory: `(x (B, C, n, h, w), timestep (B, n), state) -> (v, state after the chunk)`."""

    def __call__(self, x: Tensor, timestep: Tensor, state: Any) -> tuple[Tensor, Any]: ...


class Schedule(NamedTuple):
    """Noise levels to walk down. sigmas: `(K+1,)` float64, 1 down to 0. timesteps: `(K,)` float64, 1000 s."""

    sigmas: Tensor
    timesteps: Tensor


def shift_sigma(sigma: Tensor, shift: float) -> Tensor:
    """Return k u / (1 + (k - 1) u), which moves noise levels towards 1 for a shift k > 1."""
    return shift * sigma / (1 + (shift - 1) * sigma)


def shifted_schedule(steps: int, shift: float) -> Schedule:
    """Return the released schedule of `steps` levels: linear between shifted ends, then shifted again.

    The lowest end, 1/1000, is shifted before the linear spacing too, so the last non-zero level is shifted
    twice (shift 9.8, 4 steps: 1, 0.9521, 0.8346, 0.0877, 0).
    """
    if steps < 1 or not shift > 0:
        raise ValueError(f"steps={steps} and shift={shift} must both be positive")
    lowest = float(shift_sigma(torch.tensor(1 / TIMESTEPS, dtype=torch.float64), shift))
    sigmas = shift_sigma(torch.linspace(1.0, lowest, steps, dtype=torch.float64), shift)
    return Schedule(torch.cat([sigmas, sigmas.new_zeros(1)]), sigmas * TIMESTEPS)


def listed_schedule(timesteps: Sequence[float]) -> Schedule:
    """Return the schedule of explicit timesteps in (0, 1000], used verbatim; a closing 0 is implied."""
    listed = torch.tensor([t for t in timesteps if t != 0], dtype=torch.float64)
    falling = bool((listed[1:] < listed[:-1]).all())
    if not len(listed) or not falling or float(listed[0]) > TIMESTEPS or float(listed[-1]) < 0:
        raise ValueError(f"timesteps {list(timesteps)} must fall from at most {TIMESTEPS} towards 0")
    return Schedule(torch.cat([listed / TIMESTEPS, listed.new_zeros(1)]), listed)


def guided(without: Tensor, with_text: Tensor, scale: float) -> Tensor:
    """Return the classifier-free guided velocity u + scale (c - u): the one place that joins the halves."""
    return without + scale * (with_text - without)


def euler_path(
    velocity: Callable[[Tensor, float], Tensor], x: Tensor, sigmas: Sequence[float]
) -> list[Tensor]:
    """Return x at every level, from the first to the last: x <- x - (s - s') v(x, s).

    velocity: `(x, s) -> v` like x, every frame at the same level s. sigmas: falling noise levels; a single
    one leaves x as it is. The embedded worlds' sampler, their distillation and contact sheets walk here.
    """
    path = [x]
    for sigma, after in pairwise(sigmas):
        path.append(path[-1] - (sigma - after) * velocity(path[-1], sigma))
    return path


def clean_path(clean: Callable[[Tensor, float], Tensor], x: Tensor, sigmas: Sequence[float]) -> Tensor:
    """Return x at the last level of a network aiming at clean frames: x <- (s'/s) x + (1 - s'/s) x_0(x, s).

    clean: `(x, s) -> x_0` like x. The same step as `euler_path` with v = (x - x_0) / s; it is taken in
    float32 and x keeps its dtype. The refiners walk here.
    """
    for sigma, after in pairwise(sigmas):
        keep = after / sigma
        x = (keep * x.float() + (1 - keep) * clean(x, sigma)).to(x.dtype)
    return x


def guide(network: Callable[..., Tensor], uncondition: Tensor, condition: Tensor, scale: float) -> Velocity:
    """Return the classifier-free guided velocity u + scale (c - u) of `network(x, timestep, starts, text)`.

    Both halves run as one batch, unconditional first; only the text differs. Scale 1 is one plain call.
    uncondition, condition: `(B, ...)`.
    """
    if scale == 1.0:
        return lambda x, timestep, starts: network(x, timestep, starts, condition)
    text = torch.cat([uncondition, condition])

    def both_halves(x: Tensor, timestep: Tensor, starts: Sequence[int]) -> Tensor:
        both = network(torch.cat([x, x]), torch.cat([timestep, timestep]), starts, text)
        without, with_text = both.chunk(2)
        return guided(without, with_text, scale)

    return both_halves


def guide_streaming(network: StreamingVelocity, scale: float) -> StreamingVelocity:
    """Return the guided form of a network with memory that holds a doubled batch, unconditional half first.

    Its text is the network's own affair (twice the batch); the state covers both halves.
    """
    if scale == 1.0:
        return network

    def both_halves(x: Tensor, timestep: Tensor, state: Any) -> tuple[Tensor, Any]:
        both, new_state = network(torch.cat([x, x]), torch.cat([timestep, timestep]), state)
        without, with_text = both.chunk(2)
        return guided(without, with_text, scale), new_state

    return both_halves


def flow_euler_ltx(
    velocity: Velocity,
    latents: Tensor,
    schedule: Schedule,
    *,
    held: Mapping[int, float] | None = None,
    noise: Noise | None = None,
) -> Tensor:
    """Return the clip `(B, C, T, h, w)` denoised as a whole, all free frames at the same step.

    latents: noise, with clean content in the held frames. held: frame -> weight w; such a frame has
    timestep 0 and never moves, and for w > 0 it is overwritten before each call by
    x_init + w s^2 noise(step), the last overwrite staying in the result. noise: `(B, C, T, h, w)` a step.
    """
    held = held or {}
    if noise is None and any(weight > 0 for weight in held.values()):
        raise ValueError(f"held frames {dict(held)} have weights above 0, which need noise(step)")
    free = _free_frames(latents, held)
    x = latents
    for step, (sigma, after) in enumerate(_pairs(schedule)):
        for frame, weight in held.items():
            if noise is not None and weight > 0:
                x = x.clone()
                x[:, :, frame] = latents[:, :, frame] + weight * sigma**2 * noise(step)[:, :, frame]
        v = velocity(x, _timesteps(x, free * schedule.timesteps[step]), (0,))
        x = euler_step(x, v, free * sigma, free * after)
    return x


def chunk_offsets(chunks: int, steps: int, interval: float | None = None) -> list[int]:
    """Return the global step at which each chunk starts: int(i * interval * steps), interval 1/chunks.

    See docs/reference/pipeline.md#solvers.
    """
    interval = 1 / chunks if interval is None else interval
    return [int((i * interval) * steps) for i in range(chunks)]  # float64, in this order


def chunk_flow_euler(
    velocity: Velocity,
    latents: Tensor,
    schedule: Schedule,
    *,
    starts: Sequence[int],
    interval: float | None = None,
    held: Mapping[int, float] | None = None,
) -> Tensor:
    """Return the clip `(B, C, T, h, w)` denoised chunk after chunk, each started before the last is done.

    Every call sees all chunks begun so far, finished ones as clean context at timestep 0. starts: first
    frame of every chunk. interval: stagger in units of a whole schedule, 1/chunks if None.
    """
    steps = len(schedule.timesteps)
    offsets = chunk_offsets(len(starts), steps, interval)
    bounds = [*starts, latents.shape[2]]
    levels = torch.cat([schedule.timesteps, schedule.timesteps.new_zeros(1)])  # (K+1,), 0 = finished
    free = _free_frames(latents, held or {})
    x = latents
    for step in range(offsets[-1] + steps):
        active = [i for i, offset in enumerate(offsets) if offset <= step]
        end = bounds[len(active)]
        index = torch.cat(
            [torch.full((bounds[i + 1] - bounds[i],), min(step - offsets[i], steps)) for i in active]
        )  # (end,) step of every frame
        following = (index + 1).clamp_max(steps)
        v = velocity(x[:, :, :end], _timesteps(x, free[:end] * levels[index]), tuple(starts[: len(active)]))
        moved = euler_step(
            x[:, :, :end], v, free[:end] * schedule.sigmas[index], free[:end] * schedule.sigmas[following]
        )
        x = torch.cat([moved, x[:, :, end:]], dim=2)
    return x


def denoise_chunk(
    network: StreamingVelocity,
    latents: Tensor,
    state: State,
    schedule: Schedule,
    *,
    held: Sequence[int] = (),
    rule: Solver = "euler",
    noise: Noise | None = None,
) -> tuple[Tensor, State]:
    """Return one clean streaming chunk `(B, C, n, h, w)` and the state after it.

    Denoising calls read the state and drop the one returned; one more call on the clean chunk at timestep 0
    gives the state that is kept. rule: euler is deterministic; renoise jumps to x_0 and adds fresh noise,
    x <- (1 - s') (x - s v) + s' noise(step), as in distillation. held: frames of this chunk that stay.
    """
    if rule not in ("euler", "renoise"):
        raise ValueError(f"unknown rule {rule!r}; known are euler, renoise")
    if rule == "renoise" and noise is None:
        raise ValueError("rule 'renoise' needs noise(step)")
    free = _free_frames(latents, dict.fromkeys(held, 0.0))
    x = latents
    for step, (sigma, after) in enumerate(_pairs(schedule)):
        v, _ = network(x, _timesteps(x, free * schedule.timesteps[step]), state)
        if rule == "euler" or noise is None:
            x = euler_step(x, v, free * sigma, free * after)
        else:
            clean = euler_step(x, v, free * sigma, torch.zeros_like(free))
            x = _mix(clean, noise(step), free * after)
    _, state = network(x, torch.zeros(x.shape[0], x.shape[2], device=x.device), state)
    return x, state


def stream(
    network: StreamingVelocity,
    latents: Tensor,
    state: State,
    schedule: Schedule,
    *,
    bounds: Sequence[int],
    held: Sequence[int] = (),
    rule: Solver = "euler",
    noise: Callable[[int, int], Tensor] | None = None,
) -> tuple[Tensor, State]:
    """Return a clip `(B, C, T, h, w)` denoised chunk by chunk, and the state after it.

    bounds: chunk boundaries, 0 first and T last. noise: `(chunk, step) ->` noise like that chunk.
    """
    chunks = []
    for chunk, (start, end) in enumerate(pairwise(bounds)):
        chunk_noise = None if noise is None else lambda step, chunk=chunk: noise(chunk, step)  # type: ignore[misc]
        inside = [frame - start for frame in held if start <= frame < end]
        clean, state = denoise_chunk(
            network, latents[:, :, start:end], state, schedule, held=inside, rule=rule, noise=chunk_noise
        )
        chunks.append(clean)
    return torch.cat(chunks, dim=2), state


def euler_step(x: Tensor, v: Tensor, sigma: Tensor, after: Tensor) -> Tensor:
    """Return x + (s' - s) v in float32, cast back; sigma, after `(T,)` per frame."""
    delta = _per_frame(after - sigma, x)
    return (x.float() + delta * v.float()).to(x.dtype)


def _mix(clean: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
    level = _per_frame(sigma, clean)
    return ((1 - level) * clean.float() + level * noise.float()).to(clean.dtype)


def _per_frame(values: Tensor, x: Tensor) -> Tensor:
    return placed(values, x.device, torch.float32)[:, None, None]  # (T, 1, 1), against (B, C, T, h, w)


def _timesteps(x: Tensor, per_frame: Tensor) -> Tensor:
    return placed(per_frame, x.device, torch.float32).expand(x.shape[0], -1)  # (B, T)


def _pairs(schedule: Schedule) -> list[tuple[float, float]]:
    return list(pairwise(schedule.sigmas.tolist()))


def _free_frames(latents: Tensor, held: Mapping[int, float]) -> Tensor:
    """Return `(T,)` float64, 0 on held frames and 1 elsewhere."""
    free = torch.ones(latents.shape[2], dtype=torch.float64)
    outside = [frame for frame in held if not 0 <= frame < len(free)]
    if outside:
        raise ValueError(f"held frames {outside} are outside the clip of {len(free)} latent frames")
    free[list(held)] = 0.0
    return free
