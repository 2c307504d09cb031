"""LearnedWorld: the transformer, autoencoder, memory and refiner as one function from state to state.

One chunk (of one latent frame in the embedded worlds):

    x <- noise(seed, chunk)                        every random number is a function of these two
    for sigma_i > sigma_{i+1}:  x <- x - (sigma_i - sigma_{i+1}) v(x, sigma_i | state)
    pixels <- decode(x);  frames <- refine(pixels, memory seen from the new poses)
    state <- state after the clean chunk

The clean chunk has to pass through the transformer once more to enter the state
(docs/reference/pipeline.md#streaming). That pass is not run on its own: the chunk stays `pending` and is
committed in the first call of the next step, as the first of two chunks in one causal forward. The result is
the same and a step costs one call less.

A world is told the start image, its intrinsics, a prompt and a seed, nothing else; the depth of the start
image is predicted. Poses come in relative to the start frame.
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
from wm_env.model.dit import DiT
from wm_env.model.memory import MemoryState, memory_tokens, read_memory, start_memory, write_memory
from wm_env.model.pixels import metric_depth, to_rgb, within_range
from wm_env.model.refiner.tiny import TinyRefiner
from wm_env.model.state import DiTState, GDNState, tree_map
from wm_env.model.text import TextEncoder, TextTokens
from wm_env.model.vae.tiny import DecodeState, TinyVAE
from wm_env.model.world import Chunk, Start, WorldSpec

Ablation = Literal["dit", "gdn_state", "memory"]
ABLATIONS: tuple[Ablation, ...] = ("dit", "gdn_state", "memory")


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
        """Return the start images as a chunk of one frame, and the state before the first step."""
        images = torch.stack([torch.from_numpy(np.array(start.image)) for start in starts]).to(self.device)
        intrinsics = torch.tensor([start.intrinsics for start in starts], device=self.device)  # (B, 4)
        latent, depth, pixels = self.vae.encode_image(images, intrinsics)
        pose = torch.eye(4, dtype=torch.float64).repeat(len(starts), self.spec.frames_per_step, 1, 1)
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
        return Chunk(images[:, None], latent, depth[:, None]), state

    @torch.inference_mode()
    def step_chunk(self, state: RolloutState, c2w: Tensor) -> tuple[Chunk, RolloutState]:
        """Return the chunk along poses `c2w` `(B, K, 4, 4)`, relative to the start, and the new state."""
        state = self._without_ablated_state(state)
        c2w = c2w.to(self.device)
        warped, tokens = None, None
        if state.memory is not None:
            warped = read_memory(state.memory, c2w, state.intrinsics)  # (B, K, 5, H, W)
            if self.ablate == "memory":
                warped = torch.zeros_like(warped)
            tokens = memory_tokens(warped[:, -1:])
        chunk = ChunkInput(state.pending.latent, self._camera(c2w, state.intrinsics), tokens, state.text)
        latent, dit = self._draw(state, chunk)
        with self._precision():
            pixels, decode = self.vae.decode(latent, state.decode)  # (B, K, 4, H, W)
            if self.refiner is not None and warped is not None:
                pixels = self.refiner(pixels, warped, self._refiner_noise(state, pixels))
        pixels = pixels.float()
        memory = state.memory
        if memory is not None:
            memory = write_memory(memory, within_range(pixels[:, -1]), c2w[:, -1])
        frames = to_rgb(pixels)
        depth = metric_depth(pixels[:, :, 3])
        after = state._replace(
            dit=dit,
            pending=chunk._replace(latent=latent[:, :, None]),
            decode=decode,
            memory=memory,
            chunk=state.chunk + 1,
        )
        return Chunk(frames, latent, depth), after

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

    def _draw(self, state: RolloutState, chunk: ChunkInput) -> tuple[Tensor, DiTState]:
        """Return the new latent `(B, C, h, w)` and the transformer state with the pending chunk committed."""
        pending, sampler = state.pending, self.sampler
        shape = tuple(pending.latent.shape[1:])
        noise = chunk_noise(state.seed, state.chunk, shape).to(self.device)  # (B, C, 1, h, w)
        x = noise * state.temperature[:, None, None, None, None]
        both = ChunkInput(
            torch.cat([pending.latent, x], dim=2),
            tree_map(_join_time, pending.camera, chunk.camera),
            None if chunk.memory is None else torch.cat([_present(pending.memory), chunk.memory], dim=1),
            tree_map(lambda a, b: torch.stack([a, b], dim=1), pending.text, chunk.text),  # (B, 2, L, ...)
        )
        history = torch.full((x.shape[0], 1), float(sampler.history_timestep), device=self.device)
        levels = torch.cat([history, torch.full_like(history, 1000 * sampler.sigmas[0])], dim=1)
        with self._precision():
            velocity, states = self.dit(
                both.latent, levels, both.text, both.camera, state.dit,
                memory=both.memory, chunk_starts=(0, 1), every_chunk=True,
            )  # fmt: skip
        committed = tree_map(lambda leaf: _float32(leaf[:, 0]), states)
        if self.ablate == "dit":
            return pending.latent[:, :, 0], committed
        x = x - (sampler.sigmas[0] - sampler.sigmas[1]) * velocity[:, :, 1:]
        for sigma, lower in zip(sampler.sigmas[1:-1], sampler.sigmas[2:], strict=True):
            level = torch.full((x.shape[0], 1), 1000 * sigma, device=self.device)
            with self._precision():
                velocity, _ = self.dit(x, level, chunk.text, chunk.camera, committed, memory=chunk.memory)
            x = x - (sigma - lower) * velocity
        return x[:, :, 0], committed

    def _refiner_noise(self, state: RolloutState, pixels: Tensor) -> Tensor | None:
        """Return noise like `pixels` `(B, K, 4, H, W)` for a refiner with noise levels, None for another."""
        if self.refiner is None or not self.refiner.config.sigmas:
            return None
        noise = chunk_noise(state.seed, state.chunk, tuple(pixels.shape[1:]), stream=1).to(self.device)
        return noise * state.temperature[:, None, None, None, None]

    def _precision(self) -> AbstractContextManager[Any]:
        """Return the block in which products are computed in the world's dtype."""
        return nullcontext() if self.dtype is torch.float32 else torch.autocast(self.device.type, self.dtype)

    def _camera(self, c2w: Tensor, intrinsics: Tensor) -> CameraInput:
        """Return the conditioning of one latent frame from its pixel frames' poses `(B, K, 4, 4)`."""
        _, height, width = self.vae.latent_shape
        windows = own_windows(1, c2w.shape[1])
        return camera_input(c2w.to(self.device), intrinsics, self.spec.frame_size, (height, width), windows)

    def _without_ablated_state(self, state: RolloutState) -> RolloutState:
        if self.ablate != "gdn_state":
            return state
        blocks = tuple(
            block._replace(attention=tree_map(torch.zeros_like, block.attention))
            if isinstance(block.attention, GDNState)
            else block
            for block in state.dit.blocks
        )
        return state._replace(dit=state.dit._replace(blocks=blocks))


def _float32(leaf: Tensor) -> Tensor:
    """Return a state tensor in the dtype that states have, whatever it was computed in."""
    return leaf.float() if leaf.dtype is torch.bfloat16 else leaf


def _join_time(a: Tensor, b: Tensor) -> Tensor:
    """Concatenate conditions `(B, T, 20)` or Plücker maps `(B, P, T, h, w)` along time."""
    return torch.cat([a, b], dim=1 if a.ndim == 3 else 2)


def _present(x: Tensor | None) -> Tensor:
    assert x is not None
    return x
