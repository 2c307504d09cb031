"""LearnedWorld: the transformer, autoencoder, memory and refiner as one function from state to state.

One chunk (of one latent frame in the embedded worlds), each line a method:

    look      view <- camera, and the point memory seen from the new poses
    draw      x <- noise(seed, chunk)                every random number is a function of these two
              for sigma_i > sigma_{i+1}:  x <- x - (sigma_i - sigma_{i+1}) v(x, sigma_i | state, view)
    decode    pixels <- decode(x | the latent before)
    refine    pixels <- refine(pixels, view)
    commit    state <- state after the clean chunk

The clean chunk has to pass through the transformer once more to enter the state
(docs/reference/pipeline.md#streaming). That pass is not run on its own: the chunk stays `pending` and is
committed in the first call of the next step, as the first of two chunks in one causal forward. The result is
the same and a step costs one call less.

A world is told the start image, its intrinsics, a prompt and a seed, and, if there is a context, the posed
pictures before it, nothing else; the depth of all of them is predicted. Poses come in relative to the start
frame. A context is committed chunk by chunk as if it had been drawn, with the sampler off.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from wm_env.model.camera import CameraInput, camera_input, own_windows
from wm_env.model.chunks import causal, cut_at
from wm_env.model.dit import DiT
from wm_env.model.flow import euler_path
from wm_env.model.pixels import metric_depth, to_pixels, to_rgb, within_range
from wm_env.model.point_memory import MemoryState, memory_tokens, read_memory, start_memory, write_memory
from wm_env.model.refiner.tiny import TinyRefiner
from wm_env.model.state import DiTState, GDNState, cat, select, tree_map
from wm_env.model.text import TextEncoder, TextTokens
from wm_env.model.vae.tiny import DecodeState, TinyVAE
from wm_env.model.world import Chunk, Start, WorldSpec

Ablation = Literal["dit", "gdn_state", "memory"]
ABLATIONS: tuple[Ablation, ...] = ("dit", "gdn_state", "memory")
COMMITTED_AT_ONCE = 32  # chunks of a context in one call, which bounds its memory


@dataclass(frozen=True, kw_only=True)
class SamplerConfig:
    """How a chunk is drawn: noise levels from 1 down to 0, and the level the committed history claims.

    history_timestep: timestep in [0, 1000] given with a committed chunk. The released model uses 0; the
    embedded ones are trained on corrupted history and told by how much.
    """

    sigmas: tuple[float, ...] = (1.0, 0.0)
    history_timestep: int = 0

    def __post_init__(self) -> None:
        falling = all(a > b for a, b in zip(self.sigmas, self.sigmas[1:], strict=False))
        if len(self.sigmas) < 2 or not falling or self.sigmas[-1] != 0 or self.sigmas[0] > 1:
            raise ValueError(f"sigmas={self.sigmas} must fall from at most 1 to exactly 0")
        if not 0 <= self.history_timestep <= 1000:
            raise ValueError(f"history_timestep={self.history_timestep} must be in 0..1000")


class ChunkInput(NamedTuple):
    """One chunk as the transformer sees it: latent `(B, C, 1, h, w)`, camera, memory tokens or None, text."""

    latent: Tensor
    camera: CameraInput
    memory: Tensor | None
    text: TextTokens


class View(NamedTuple):
    """What is known of a chunk before it is drawn.

    c2w `(B, K, 4, 4)`: poses of its pixel frames. camera: their conditioning. warped `(B, K, 5, H, W)`: what
    the point memory shows from them, and tokens `(B, 1, N, M)` of its last frame; None without a memory.
    """

    c2w: Tensor
    camera: CameraInput
    tokens: Tensor | None
    warped: Tensor | None


class RolloutState(NamedTuple):
    """All that a rollout remembers, batch axis first.

    dit: transformer state before `pending`, the newest chunk, which is not committed yet. text: prompt of the
    coming chunks. decode, memory: state of the decoder and of the point memory (None without one).
    intrinsics `(B, 4)` in frame pixels. seed, chunk `(B,)` int64: the noise key. temperature `(B,)`.
    """

    dit: DiTState
    pending: ChunkInput
    text: TextTokens
    decode: DecodeState
    memory: MemoryState | None
    intrinsics: Tensor
    seed: Tensor
    chunk: Tensor
    temperature: Tensor


def chunk_noise(seed: Tensor, chunk: Tensor, shape: tuple[int, ...], stream: int = 0) -> Tensor:
    """Return standard normal noise `(B, *shape)`: slot b's depends on (seed[b], chunk[b], stream) alone.

    stream: 0 for the latents, 1 for the refiner.
    """
    pairs = zip(seed.tolist(), chunk.tolist(), strict=True)
    own = stream * 0x94D049BB133111EB
    keys = [(s * 0x9E3779B97F4A7C15 + c * 0xBF58476D1CE4E5B9 + own) % 2**63 for s, c in pairs]
    return torch.stack([torch.randn(shape, generator=torch.Generator().manual_seed(key)) for key in keys])


class LearnedWorld:
    """The embedded pipeline (TinyVAE, optional point memory and refiner) around a `DiT`.

    Holds weights and settings; every method is a function of its arguments. dtype: float32, or bfloat16 for
    the products inside transformer, decoder and refiner after the start; states, geometry and sums stay
    float32.
    """

    def __init__(
        self,
        *,
        spec: WorldSpec,
        dit: DiT,
        vae: TinyVAE,
        refiner: TinyRefiner | None,
        text: TextEncoder,
        sampler: SamplerConfig,
        ablate: Ablation | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        if ablate is not None and ablate not in ABLATIONS:
            raise ValueError(f"ablate={ablate!r} is unknown; choose one of {ABLATIONS} or None")
        if ablate == "memory" and not dit.cfg.memory_channels:
            raise ValueError("ablate='memory': this world has no 3D memory to remove")
        if refiner is not None and not dit.cfg.memory_channels:
            raise ValueError("the pixel refiner reads the 3D memory, which this world does not have")
        self.spec = spec
        self.dit, self.vae, self.refiner, self.text = dit, vae, refiner, text
        self.sampler, self.ablate, self.dtype = sampler, ablate, dtype
        self.device = dit.latent_in.weight.device

    @torch.inference_mode()
    def begin(self, starts: Sequence[Start]) -> tuple[Chunk, RolloutState]:
        """Return the start images as a chunk of one frame, and the state before the first step.

        Slots with contexts of one length are committed together.
        """
        lengths = [0 if start.context is None else start.context.length for start in starts]
        groups = [
            [slot for slot, own in enumerate(lengths) if own == length] for length in sorted(set(lengths))
        ]
        begun = [self._begin([starts[slot] for slot in slots]) for slots in groups]
        if len(begun) == 1:
            return begun[0]
        order = torch.tensor([slot for slots in groups for slot in slots]).argsort().tolist()
        chunk, state = (select(cat(list(parts)), order) for parts in zip(*begun, strict=True))
        return chunk, state

    def _begin(self, starts: Sequence[Start]) -> tuple[Chunk, RolloutState]:
        """Return the same for starts whose contexts are of one length."""
        contexts = [start.context.load() for start in starts if start.context is not None]
        first = [one.frames[0] for one in contexts] or [start.image for start in starts]
        images = torch.stack([torch.from_numpy(np.array(image)) for image in first]).to(self.device)
        intrinsics = torch.tensor([start.intrinsics for start in starts], device=self.device)  # (B, 4)
        latent, depth, pixels = self.vae.encode_image(images, intrinsics)
        pose = torch.eye(4, dtype=torch.float64).repeat(len(starts), self.spec.frames_per_step, 1, 1)
        if contexts:
            pose = torch.from_numpy(np.stack([one.c2w[:1] for one in contexts])).expand_as(pose)
        text = tree_map(lambda x: x.to(self.device), self.text.encode([start.prompt for start in starts]))
        memory, tokens = None, None
        if self.dit.cfg.memory_channels:
            memory = start_memory(pixels, pose[:, 0].to(self.device))
            tokens = torch.zeros(len(starts), 1, latent[0, 0].numel(), self.dit.cfg.memory_channels)
            tokens = tokens.to(self.device)
        state = RolloutState(
            dit=self.dit.empty_state(len(starts), (latent.shape[-2], latent.shape[-1])),
            pending=ChunkInput(latent[:, :, None], self._camera(pose, intrinsics), tokens, text),
            text=text,
            decode=self.vae.start_decoding(latent),
            memory=memory,
            intrinsics=intrinsics,
            seed=torch.tensor([start.noise_seed for start in starts]),
            chunk=torch.zeros(len(starts), dtype=torch.int64),
            temperature=torch.tensor([start.temperature for start in starts], device=self.device),
        )
        if not contexts:
            return Chunk(images[:, None], latent, depth[:, None]), state
        frames = torch.from_numpy(np.stack([one.frames[1:] for one in contexts]))
        c2w = torch.from_numpy(np.stack([one.c2w[1:] for one in contexts])).double()
        chunk, after = self.observe(state, frames, c2w)
        return chunk._replace(frames=chunk.frames[:, -1:], depth=_present(chunk.depth)[:, -1:]), after

    @torch.inference_mode()
    def observe(self, state: RolloutState, frames: Tensor, c2w: Tensor) -> tuple[Chunk, RolloutState]:
        """Return the last K of true frames as a chunk, and the state with all of them committed.

        frames uint8 `(B, K n, h, w, 3)`, n >= 1, seen from poses c2w `(B, K n, 4, 4)` relative to the start;
        their depth is predicted, one by one. Nothing is drawn, and the noise goes on where it was.
        """
        step = self.spec.frames_per_step
        frames = frames.to(self.device)
        every = state.intrinsics.repeat_interleave(frames.shape[1], dim=0)
        depth = self.vae.predict_depth(frames.flatten(0, 1), every).unflatten(0, frames.shape[:2])
        chunks = to_pixels(frames, depth).unflatten(1, (-1, step))  # (B, n, K, 4, H, W)
        latents = self.vae.encode_groups(chunks.flatten(0, 1)).unflatten(0, chunks.shape[:2])
        pending = [state.pending]
        memory = state.memory
        for t, poses in enumerate(c2w.to(self.device).split(step, dim=1)):
            tokens = None
            if memory is not None:
                tokens = memory_tokens(self._remembered(memory, poses[:, -1:], state.intrinsics))
                memory = write_memory(memory, within_range(chunks[:, t, -1]), poses[:, -1])
            camera = self._camera(poses, state.intrinsics)
            pending.append(ChunkInput(latents[:, t, :, None], camera, tokens, state.text))
        dit = state.dit
        for first in range(0, len(pending) - 1, COMMITTED_AT_ONCE):
            dit = self.after(dit, pending[:-1][first : first + COMMITTED_AT_ONCE])
        after = state._replace(
            dit=dit, pending=pending[-1], decode=self.vae.start_decoding(latents[:, -1]), memory=memory
        )
        return Chunk(frames[:, -step:], latents[:, -1], depth[:, -step:]), after

    @torch.inference_mode()
    def step_chunk(self, state: RolloutState, c2w: Tensor) -> tuple[Chunk, RolloutState]:
        """Return the chunk along poses `c2w` `(B, K, 4, 4)`, relative to the start, and the new state."""
        view = self.look(state, c2w)
        latent, dit = self.draw(state, view)
        pixels = self.refine(state, self.decode(state, latent), view)
        after = self.commit(state, view, latent, pixels[:, -1], dit)
        return Chunk(to_rgb(pixels), latent, metric_depth(pixels[:, :, 3])), after

    @torch.inference_mode()
    def look(self, state: RolloutState, c2w: Tensor) -> View:
        """Return what is known of a chunk before it is drawn, along poses `c2w` `(B, K, 4, 4)`."""
        c2w = c2w.to(self.device)
        warped, tokens = None, None
        if state.memory is not None:
            warped = self._remembered(state.memory, c2w, state.intrinsics)
            tokens = memory_tokens(warped[:, -1:])
        return View(c2w, self._camera(c2w, state.intrinsics), tokens, warped)

    @torch.inference_mode()
    def draw(self, state: RolloutState, view: View) -> tuple[Tensor, DiTState]:
        """Return the latent `(B, C, h, w)` of a chunk, and the transformer's state with the one before it.

        The chunk that is still `pending` is committed in the first of the sampler's calls.
        """
        pending, sampler = state.pending, self.sampler
        shape = tuple(pending.latent.shape[1:])
        noise = chunk_noise(state.seed, state.chunk, shape).to(self.device)  # (B, C, 1, h, w)
        x = noise * state.temperature[:, None, None, None, None]
        both = ChunkInput(
            torch.cat([pending.latent, x], dim=2),
            tree_map(_join_times, pending.camera, view.camera),
            None if view.tokens is None else torch.cat([_present(pending.memory), view.tokens], dim=1),
            tree_map(lambda a, b: torch.stack([a, b], dim=1), pending.text, state.text),  # (B, 2, L, ...)
        )
        history = torch.full((x.shape[0], 1), float(sampler.history_timestep), device=self.device)
        levels = torch.cat([history, torch.full_like(history, 1000 * sampler.sigmas[0])], dim=1)
        with self.precision():
            velocity, states = self.dit(
                both.latent, levels, both.text, both.camera, self._without_ablated(state.dit),
                memory=both.memory, chunks=causal(2),
            )  # fmt: skip
        committed = tree_map(lambda leaf: _float32(leaf[:, 0]), states)
        if self.ablate == "dit":
            return pending.latent[:, :, 0], committed
        first = velocity[:, :, 1:]

        def later(x: Tensor, sigma: float) -> Tensor:
            level = torch.full((x.shape[0], 1), 1000 * sigma, device=self.device)
            with self.precision():
                return self.dit(x, level, state.text, view.camera, committed, memory=view.tokens)[0]

        x = euler_path(lambda x, _: first, x, sampler.sigmas[:2])[-1]
        x = euler_path(later, x, sampler.sigmas[1:])[-1]
        return x[:, :, 0], committed

    @torch.inference_mode()
    def decode(self, state: RolloutState, latent: Tensor) -> Tensor:
        """Return the pixels `(B, K, 4, H, W)` (r, g, b, d) of a chunk's latent `(B, C, h, w)`."""
        with self.precision():
            pixels, _ = self.vae.decode(latent, state.decode)
        return pixels

    @torch.inference_mode()
    def refine(self, state: RolloutState, pixels: Tensor, view: View) -> Tensor:
        """Return decoded pixels float32 after the refiner, as they are in a world without one."""
        if self.refiner is not None and view.warped is not None:
            with self.precision():
                pixels = self.refiner(pixels, view.warped, self._refiner_noise(state, pixels))
        return pixels.float()

    @torch.inference_mode()
    def commit(
        self, state: RolloutState, view: View, latent: Tensor, last: Tensor, dit: DiTState
    ) -> RolloutState:
        """Return the state after a chunk, drawn or true: nothing is drawn here.

        latent `(B, C, h, w)` of the chunk; last `(B, 4, H, W)`: pixels of its last frame. dit: the
        transformer's state with the chunk before it, as `draw` and `after` return it.
        """
        memory = state.memory
        if memory is not None:
            memory = write_memory(memory, within_range(last), view.c2w[:, -1])
        return state._replace(
            dit=dit,
            pending=ChunkInput(latent[:, :, None], view.camera, view.tokens, state.text),
            decode=self.vae.start_decoding(latent),
            memory=memory,
            chunk=state.chunk + 1,
        )

    @torch.inference_mode()
    def after(self, dit: DiTState, chunks: Sequence[ChunkInput]) -> DiTState:
        """Return the transformer's state with clean chunks committed one after the other, in one call."""
        if self.ablate == "gdn_state" and len(chunks) > 1:  # nothing is carried from one to the next
            for chunk in chunks:
                dit = self.after(dit, [chunk])
            return dit
        latent = torch.cat([chunk.latent for chunk in chunks], dim=2)
        level = torch.full((latent.shape[0], 1), float(self.sampler.history_timestep), device=self.device)
        camera = tree_map(_join_times, *(chunk.camera for chunk in chunks))
        text = tree_map(lambda *parts: torch.stack(parts, dim=1), *(chunk.text for chunk in chunks))
        tokens = None
        if chunks[0].memory is not None:
            tokens = torch.cat([_present(chunk.memory) for chunk in chunks], dim=1)
        with self.precision():
            _, after = self.dit(
                latent, level, text, camera, self._without_ablated(dit),
                memory=tokens, chunks=cut_at(range(len(chunks))),
            )  # fmt: skip
        return tree_map(lambda leaf: _float32(leaf).clone(), after)  # not views of what all chunks left

    def set_prompt(self, state: RolloutState, prompts: Sequence[str | None]) -> RolloutState:
        """Return the state with new prompts from the next chunk on; None keeps a slot's prompt.

        The pending chunk keeps the prompt it was drawn under.
        """
        new = self.text.encode([prompt or "" for prompt in prompts])
        keep = torch.tensor([prompt is None for prompt in prompts])
        text = tree_map(
            lambda old, x: torch.where(
                keep.to(old.device).view(-1, *[1] * (old.ndim - 1)), old, x.to(old.device)
            ),
            state.text,
            new,
        )
        return state._replace(text=text)

    def set_noise_seed(self, state: RolloutState, noise_seeds: Sequence[int]) -> RolloutState:
        """Return the state whose next chunks draw their noise from the given seeds."""
        return state._replace(seed=torch.tensor(list(noise_seeds), dtype=torch.int64))

    def _refiner_noise(self, state: RolloutState, pixels: Tensor) -> Tensor | None:
        """Return noise like `pixels` `(B, K, 4, H, W)` for a refiner with noise levels, None for another."""
        if self.refiner is None or not self.refiner.config.sigmas:
            return None
        noise = chunk_noise(state.seed, state.chunk, tuple(pixels.shape[1:]), stream=1).to(self.device)
        return noise * state.temperature[:, None, None, None, None]

    def precision(self) -> AbstractContextManager[Any]:
        """Return the block in which products are computed in the world's dtype."""
        return nullcontext() if self.dtype is torch.float32 else torch.autocast(self.device.type, self.dtype)

    def _remembered(self, memory: MemoryState, c2w: Tensor, intrinsics: Tensor) -> Tensor:
        """Return what the point memory shows from poses `(B, F, 4, 4)`: `(B, F, 5, H, W)`."""
        warped = read_memory(memory, c2w, intrinsics)
        return torch.zeros_like(warped) if self.ablate == "memory" else warped

    def _camera(self, c2w: Tensor, intrinsics: Tensor) -> CameraInput:
        """Return the conditioning of one latent frame from its pixel frames' poses `(B, K, 4, 4)`."""
        _, height, width = self.vae.latent_shape
        windows = own_windows(1, c2w.shape[1])
        return camera_input(c2w.to(self.device), intrinsics, self.spec.frame_size, (height, width), windows)

    def _without_ablated(self, dit: DiTState) -> DiTState:
        if self.ablate != "gdn_state":
            return dit
        blocks = tuple(
            block._replace(attention=tree_map(torch.zeros_like, block.attention))
            if isinstance(block.attention, GDNState)
            else block
            for block in dit.blocks
        )
        return dit._replace(blocks=blocks)


def _float32(leaf: Tensor) -> Tensor:
    """Return a state tensor in the dtype that states have, whatever it was computed in."""
    return leaf.float() if leaf.dtype is torch.bfloat16 else leaf


def _join_times(*parts: Tensor) -> Tensor:
    """Concatenate conditions `(B, T, 20)` or Plücker maps `(B, P, T, h, w)` along time."""
    return torch.cat(parts, dim=1 if parts[0].ndim == 3 else 2)


def _present(x: Tensor | None) -> Tensor:
    assert x is not None
    return x
