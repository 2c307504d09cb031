"""The SANA-WM stage-1 transformer: one forward for a clip, a chunk with state, and training.

Equations: docs/reference/transformer.md#block.

    x -> latent_in -> [ block ] * depth -> head -> velocity  v = noise - x0

A block (residual stream X, per-frame modulation m of the timestep):

    (s1, k1, g1, s2, k2, g2) = table + m
    X += g1 * SelfAttn(LN(X) (1 + k1) + s1);   X += plucker(E);   X += CrossAttn(X, text)
    X += g2 * FFN(LN(X) (1 + k2) + s2)

What a chunk leaves behind for later ones is a `DiTState`, passed in and returned. A whole clip is one chunk
from the empty state (bidirectional); several `Chunks` make it chunk-causal; one call per chunk with
the state carried over streams it. All are the same function.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint

from wm_env.kernels.frame_gdn import IMPLEMENTATIONS
from wm_env.model.attention import CrossAttention, GDNAttention, Geometry, SoftmaxAttention
from wm_env.model.camera import CameraInput, ray_transforms
from wm_env.model.chunks import ONE, Chunks
from wm_env.model.config import DiTConfig
from wm_env.model.layers import FeedForward, RMSNorm, each_clip, modulate, rotary, timestep_features
from wm_env.model.names import unknown
from wm_env.model.placement import placed
from wm_env.model.state import BlockState, DiTState, GDNState, KVChunk, WindowState
from wm_env.model.text import TextTokens


class Call(NamedTuple):
    """What all blocks of one call share.

    modulation `(B, T|1, 6, C)` of the timestep, and time `(B, T|1, C)` it is made of. text: caption features
    `(B, 1|T, L, C)` and mask. plucker `(B, T, N, C)` or None. geometry: rotations and rays. grid: rows and
    columns of tokens. start `(B,)` int64: latent frames committed before. chunks: how the frames are cut.
    """

    modulation: Tensor
    time: Tensor
    text: TextTokens
    plucker: Tensor | None
    geometry: Geometry
    grid: tuple[int, int]
    start: Tensor
    chunks: Chunks


class Block(nn.Module):
    """One block of the module docstring, a GDN or a softmax one."""

    def __init__(self, cfg: DiTConfig, softmax: bool, impl: str) -> None:
        super().__init__()
        self.eps = cfg.layer_norm_eps
        self.modulation = nn.Parameter(torch.randn(6, cfg.hidden) / cfg.hidden**0.5)
        self.attn: GDNAttention | SoftmaxAttention = (
            SoftmaxAttention(cfg) if softmax else GDNAttention(cfg, impl)
        )
        self.plucker = nn.Linear(cfg.hidden, cfg.hidden)
        self.cross = CrossAttention(cfg)
        self.ffn = FeedForward(cfg)

    def modulations(self, x: Tensor, call: Call) -> list[Tensor]:
        """Return (s1, k1, g1, s2, k2, g2), each `(B, T|1, 1, C)`."""
        table = self.modulation.to(x.dtype) + call.modulation  # (B, T|1, 6, C)
        return [m[:, :, None] for m in table.unbind(2)]

    def attention_input(self, x: Tensor, call: Call) -> Tensor:
        """Return what self-attention is given for the residual stream `x` `(B, T, N, C)`."""
        shift, scale, *_ = self.modulations(x, call)
        return modulate(x, shift, scale, self.eps)

    def forward(self, x: Tensor, call: Call, state: BlockState | None) -> tuple[Tensor, BlockState]:
        """Return the new residual stream `(B, T, N, C)` and the block's state."""
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulations(x, call)
        a = modulate(x, shift1, scale1, self.eps)
        past: Any = None if state is None else state.attention  # of the kind that this block's attention left
        attended, memory = self.attn(a, call.geometry, past, call.chunks)
        x = torch.addcmul(x, gate1, attended)
        if call.plucker is not None:
            x = x + self.plucker(call.plucker)
        x = x + self.cross(x, call.text.tokens, call.text.mask)
        b = modulate(x, shift2, scale2, self.eps)
        fed, tail = self.ffn(b, call.grid, None if state is None else state.ffn_tail, call.chunks)
        return torch.addcmul(x, gate2, fed), BlockState(memory, tail)


def recomputed(block: nn.Module) -> Callable[..., tuple[Tensor, BlockState]]:
    """Return `block` as a function whose backward pass computes the block again from its inputs.

    The second pass runs later, so it is given the attention backends that were allowed in the first.
    """
    backends = [
        backend
        for backend, allowed in (
            (SDPBackend.MATH, torch.backends.cuda.math_sdp_enabled()),
            (SDPBackend.FLASH_ATTENTION, torch.backends.cuda.flash_sdp_enabled()),
            (SDPBackend.EFFICIENT_ATTENTION, torch.backends.cuda.mem_efficient_sdp_enabled()),
            (SDPBackend.CUDNN_ATTENTION, torch.backends.cuda.cudnn_sdp_enabled()),
        )
        if allowed
    ]
    return functools.partial(
        checkpoint,
        block,
        use_reentrant=False,
        preserve_rng_state=False,  # a block draws nothing at random
        context_fn=lambda: (contextlib.nullcontext(), sdpa_kernel(backends)),
    )


class DiT(nn.Module):
    """The stage-1 velocity model; see the module docstring for the equations.

    `impl` names the frame-GDN implementation; resolve "auto" beforehand (`wm_env.kernels.frame_gdn`).
    `recompute`: where gradients are on, keep only each block's input and compute the rest again in the
    backward pass.
    """

    def __init__(self, cfg: DiTConfig, impl: str = "chunk", recompute: bool = False) -> None:
        super().__init__()
        if impl not in IMPLEMENTATIONS:
            raise ValueError(unknown("impl", impl, IMPLEMENTATIONS))
        width = cfg.hidden
        self.cfg = cfg
        self.recompute = recompute
        self.latent_in = nn.Linear(cfg.latent_channels, width)
        self.time_in, self.time_out = nn.Linear(256, width), nn.Linear(width, width)
        self.time_modulation = nn.Linear(width, 6 * width)
        self.caption_in, self.caption_out = nn.Linear(cfg.caption_channels, width), nn.Linear(width, width)
        self.caption_norm = RMSNorm(width, cfg.caption_norm_eps, cfg.caption_norm_init)
        self.plucker_in = nn.Linear(cfg.plucker_channels, width)
        self.memory_in = (
            nn.Sequential(nn.Linear(cfg.memory_channels, width), nn.SiLU(), nn.Linear(width, width))
            if cfg.memory_channels
            else None
        )
        self.blocks = nn.ModuleList(Block(cfg, cfg.is_softmax(i), impl) for i in range(cfg.depth))
        self.head_modulation = nn.Parameter(torch.randn(2, width) / width**0.5)
        self.head = nn.Linear(width, cfg.latent_channels)
        initialise(self)

    def forward(
        self,
        latents: Tensor,
        timestep: Tensor,
        text: TextTokens,
        camera: CameraInput | None,
        state: DiTState | None = None,
        *,
        memory: Tensor | None = None,
        chunks: Chunks = ONE,
    ) -> tuple[Tensor, DiTState]:
        """Return the velocity `(B, Cl, T, h, w)` and the state after the last chunk.

        latents: `(B, Cl, T, h, w)` noisy latents. timestep: `(B, T)`, or `(B, 1)` for one per clip, in
        [0, 1000], truncated to integers. text: features `(B, L, E)` or one prompt per frame `(B, T, L, E)`.
        camera: None skips the camera branch and the Plücker maps. memory: `(B, T, N, memory_channels)` or
        None. chunks: how the frames of this call are cut, and whether the state after every chunk is kept.
        """
        x, call = self.embed(latents, timestep, text, camera, state, memory=memory, chunks=chunks)
        states = []
        for i, block in enumerate(self.blocks):
            run = recomputed(block) if self.recompute and torch.is_grad_enabled() else block
            x, block_state = run(x, call, None if state is None else state.blocks[i])
            states.append(block_state)

        shift, scale = (
            m[:, :, None] for m in (self.head_modulation.to(x.dtype) + call.time[:, :, None]).unbind(2)
        )
        velocity = self.head(modulate(x, shift, scale, self.cfg.layer_norm_eps))  # (B, T, N, Cl)
        velocity = velocity.unflatten(2, call.grid).permute(0, 4, 1, 2, 3)
        frames = latents.shape[2]
        ends = torch.tensor([*chunks.starts[1:], frames])
        frame = call.start[:, None] + ends if chunks.keep_every else call.start + frames
        return velocity, DiTState(tuple(states), frame)

    def embed(
        self,
        latents: Tensor,
        timestep: Tensor,
        text: TextTokens,
        camera: CameraInput | None,
        state: DiTState | None,
        *,
        memory: Tensor | None,
        chunks: Chunks,
    ) -> tuple[Tensor, Call]:
        """Return the tokens `(B, T, N, C)` that the first block is given, and what all blocks share."""
        batch, _, frames, height, width = latents.shape
        x = self.latent_in(latents.permute(0, 2, 3, 4, 1).flatten(2, 3))  # (B, T, N, C)
        if self.memory_in is not None:
            if memory is None:
                raise ValueError(
                    "this transformer was built with memory_channels; pass memory=(B, T, N, channels)"
                )
            x = x + self.memory_in(memory)

        features = timestep_features(timestep).to(x.dtype)
        time = each_clip(lambda f: self.time_out(F.silu(self.time_in(f))), features)  # (B, T|1, C)
        modulation = each_clip(self.time_modulation, F.silu(time)).unflatten(-1, (6, -1))  # (B, T|1, 6, C)
        tokens, mask = (y[:, None] if text.tokens.ndim == 3 else y for y in text)  # (B, 1|T, L, ...)
        caption = self.caption_norm(
            self.caption_out(F.gelu(self.caption_in(tokens.to(x.dtype)), approximate="tanh"))
        )

        start = torch.zeros(batch, dtype=torch.int64) if state is None else state.frame
        positions = start[:, None] + torch.arange(frames)
        rays, plucker = None, None
        if camera is not None:
            rays = ray_transforms(camera.conditions, height, width)
            plucker = self.plucker_in(camera.plucker.permute(0, 2, 3, 4, 1).flatten(2, 3).to(x.dtype))
        geometry = Geometry(rotary(placed(positions, x.device), height, width, self.cfg), rays)
        text = TextTokens(caption, mask)
        return x, Call(modulation, time, text, plucker, geometry, (height, width), start, chunks)

    def empty_state(self, batch: int, grid: tuple[int, int], first_chunk_frames: int = 1) -> DiTState:
        """Return the state before the first chunk, in the fixed shape that later states have.

        Passing it equals passing None; slots in it stack with slots at any other chunk index. Needs a
        bounded softmax window. `first_chunk_frames` is the length of the first chunk, which a sink keeps.
        """
        cfg, weight = self.cfg, self.latent_in.weight
        if cfg.window_chunks is None:
            raise ValueError("an unbounded softmax window has no fixed shape; pass state=None instead")
        tokens = grid[0] * grid[1]

        def zeros(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
            return torch.zeros(batch, *shape, dtype=dtype, device=weight.device)

        head = (cfg.heads, cfg.head_dim)
        tail = zeros(cfg.short_conv_kernel - 1, tokens, cfg.hidden, dtype=weight.dtype)
        memory = GDNState(zeros(*head, cfg.head_dim), zeros(*head), zeros(*head, cfg.head_dim), tail, tail)
        lengths = [cfg.chunk_frames] * cfg.window_chunks
        if cfg.sink:
            lengths[0] = first_chunk_frames
        empty = [zeros(cfg.heads, n * tokens, cfg.head_dim, dtype=weight.dtype) for n in lengths]
        valid = torch.zeros(batch, dtype=torch.bool)
        window = WindowState(tuple(KVChunk(x, x, x, x, valid) for x in empty))
        ffn_tail = zeros(1, tokens, cfg.hidden, dtype=weight.dtype)
        blocks = [BlockState(window if cfg.is_softmax(i) else memory, ffn_tail) for i in range(cfg.depth)]
        return DiTState(tuple(blocks), torch.zeros(batch, dtype=torch.int64))


@torch.no_grad()
def initialise(model: DiT) -> None:
    """Start near plain linear attention: Xavier linears, gates almost open, camera silent.

    See docs/reference/transformer.md#initialisation.
    """
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    for linear in (model.time_in, model.time_out, model.time_modulation, model.caption_in, model.caption_out):
        nn.init.normal_(linear.weight, std=0.02)
    nn.init.zeros_(model.plucker_in.weight)
    if model.memory_in is not None:
        last = model.memory_in[2]
        assert isinstance(last, nn.Linear)
        nn.init.zeros_(last.weight)
    if model.cfg.gate_init:
        nn.init.zeros_(model.head.weight)
    for block in model.blocks:
        assert isinstance(block, Block)
        block.modulation[[2, 5]] += model.cfg.gate_init
        attn = block.attn
        nn.init.zeros_(attn.gate.weight)
        nn.init.constant_(attn.gate.bias, 1.278464542761074)  # silu = 1
        camera = attn.camera
        nn.init.zeros_(camera.out.weight)
        for projection, base in zip((camera.q, camera.k, camera.v), attn.qkv.weight.chunk(3), strict=True):
            projection.weight.copy_(base)
        if isinstance(attn, GDNAttention):
            nn.init.zeros_(attn.beta.weight)
            nn.init.constant_(attn.beta.bias, 5.0)
            nn.init.zeros_(attn.decay.weight)
