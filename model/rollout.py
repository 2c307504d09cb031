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

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wm_env.model.camera import CameraInput, camera_input, own_windows
from wm_env.model.chunks import causal, cut_at
from wm_env.model.composed_view import Blocks, compose
from wm_env.model.contact import Surfaces
from wm_env.model.context_depth import consistent
from wm_env.model.dit import DiT
from wm_env.model.flow import euler_path
from wm_env.model.names import unknown
from wm_env.model.pixels import metric_depth, to_pixels, to_rgb, within_range
from wm_env.model.placement import placed
from wm_env.model.point_memory import MemoryState, memory_tokens, read_memory, start_memory, write_memory
from wm_env.model.refiner.tiny import TinyRefiner
from wm_env.model.rollout_state import (
    ABLATIONS,
    PROMPTS,
    READINGS,
    Ablation,
    ChunkInput,
    Prompts,
    Reading,
    RolloutState,
    SamplerConfig,
    View,
    begin_by_length,
    chunk_noise,
)
from wm_env.model.state import DiTState, GDNState, cat, tree_map
from wm_env.model.text import TextEncoder
from wm_env.model.vae.tiny import DecodeState, TinyVAE
from wm_env.model.world import Chunk, Start, WorldSpec

COMMITTED_AT_ONCE = 32  # chunks of a context in one call, which bounds its memory


class LearnedWorld:
    """The embedded pipeline (TinyVAE, optional point memory and refiner) around a `DiT`.

    Holds weights and settings; every method is a function of its arguments. memory_reading: "composed" for
    views of all kept frames (`composed_view`) and consistent depth of true ones (`context_depth`), "four" for
    those of four frames, as worlds of before had them. prompts: what it was told in training. dtype: float32,
    or bfloat16 for the products inside transformer, decoder and refiner after the start; states, geometry and
    sums stay float32.
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
        memory_reading: Reading = "four",
        prompts: Prompts = "any",
        ablate: Ablation | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        if memory_reading not in READINGS:
            raise ValueError(unknown("memory_reading", memory_reading, READINGS))
        if prompts not in PROMPTS:
            raise ValueError(unknown("prompts", prompts, PROMPTS))
        if ablate is not None and ablate not in ABLATIONS:
            raise ValueError(unknown("ablate", ablate, ABLATIONS, "None"))
        if ablate == "memory" and not dit.cfg.memory_channels:
            raise ValueError("ablate='memory': this world has no 3D memory to remove")
        if refiner is not None and not dit.cfg.memory_channels:
            raise ValueError("the pixel refiner reads the 3D memory, which this world does not have")
        self.spec = spec
        self.dit, self.vae, self.refiner, self.text = dit, vae, refiner, text
        self.sampler, self.memory_reading, self.prompts = sampler, memory_reading, prompts
        self.ablate, self.dtype = ablate, dtype
        self.device = dit.latent_in.weight.device

    @torch.inference_mode()
    def begin(self, starts: Sequence[Start]) -> tuple[Chunk, RolloutState]:
        """Return the start images as a chunk of one frame, and the state before the first step.

        Slots with contexts of one length are committed together.
        """
        return begin_by_length(self._begin, starts)

    def _begin(self, starts: Sequence[Start]) -> tuple[Chunk, RolloutState]:
        """Return the same for starts whose contexts are of one length."""
        contexts = [start.context.load() for start in starts if start.context is not None]
        first = [one.frames[0] for one in contexts] or [start.image for start in starts]
        images = torch.stack([torch.from_numpy(np.array(image)) for image in first]).to(self.device)
        intrinsics = torch.tensor([start.intrinsics for start in starts], device=self.device)  # (B, 4)
        latent, depth, pixels = self._slot_by_slot(self.vae.encode_image, images, intrinsics)
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
        c2w, frames = placed(c2w, self.device), placed(frames, self.device)
        every = state.intrinsics.repeat_interleave(frames.shape[1], dim=0)
        depth = self.vae.predict_depth(frames.flatten(0, 1), every).unflatten(0, frames.shape[:2])
        chunks = to_pixels(frames, depth).unflatten(1, (-1, step))  # (B, n, K, 4, H, W)
        latents = self.vae.encode_groups(chunks.flatten(0, 1)).unflatten(0, chunks.shape[:2])
        pending = [state.pending]
        last, memory = chunks[:, :, -1], state.memory
        if memory is not None and self.memory_reading == "composed":
            last, memory = self._consistent(last, c2w[:, step - 1 :: step], memory, state.intrinsics)
        for t, poses in enumerate(c2w.split(step, dim=1)):
            tokens = None
            if memory is not None:
                tokens = memory_tokens(self._remembered(memory, poses[:, -1:], state.intrinsics)[0])
                memory = write_memory(memory, within_range(last[:, t]), poses[:, -1], drawn=False)
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
        c2w = placed(c2w, self.device)
        warped, tokens, blocks = None, None, None
        if state.memory is not None:
            warped, blocks = self._remembered(state.memory, c2w, state.intrinsics)
            tokens = memory_tokens(warped[:, -1:])
        return View(c2w, self._camera(c2w, state.intrinsics), tokens, warped, blocks)

    @torch.inference_mode()
    def draw(self, state: RolloutState, view: View) -> tuple[Tensor, DiTState]:
        """Return the latent `(B, C, h, w)` of a chunk, and the transformer's state with the one before it.

        The chunk that is still `pending` is committed in the first of the sampler's calls.
        """
        pending, sampler = state.pending, self.sampler
        shape = tuple(pending.latent.shape[1:])
        noise = placed(chunk_noise(state.seed, state.chunk, shape), self.device)  # (B, C, 1, h, w)
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
        committed = tree_map(lambda leaf: _float32(leaf[:, 0]).clone(), states)  # not a view of both
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
            pixels: Tensor = self._slot_by_slot(
                lambda z, before: self.vae.decode(z, DecodeState(before))[0], latent, state.decode.previous
            )
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

    def surfaces(self, state: RolloutState) -> Surfaces | None:
        """Return the depth of the kept frames that are true: the start, contexts and what was shown.

        None in a world without the point memory. What was drawn is left out: where a world imagines, the
        surfaces of one frame are not those of the next.
        """
        memory = state.memory
        if memory is None:
            return None
        return Surfaces(metric_depth(memory.pixels[:, :, 3]), memory.c2w, memory.valid & ~memory.drawn)

    def _refiner_noise(self, state: RolloutState, pixels: Tensor) -> Tensor | None:
        """Return noise like `pixels` `(B, K, 4, H, W)` for a refiner with noise levels, None for another."""
        if self.refiner is None or not self.refiner.config.sigmas:
            return None
        noise = chunk_noise(state.seed, state.chunk, tuple(pixels.shape[1:]), stream=1)
        return placed(noise, self.device) * state.temperature[:, None, None, None, None]

    def _slot_by_slot(self, call: Callable[..., Any], *inputs: Tensor) -> Any:
        """Return `call(*inputs)` of tensors `(B, ...)`, on a CPU slot by slot, as `layers.each_clip`.

        A convolution of B small pictures adds in another order than one of a single picture.
        """
        if self.device.type != "cpu" or len(inputs[0]) == 1:
            return call(*inputs)
        return cat([call(*(each[[slot]] for each in inputs)) for slot in range(len(inputs[0]))])

    def precision(self) -> AbstractContextManager[Any]:
        """Return the block in which products are computed in the world's dtype."""
        return nullcontext() if self.dtype is torch.float32 else torch.autocast(self.device.type, self.dtype)

    def _remembered(
        self, memory: MemoryState, c2w: Tensor, intrinsics: Tensor
    ) -> tuple[Tensor, Blocks | None]:
        """Return what the memory shows from poses `(B, F, 4, 4)`: `(B, F, 5, H, W)`, and what of."""
        blocks = None
        if self.memory_reading == "composed":
            warped, blocks = compose(memory, c2w, intrinsics)
        else:
            warped = read_memory(memory, c2w, intrinsics)
        return (torch.zeros_like(warped), None) if self.ablate == "memory" else (warped, blocks)

    def _consistent(
        self, last: Tensor, c2w: Tensor, memory: MemoryState, intrinsics: Tensor
    ) -> tuple[Tensor, MemoryState]:
        """Return true frames `(B, n, 4, H, W)` and the memory, the depth of both and of frame 0 corrected.

        c2w `(B, n, 4, 4)`: poses of the frames.
        """
        every = torch.cat([memory.pixels[:, :1], last.to(memory.pixels.dtype)], dim=1)
        poses = torch.cat([memory.c2w[:, :1], c2w.to(memory.c2w.dtype)], dim=1)
        told = consistent(every, poses, intrinsics)
        pixels = torch.cat([told[:, :1], memory.pixels[:, 1:]], dim=1)
        return told[:, 1:], memory._replace(pixels=pixels)

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
