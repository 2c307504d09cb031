"""One streaming step of the released pipeline with random weights: seconds, calls and memory.

The step is `ReleasedWorld.step_chunk` itself: noise, camera, 4 denoising calls of stage 1 and the one that
commits the chunk, and with the refiner its 3 calls and its commit. What other libraries bring is stood in
for: the text encoders by random features, the autoencoder by a decoder that shows nothing, so that its time
and memory are not in the numbers.

Weights are drawn on the device, in the dtype they are used in; the host never holds them.
"""

from __future__ import annotations

import dataclasses
import statistics
import time
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from wm_env.kernels.frame_gdn import resolve_impl
from wm_env.model.config import DiTConfig, sana_wm
from wm_env.model.dit import DiT
from wm_env.model.refiner.ltx2 import LTX2Config, LTX2Refiner
from wm_env.model.released.measure.budget import Box
from wm_env.model.released.parts import ReleasedParts
from wm_env.model.released.presets import MAX_TRANSLATION, TRAINED_STEPS
from wm_env.model.released.rollout import ReleasedState, ReleasedWorld, streaming_sampler
from wm_env.model.released.variants import FRAME_SIZE, transformer_config
from wm_env.model.state import leaves, nbytes
from wm_env.model.text import TextTokens
from wm_env.model.vae.ltx2 import LTX2VAE, DecodeState, EncodeState
from wm_env.model.world import Start, WorldSpec

GIB = 2**30
SPATIAL = 32  # pixels of a latent, in both directions
STEPS = 9  # timed steps at most


@dataclass(frozen=True, kw_only=True)
class Size:
    """Shapes of a pipeline. text: tokens of a prompt in stage 1 and in the refiner."""

    dit: DiTConfig
    refiner: LTX2Config
    frame_size: tuple[int, int]
    text: tuple[int, int]


FULL = Size(
    dit=transformer_config("streaming"), refiner=LTX2Config(), frame_size=FRAME_SIZE, text=(300, 1024)
)
TOY = Size(
    dit=dataclasses.replace(sana_wm(), hidden=64, heads=4, depth=4, caption_channels=24, latent_channels=8),
    refiner=LTX2Config(
        latent_channels=8, heads=2, head_dim=24, layers=2, caption_channels=24, history_frames=4
    ),
    frame_size=(64, 96),
    text=(12, 16),
)


class RandomText:
    """Random features in place of a text encoder, the same for every prompt."""

    def __init__(self, length: int, width: int) -> None:
        self.features = torch.randn(1, length, width, generator=torch.Generator().manual_seed(0))

    def encode(self, prompts: Sequence[str]) -> TextTokens:
        tokens = self.features.expand(len(prompts), -1, -1)
        return TextTokens(tokens, torch.ones(tokens.shape[:2]))


class NoDecoder(LTX2VAE):
    """In place of the autoencoder: a random start latent, and frames of one black pixel."""

    def __init__(self, channels: int, temporal_ratio: int) -> None:
        self.module = nn.Identity()
        self.causal, self.channels = True, channels
        self.spatial_ratio, self.temporal_ratio = SPATIAL, temporal_ratio

    def encode_next(self, frames: Tensor, state: EncodeState | None) -> tuple[Tensor, EncodeState]:
        batch, _, height, width = frames.shape[:4]
        shape = (batch, self.channels, 1, height // SPATIAL, width // SPATIAL)
        return torch.randn(shape, generator=torch.Generator().manual_seed(0)), EncodeState(())

    def decode(self, latents: Tensor, state: DecodeState | None) -> tuple[Tensor, DecodeState]:
        frames = latents.shape[2] * self.temporal_ratio
        return torch.zeros(latents.shape[0], frames, 1, 1, 3, dtype=torch.uint8), DecodeState(())


def random_weights(build: Callable[[], nn.Module], device: str, dtype: torch.dtype) -> nn.Module:
    """Return a frozen network of small random weights, norms near 1, drawn on the device from one seed."""
    with torch.device("meta"):
        network = build()
    network = network.to(dtype).to_empty(device=device).eval().requires_grad_(False)
    random = torch.Generator(device).manual_seed(0)
    for name, parameter in network.named_parameters():
        parameter.normal_(1.0 if "norm" in name else 0.0, 0.02, generator=random)
    return network


class Networks:
    """The networks of one size on one device, each built when it is first asked for."""

    def __init__(self, size: Size, device: str, dtype: torch.dtype) -> None:
        self.size, self.device, self.dtype = size, device, dtype
        self.impl = resolve_impl("auto", device)
        self._dit: nn.Module | None = None
        self._refiner: nn.Module | None = None

    def world(self, *, refiner: bool) -> ReleasedWorld:
        """Return the streaming world; without a refiner, the one that was built is dropped first."""
        size = self.size
        if self._dit is None:
            self._dit = random_weights(lambda: DiT(size.dit, impl=self.impl), self.device, self.dtype)
        if not refiner:
            self._refiner = None
        elif self._refiner is None:
            self._refiner = random_weights(lambda: LTX2Refiner(size.refiner), self.device, self.dtype)
        assert isinstance(self._dit, DiT)
        assert self._refiner is None or isinstance(self._refiner, LTX2Refiner)
        parts = ReleasedParts(
            dit=self._dit,
            vae=NoDecoder(size.dit.latent_channels, size.dit.temporal_stride),
            text=RandomText(size.text[0], size.dit.caption_channels),
            refiner=self._refiner,
            refiner_text=RandomText(size.text[1], size.refiner.caption_channels) if refiner else None,
            device=self.device,
        )
        spec = WorldSpec(
            name="random weights",
            frames_per_step=size.dit.chunk_frames * size.dit.temporal_stride,
            frame_size=size.frame_size,
            max_translation=MAX_TRANSLATION,
            max_rotation_deg=0.0,
            trained_steps=TRAINED_STEPS,
            latent_shape=None,
        )
        return ReleasedWorld(spec=spec, parts=parts, sampler=streaming_sampler())

    def drop(self) -> None:
        """Let go of every network."""
        self._dit = self._refiner = None


class CallClock:
    """Seconds of every call of a network; the marks neither wait for the device nor copy."""

    def __init__(self, network: nn.Module, device: str) -> None:
        self.cuda = device != "cpu"
        self.marks: list[Any] = []
        self._hooks = [
            network.register_forward_pre_hook(lambda *_: self._mark()),
            network.register_forward_hook(lambda *_: self._mark()),
        ]

    def _mark(self) -> None:
        if self.cuda:
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            self.marks.append(event)
        else:
            self.marks.append(time.perf_counter())

    def take(self) -> list[float]:
        """Return the seconds of the calls since the last time; the device must be done with them."""
        marks, self.marks = self.marks, []
        pairs = zip(marks[::2], marks[1::2], strict=True)
        return [a.elapsed_time(b) / 1e3 if self.cuda else b - a for a, b in pairs]

    def close(self) -> None:
        for hook in self._hooks:
            hook.remove()


class Step(NamedTuple):
    """One step as timed: by the wall, and every call of every network; latent is what it showed last."""

    seconds: float
    calls: dict[str, list[float]]
    latent: Tensor


def wait(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize()


def poses(batch: int, chunk: int, frames: int) -> Tensor:
    """Return the poses `(B, K, 4, 4)` float64 of one chunk of a walk straight ahead, metres."""
    c2w = torch.eye(4, dtype=torch.float64).repeat(batch, frames, 1, 1)
    c2w[:, :, 2, 3] = MAX_TRANSLATION * torch.arange(1 + chunk * frames, 1 + (chunk + 1) * frames)
    return c2w


def begun(world: ReleasedWorld, batch: int) -> ReleasedState:
    """Return the state of `batch` slots before their first chunk; they differ in their noise."""
    height, width = world.spec.frame_size
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    focal = (width / 2, width / 2, width / 2, height / 2)
    told = [
        Start(image=image, intrinsics=focal, prompt="random features", noise_seed=slot)
        for slot in range(batch)
    ]
    return world.begin(told)[1]


def fill_steps(size: Size, refiner: bool) -> int:
    """Return how many steps pass until a step reads as much memory as every later one."""
    cfg = size.dit
    window = (cfg.window_chunks or 0) + 1  # the sink, the recent chunks, and one step that reads them
    history = -(-size.refiner.history_frames // cfg.chunk_frames) + 1
    return max(window, history) if refiner else window


def time_steps(networks: Networks, *, batch: int, refiner: bool, box: Box) -> dict[str, Any]:
    """Return seconds, calls and memory of a step once the memories are full.

    Steps are repeated while they fit the box, at least one. Each is timed by the wall, with the device idle
    before and after it: what an agent waits for.
    """
    device, world = networks.device, networks.world(refiner=refiner)
    clocks = {"stage 1": CallClock(world.parts.dit, device)}
    if world.parts.refiner is not None:
        clocks["refiner"] = CallClock(world.parts.refiner, device)

    def step(state: ReleasedState, chunk: int) -> tuple[Step, ReleasedState]:
        c2w = poses(batch, chunk, world.spec.frames_per_step)
        wait(device)
        started = time.perf_counter()
        shown, state = world.step_chunk(state, c2w)
        wait(device)
        seconds = time.perf_counter() - started
        assert shown.latent is not None
        return Step(seconds, {name: calls.take() for name, calls in clocks.items()}, shown.latent), state

    try:
        state = begun(world, batch)
        wait(device)
        for calls in clocks.values():
            calls.take()  # those of the start
        warm = fill_steps(networks.size, refiner)
        filling: list[Step] = []
        for chunk in range(warm):
            taken, state = step(state, chunk)
            filling.append(taken)
        if device != "cpu":
            torch.cuda.reset_peak_memory_stats()
        timed: list[Step] = []
        while len(timed) < STEPS and (not timed or box.allows(1.1 * timed[-1].seconds)):
            taken, state = step(state, warm + len(timed))
            timed.append(taken)
    finally:
        for calls in clocks.values():
            calls.close()
    if not (bool(timed[-1].latent.isfinite().all()) and _finite(state)):
        raise RuntimeError("a step gave numbers that are not finite; its time says nothing")
    seconds = [taken.seconds for taken in timed]
    median = statistics.median(seconds)
    shown = world.spec.frames_per_step / world.spec.fps
    peak = None if device == "cpu" else torch.cuda.max_memory_allocated() / GIB
    found = (world.parts.dit, world.parts.refiner)
    return {
        "batch": batch,
        "refiner": refiner,
        "frame_size": list(world.spec.frame_size),
        "latents_per_step": networks.size.dit.chunk_frames,
        "dtype": str(networks.dtype).removeprefix("torch."),
        "frame_gdn": networks.impl,
        "parameters": sum(p.numel() for network in found if network for p in network.parameters()),
        "steps": len(seconds),
        "seconds_per_step": median,
        "seconds_fastest": min(seconds),
        "seconds_slowest": max(seconds),
        "first_step_seconds": filling[0].seconds,
        "seconds_shown_per_step": shown,
        "times_real_time": shown / median,
        "times_real_time_all_slots": batch * shown / median,
        "seconds_per_call": {
            name: [
                statistics.median(call) for call in zip(*(taken.calls[name] for taken in timed), strict=True)
            ]
            for name in clocks
        },
        "weights_gib": sum(p.nbytes for network in found if network for p in network.parameters()) / GIB,
        "state_gib": nbytes(state) / GIB,
        "peak_gib": peak,
        "outside_torch_gib": _outside_torch(device),
        "summary": f"{median:.4g} s a step, {shown / median:.2f}x real time"
        + ("" if peak is None else f", peak {peak:.1f} GiB"),
    }


def host_waits(networks: Networks, *, refiner: bool) -> dict[str, Any]:
    """Return where a step makes the host wait for the device, by file and line, and how often."""
    world = networks.world(refiner=refiner)
    state = begun(world, 1)
    frames = world.spec.frames_per_step
    warm = fill_steps(networks.size, refiner)
    for chunk in range(warm):
        _, state = world.step_chunk(state, poses(1, chunk, frames))
    wait(networks.device)
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            world.step_chunk(state, poses(1, warm, frames))
        finally:
            torch.cuda.set_sync_debug_mode(before)
    root = Path(__file__).resolve().parents[3]
    found = Counter(
        f"{_relative(Path(w.filename), root)}:{w.lineno}" for w in caught if "synchroniz" in str(w.message)
    )
    return {
        "refiner": refiner,
        "waits": dict(found.most_common()),
        "summary": f"{found.total()} waits in a step, at {len(found)} places",
    }


def busiest_kernels(networks: Networks, *, refiner: bool, count: int = 25) -> dict[str, Any]:
    """Return the device kernels that a step spends most of its time in, in milliseconds."""
    from torch.profiler import ProfilerActivity, profile

    world = networks.world(refiner=refiner)
    state = begun(world, 1)
    frames = world.spec.frames_per_step
    warm = fill_steps(networks.size, refiner)
    for chunk in range(warm):
        _, state = world.step_chunk(state, poses(1, chunk, frames))
    wait(networks.device)
    cuda = networks.device != "cpu"
    kinds = [ProfilerActivity.CUDA if cuda else ProfilerActivity.CPU]
    with profile(activities=kinds) as profiler:
        started = time.perf_counter()
        world.step_chunk(state, poses(1, warm, frames))
        wait(networks.device)
        wall = time.perf_counter() - started
    rows = []
    for event in profiler.key_averages():
        if cuda and not str(event.device_type).endswith("CUDA"):
            continue
        spent = event.self_device_time_total if cuda else event.self_cpu_time_total
        rows.append({"kernel": event.key[:120], "calls": event.count, "ms": spent / 1e3})
    rows.sort(key=lambda row: -row["ms"])
    busy = sum(row["ms"] for row in rows)
    return {
        "refiner": refiner,
        "wall_ms": wall * 1e3,
        "device_ms": busy,
        "launches": sum(row["calls"] for row in rows),
        "kernels": rows[:count],
        "summary": f"device busy {busy:.0f} of {wall * 1e3:.0f} ms",
    }


def _relative(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name


def _finite(state: ReleasedState) -> bool:
    return all(bool(leaf.isfinite().all()) for _, leaf in leaves(state.dit) if leaf.is_floating_point())


def _outside_torch(device: str) -> float | None:
    """Return the GiB of the device in use beside torch's own: other processes and the driver."""
    if device == "cpu":
        return None
    free, total = torch.cuda.mem_get_info()
    return (total - free - torch.cuda.memory_reserved()) / GIB
