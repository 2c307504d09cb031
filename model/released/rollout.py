"""ReleasedWorld: a released SANA-WM pipeline as one function from state to state.

See docs/reference/pipeline.md#streaming and docs/reference/pipeline.md#order-of-a-step.

A step is one chunk of 3 latent frames, 24 pixel frames:

    x <- noise(seed, chunk);  x <- denoise(x | state);  state <- state after the clean chunk, at timestep 0
    x <- refine(x | refiner memory)          with refiner "ltx2"
    frames <- causal decode(x | decoder state)

The first chunk of a stream has one latent frame more, the start image, which is held clean. Its own pixel
frame is not shown again: it was the start frame. Slots of a batch that are at their first chunk are computed
in one call and the others in another; everything else is batched.

True frames, of a context or shown later, are encoded, and enter every state as drawn ones do, chunk by chunk
at timestep 0, with sampler and refiner off. The stream then begins with the context's first frame: poses are
given to the network relative to that one, and its latent is the sink. The released weights have seen one true
latent in training; how well they go on from more is not measured (`wm-env bench context`).

The chunk-causal model was trained with every earlier chunk in the softmax window; here the window is bounded
(`window_chunks`, up to all chunks of a minute), so that a state has a constant size and slots at different
chunks share a batch.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from wm_env.model.camera import CameraInput, camera_input, clip_windows, own_windows
from wm_env.model.flow import (
    STUDENT_STEPS,
    Schedule,
    Solver,
    denoise_chunk,
    guided,
    listed_schedule,
    shifted_schedule,
)
from wm_env.model.geometry import check_rigid, invert_rigid
from wm_env.model.intrinsics import check_intrinsics
from wm_env.model.placement import placed
from wm_env.model.refiner.ltx2 import RefinerMemory, block_network
from wm_env.model.refiner.truncated import RefinerState, begin_blocks, commit_block, refine_block
from wm_env.model.released.parts import ReleasedParts
from wm_env.model.rollout_state import begin_by_length, chunk_noise
from wm_env.model.state import DiTState, cat, put, select, tree_map
from wm_env.model.text import TextTokens
from wm_env.model.vae.ltx2 import LTX2VAE, DecodeState, EncodeState
from wm_env.model.world import Chunk, Start, WorldSpec

_STREAMS = 1_000_003  # noise streams of one chunk: stage 1 start, re-noising steps, refiner


@dataclass(frozen=True, kw_only=True)
class ReleasedSampler:
    """How a chunk is drawn.

    timesteps: explicit list (the streaming student), or None for `steps` shifted levels. shift: of those
    levels. guidance: classifier-free scale, 1 for none. rule: "euler", or "renoise" as in distillation.
    """

    timesteps: tuple[float, ...] | None = STUDENT_STEPS
    steps: int = 4
    shift: float = 8.0
    guidance: float = 1.0
    rule: Solver = "euler"

    def __post_init__(self) -> None:
        if self.rule not in ("euler", "renoise"):
            raise ValueError(f"unknown rule {self.rule!r}; known are euler, renoise")
        if not self.guidance >= 0:
            raise ValueError(f"guidance={self.guidance} must be at least 0")
        self.schedule()

    def schedule(self) -> Schedule:
        if self.timesteps is None:
            return shifted_schedule(self.steps, self.shift)
        return listed_schedule(self.timesteps)


def streaming_sampler(rule: Solver = "euler") -> ReleasedSampler:
    """The distilled student: 4 listed steps, no guidance."""
    return ReleasedSampler(rule=rule)


def teacher_sampler(steps: int = 60) -> ReleasedSampler:
    """The chunk-causal and bidirectional models: 60 steps, shift 9.8, guidance 5."""
    return ReleasedSampler(timesteps=None, steps=steps, shift=9.8, guidance=5.0)


class ReleasedState(NamedTuple):
    """All that a rollout remembers, batch axis first.

    dit: transformer state after the chunks so far; dit_negative: that of the unconditional half, None
    without guidance. text: prompt of the coming chunks. start: `(B, C, 1, h, w)` latent of the stream's first
    frame, which is the start image or the first of a context. origin: its pose `(B, 4, 4)` float64 relative
    to the start, on the host. decode: decoder state after the newest frame. refiner, refiner_text: its memory
    and prompt, None without one. intrinsics `(B, 4)` in frame pixels. seed, chunk `(B,)` int64: the noise
    key. temperature `(B,)`.
    """

    dit: DiTState
    dit_negative: DiTState | None
    text: TextTokens
    start: Tensor
    origin: Tensor
    decode: DecodeState
    refiner: RefinerMemory | None
    refiner_text: TextTokens | None
    intrinsics: Tensor
    seed: Tensor
    chunk: Tensor
    temperature: Tensor


class ReleasedWorld:
    """The streaming or chunk-causal pipeline around released networks; meets the `World` protocol.

    Holds weights and settings; every method is a function of its arguments.
    """

    def __init__(self, *, spec: WorldSpec, parts: ReleasedParts, sampler: ReleasedSampler) -> None:
        cfg = parts.dit.cfg
        if not parts.vae.causal:
            raise ValueError(
                "stepping needs the causal LTX-2 autoencoder (decoder_causal in its config.json), of the "
                "streaming release; this one decodes whole clips only"
            )
        if cfg.window_chunks is None or not cfg.sink:
            raise ValueError("stepping needs a bounded softmax window with a sink (window_chunks, sink)")
        if sampler.guidance != 1.0 and parts.negative is None:
            raise ValueError("guidance needs an encoder of the negative prompt (negative=)")
        if spec.frames_per_step != cfg.chunk_frames * cfg.temporal_stride:
            raise ValueError(
                f"frames_per_step={spec.frames_per_step} is not chunk_frames x stride = "
                f"{cfg.chunk_frames * cfg.temporal_stride}"
            )
        self._spec, self.parts, self.sampler = spec, parts, sampler
        self.grid = latent_grid(spec.frame_size, parts.vae)

    @property
    def spec(self) -> WorldSpec:
        return self._spec

    @torch.inference_mode()
    def begin(self, starts: Sequence[Start]) -> tuple[Chunk, ReleasedState]:
        """Return the start chunk (the start images) and the state before the first chunk."""
        height, width = self._spec.frame_size
        for start in starts:
            if start.image.shape != (height, width, 3) or start.image.dtype.name != "uint8":
                raise ValueError(
                    f"the start image has shape {start.image.shape} and dtype {start.image.dtype}; expected "
                    f"uint8 ({height}, {width}, 3)"
                )
        intrinsics = torch.tensor([start.intrinsics for start in starts], dtype=torch.float64)
        check_intrinsics(intrinsics, height, width)
        return begin_by_length(self._begin, starts)

    def _begin(self, starts: Sequence[Start]) -> tuple[Chunk, ReleasedState]:
        """Return the same for starts whose contexts are of one length."""
        parts, batch = self.parts, len(starts)
        contexts = [start.context.load() for start in starts if start.context is not None]
        frames = [one.frames for one in contexts] or [start.image[None] for start in starts]
        film = torch.from_numpy(np.stack(frames))  # (B, F, H, W, 3)
        c2w = torch.eye(4, dtype=torch.float64).expand(batch, 1, 4, 4)
        if contexts:
            c2w = torch.from_numpy(np.stack([one.c2w for one in contexts])).double()
        prompts = [start.prompt for start in starts]
        with parts.at_work("encoder"):
            latent, seen = parts.vae.encode_next(film[:, :1], None)  # (B, C, 1, h, w)
        with parts.at_work("decoder"):
            _, decode = parts.vae.decode(latent, None)
        latent = latent.to(parts.device, parts.dtype)
        refiner_text = parts.encode_refiner_text(prompts)
        memory = None
        if parts.refiner is not None and refiner_text is not None:
            with parts.at_work("refiner"):
                memory = begin_blocks(block_network(parts.refiner, refiner_text), latent).memory
        if self.sampler.guidance != 1.0:
            _ = self._negative  # encoded now, while text encoders are at work, and not in the first step
        empty = parts.dit.empty_state(batch, self.grid, parts.dit.cfg.chunk_frames + 1)
        state = ReleasedState(
            dit=empty,
            dit_negative=None if self.sampler.guidance == 1.0 else empty,
            text=parts.encode_text(prompts),
            start=latent,
            origin=c2w[:, 0],
            decode=decode,
            refiner=memory,
            refiner_text=refiner_text,
            intrinsics=torch.tensor([s.intrinsics for s in starts], dtype=torch.float32, device=parts.device),
            seed=torch.tensor([start.noise_seed for start in starts]),
            chunk=torch.zeros(batch, dtype=torch.int64),
            temperature=torch.tensor([start.temperature for start in starts], device=parts.device),
        )
        if not contexts:
            return Chunk(film, latent[:, :, 0].float(), None), state
        chunk, after = self._show(state, film[:, 1:], c2w[:, 1:], seen)
        return chunk._replace(frames=film[:, -1:]), after

    @torch.inference_mode()
    def observe(self, state: ReleasedState, frames: Tensor, c2w: Tensor) -> tuple[Chunk, ReleasedState]:
        """Return the last K of true frames as a chunk, and the state with all of them committed.

        frames uint8 `(B, K n, H, W, 3)`, n >= 1, seen from poses c2w `(B, K n, 4, 4)` relative to the start.
        Nothing is drawn, and the noise goes on where it was.
        """
        check_rigid(c2w)
        with self.parts.at_work(
            "encoder"
        ):  # the film begins here: its first frame stands in for those before
            _, seen = self.parts.vae.encode_next(frames[:, :1], None)
        return self._show(state, frames, c2w, seen)

    def _show(
        self, state: ReleasedState, frames: Tensor, c2w: Tensor, seen: EncodeState
    ) -> tuple[Chunk, ReleasedState]:
        """Return what `observe` does; seen: the encoder's state before the frames."""
        chunk, step = None, self._spec.frames_per_step
        for own, poses in zip(frames.split(step, dim=1), c2w.split(step, dim=1), strict=True):
            with self.parts.at_work("encoder"):
                latents, seen = self.parts.vae.encode_next(own, seen)
            latents = latents.to(self.parts.device, self.parts.dtype)
            chunk, state = _by_opening(self._commit, state, poses, own, latents)
        if chunk is None:
            raise ValueError(f"no frames were shown; a world looks at {step} or more")
        return chunk, state

    @torch.inference_mode()
    def step_chunk(self, state: ReleasedState, c2w: Tensor) -> tuple[Chunk, ReleasedState]:
        """Return the chunk seen along poses `c2w` `(B, K, 4, 4)` relative to the start, and the state."""
        expected = (state.chunk.shape[0], self._spec.frames_per_step, 4, 4)
        if tuple(c2w.shape) != expected:
            raise ValueError(f"poses have shape {tuple(c2w.shape)}; expected {expected}")
        check_rigid(c2w)
        return _by_opening(self._step, state, c2w)

    def set_prompt(self, state: ReleasedState, prompts: Sequence[str | None]) -> ReleasedState:
        """Return the state with new prompts from the next chunk on; None keeps a slot's prompt."""
        slots = [i for i, prompt in enumerate(prompts) if prompt is not None]
        if not slots:
            return state
        said = [prompt for prompt in prompts if prompt is not None]
        text = put(state.text, slots, self.parts.encode_text(said))
        refiner_text = self.parts.encode_refiner_text(said)
        if state.refiner_text is not None and refiner_text is not None:
            refiner_text = put(state.refiner_text, slots, refiner_text)
        return state._replace(text=text, refiner_text=refiner_text)

    def set_noise_seed(self, state: ReleasedState, noise_seeds: Sequence[int]) -> ReleasedState:
        """Return the state whose next chunks draw their noise from the given seeds."""
        return state._replace(seed=torch.tensor(list(noise_seeds), dtype=torch.int64))

    def _step(self, state: ReleasedState, c2w: Tensor, *, opening: bool) -> tuple[Chunk, ReleasedState]:
        """Return a drawn chunk and the state after it; opening: it is the first of its stream."""
        parts, cfg = self.parts, self.parts.dit.cfg
        camera = self._camera(state, c2w, opening)
        shape = (cfg.latent_channels, cfg.chunk_frames + opening, *self.grid)
        x = self._noise(state, 0, shape)
        if opening:
            x = torch.cat([state.start, x[:, :, 1:]], dim=2)
        x, (dit, negative) = denoise_chunk(
            self._network(state, camera),
            x,
            (state.dit, state.dit_negative),
            self.sampler.schedule(),
            held=(0,) if opening else (),
            rule=self.sampler.rule,
            noise=lambda step: self._noise(state, 1 + step, shape),
        )
        x = x[:, :, -cfg.chunk_frames :]  # (B, C, n, h, w)
        memory = state.refiner
        if parts.refiner is not None and state.refiner_text is not None:
            network = block_network(parts.refiner, state.refiner_text)
            denoise = block_network(parts.refiner, state.refiner_text, keep=False)
            noise = self._noise(state, -1, tuple(x.shape[1:]))
            with parts.at_work("refiner"):
                x, after = refine_block(network, x, RefinerState(0, memory), noise, denoise=denoise)
            memory = after.memory
        with parts.at_work("decoder"):
            pixels, decode = parts.vae.decode(x, state.decode)
        dit, negative = tree_map(_owned, (dit, negative))
        moved = state._replace(
            dit=dit, dit_negative=negative, decode=decode, refiner=memory, chunk=state.chunk + 1
        )
        return Chunk(pixels, x[:, :, -1].float(), None), moved

    def _commit(
        self, state: ReleasedState, c2w: Tensor, frames: Tensor, x: Tensor, *, opening: bool
    ) -> tuple[Chunk, ReleasedState]:
        """Return a true chunk, frames `(B, K, H, W, 3)` of latents x `(B, C, n, h, w)`, and its state."""
        parts = self.parts
        whole = torch.cat([state.start, x], dim=2) if opening else x
        network = self._network(state, self._camera(state, c2w, opening))
        clean = torch.zeros(whole.shape[0], whole.shape[2], device=whole.device)
        _, (dit, negative) = network(whole, clean, (state.dit, state.dit_negative))
        memory = state.refiner
        if parts.refiner is not None and state.refiner_text is not None:
            with parts.at_work("refiner"):
                refiner = block_network(parts.refiner, state.refiner_text)
                memory = commit_block(refiner, x, RefinerState(0, memory)).memory
        with parts.at_work("decoder"):
            _, decode = parts.vae.decode(x, state.decode)
        dit, negative = tree_map(_owned, (dit, negative))
        moved = state._replace(dit=dit, dit_negative=negative, decode=decode, refiner=memory)
        return Chunk(frames, x[:, :, -1].float(), None), moved

    def _network(self, state: ReleasedState, camera: CameraInput) -> Any:
        """Return `(x, timestep, (state, negative state)) -> (velocity, states)`, guided where asked for.

        The two halves run one after the other, so that each keeps a state of the batch's own size.
        """
        dit, scale = self.parts.dit, self.sampler.guidance
        if scale == 1.0:

            def network(x: Tensor, timestep: Tensor, states: Any) -> tuple[Tensor, Any]:
                v, after = dit(x, timestep, state.text, camera, states[0])
                return v, (after, None)

            return network
        batch = len(state.seed)
        nothing = tree_map(lambda leaf: leaf.expand(batch, *leaf.shape[1:]), self._negative)

        def both_halves(x: Tensor, timestep: Tensor, states: Any) -> tuple[Tensor, Any]:
            without, negative = dit(x, timestep, nothing, camera, states[1])
            with_text, after = dit(x, timestep, state.text, camera, states[0])
            return guided(without, with_text, scale), (after, negative)

        return both_halves

    @functools.cached_property
    def _negative(self) -> TextTokens:
        """The features of the negative prompt, which every step needs: `(1, L, E)` and `(1, L)`."""
        return self.parts.encode_negative(1)

    def _noise(self, state: ReleasedState, stream: int, shape: tuple[int, ...]) -> Tensor:
        """Return noise `(B, *shape)`: a function of (seed, chunk, stream), scaled by the temperature."""
        noise = chunk_noise(state.seed + stream * _STREAMS, state.chunk, shape)
        noise = placed(noise, self.parts.device) * state.temperature[:, None, None, None, None]
        return noise.to(self.parts.dtype)

    def _camera(self, state: ReleasedState, c2w: Tensor, opening: bool) -> CameraInput:
        """Return the conditioning of one chunk from its own pixel frames' poses `(B, K, 4, 4)`.

        The network is told poses relative to the stream's first frame, which the opening chunk holds too.
        """
        cfg = self.parts.dit.cfg
        stride, c2w = cfg.temporal_stride, invert_rigid(state.origin)[:, None] @ c2w.double()
        poses = placed(c2w, self.parts.device, torch.float32)
        if opening:
            start = torch.eye(4, device=poses.device).expand(poses.shape[0], 1, 4, 4)
            poses = torch.cat([start, poses], dim=1)
        windows = clip_windows(poses.shape[1], stride) if opening else own_windows(cfg.chunk_frames, stride)
        size, dtype = self._spec.frame_size, self.parts.camera_dtype
        return camera_input(poses, state.intrinsics, size, self.grid, windows, dtype)


def _owned(leaf: Tensor) -> Tensor:
    """Return a tensor of a state with memory of its own: a slice would keep all that it was cut from."""
    return leaf if leaf.untyped_storage().nbytes() == leaf.nbytes else leaf.clone()


def _by_opening(
    make: Callable[..., tuple[Chunk, ReleasedState]], state: ReleasedState, *given: Tensor
) -> tuple[Chunk, ReleasedState]:
    """Return `make(state, *given, opening=)`: slots at the first chunk of their stream are made apart."""
    fresh = state.dit.frame == 0
    if bool(fresh.all()) or not bool(fresh.any()):
        return make(state, *given, opening=bool(fresh.all()))
    chunks, after = [], state
    parts = ((fresh.nonzero()[:, 0], True), ((~fresh).nonzero()[:, 0], False))
    for slots, opening in parts:
        chunk, moved = make(select(state, slots), *select(given, slots), opening=opening)
        chunks.append(chunk)
        after = put(after, slots, moved)
    order = torch.cat([slots for slots, _ in parts]).argsort()
    return select(cat(chunks), order), after


def latent_grid(frame_size: tuple[int, int], vae: LTX2VAE) -> tuple[int, int]:
    """Return the latent rows and columns of a frame size; raise where it does not divide."""
    height, width = frame_size
    if height % vae.spatial_ratio or width % vae.spatial_ratio:
        raise ValueError(
            f"frames of {width}x{height} do not divide into latents of {vae.spatial_ratio} pixels"
        )
    return height // vae.spatial_ratio, width // vae.spatial_ratio
