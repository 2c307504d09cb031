"""Self-attention of the softmax blocks: the keys and values of a window of committed chunks.

See docs/reference/transformer.md#streaming-state. What it shares with the GDN blocks is in `projections.py`.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

from wm_env.kernels.window_attention import window_attention
from wm_env.model.attention.projections import (
    Geometry,
    SelfAttention,
    from_ray_frame,
    heads_first,
    to_ray_frame,
    tokens_first,
)
from wm_env.model.chunks import Chunks
from wm_env.model.config import DiTConfig
from wm_env.model.layers import rotate
from wm_env.model.state import KVChunk, WindowState, tree_map


class SoftmaxAttention(SelfAttention):
    """Softmax attention over the current chunk and a window of committed chunks.

    See docs/reference/transformer.md#softmax-blocks and docs/reference/transformer.md#streaming-schedule.
    """

    def __init__(self, cfg: DiTConfig) -> None:
        super().__init__(cfg, short_convolution=False)

    def forward(
        self, x: Tensor, geometry: Geometry, state: WindowState | None, chunks: Chunks
    ) -> tuple[Tensor, WindowState]:
        """Return the output `(B, T, N, C)` and the window after the last (or every) chunk."""
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        qk = torch.cat([self.split_heads(self.q_norm(q)), self.split_heads(self.k_norm(k))], dim=3)
        q, k = rotate(qk, geometry.cis).chunk(2, dim=3)  # (B, T, N, H, D) each
        streams = [(heads_first(q), heads_first(k), heads_first(self.split_heads(v)))]
        if geometry.rays is not None:
            cam = self.camera
            q, k, v = to_ray_frame(
                self.split_heads(cam.q_norm(cam.q(x))),
                self.split_heads(cam.k_norm(cam.k(x))),
                self.split_heads(cam.v(x)),
                geometry.rays,
                geometry.cis,
            )
            streams.append((heads_first(q), heads_first(k), heads_first(v)))

        bounds = itertools.pairwise([*chunks.starts, x.shape[1]])
        slices = [slice(start, end) for start, end in bounds]
        window = state if state is not None else WindowState(())
        if self.cfg.window_chunks is None:  # nothing is ever forgotten: one call over all chunks
            outs = [_attend(stream, window, i, chunks.starts) for i, stream in enumerate(streams)]
            windows = []
            for chunk in slices:
                window = commit(window, _keys_of(streams, chunk), self.cfg, x.shape[2])
                windows.append(window)
        else:
            parts: list[list[Tensor]] = [[] for _ in streams]
            windows = []
            for chunk in slices:
                for i, (q, k, v) in enumerate(streams):
                    part = (q[:, :, chunk], k[:, :, chunk], v[:, :, chunk])
                    parts[i].append(_attend(part, window, i, (0,)))
                window = commit(window, _keys_of(streams, chunk), self.cfg, x.shape[2])
                windows.append(window)
            outs = [torch.cat(part, dim=2) for part in parts]

        camera = None
        if geometry.rays is not None:
            camera = from_ray_frame(outs[1].permute(0, 2, 3, 1, 4), geometry.rays, geometry.cis).flatten(-2)
        out = self.merge(x, tokens_first(outs[0]), camera)
        if chunks.keep_every:
            window = tree_map(lambda *leaves: torch.stack(leaves, dim=1), *windows)
        return out, window


def _attend(
    stream: tuple[Tensor, Tensor, Tensor], window: WindowState, branch: int, chunk_starts: Sequence[int]
) -> Tensor:
    """Return attention of one branch (0 main, 1 camera) over the window and the given chunk(s)."""
    q, k, v = stream
    if not window.chunks:
        return window_attention(q=q, k=k, v=v, chunk_starts=chunk_starts)
    past_k = torch.cat([c.k if branch == 0 else c.k_cam for c in window.chunks], dim=2)
    past_v = torch.cat([c.v if branch == 0 else c.v_cam for c in window.chunks], dim=2)
    valid = None
    if not all(bool(c.valid.all()) for c in window.chunks):
        valid = torch.cat([c.valid[:, None].expand(-1, c.k.shape[2]) for c in window.chunks], dim=1)
    return window_attention(
        q=q, k=k, v=v, past_k=past_k, past_v=past_v, past_valid=valid, chunk_starts=chunk_starts
    )


def _keys_of(streams: list[tuple[Tensor, Tensor, Tensor]], chunk: slice) -> KVChunk:
    """Return keys and values of the chunk's frames as one `KVChunk`; absent camera keys are zero."""
    main = [x[:, :, chunk].flatten(2, 3) for x in streams[0][1:]]  # (B, H, n, D)
    camera = [x[:, :, chunk].flatten(2, 3) for x in streams[1][1:]] if len(streams) > 1 else [
        torch.zeros_like(x) for x in main
    ]  # fmt: skip
    return KVChunk(*main, *camera, torch.ones(main[0].shape[0], dtype=torch.bool))  # type: ignore[call-arg]


def commit(window: WindowState, chunk: KVChunk, cfg: DiTConfig, tokens_per_frame: int) -> WindowState:
    """Return the window with `chunk` appended and the oldest non-sink chunk dropped.

    A bounded window has a fixed number of slots from the first commit on, the not yet filled ones marked
    invalid, so that slots at different chunk indices stack. With the sink on, slot 0 is the first chunk.
    """
    if cfg.window_chunks is None:
        return WindowState((*window.chunks, chunk))
    if cfg.window_chunks == 0:
        return window
    if not window.chunks:
        tokens = cfg.chunk_frames * tokens_per_frame
        blank = KVChunk(  # type: ignore[call-arg]
            *(x.new_zeros(*x.shape[:2], tokens, x.shape[3]) for x in chunk[:4]), torch.zeros_like(chunk.valid)
        )
        empty = (blank,) * (cfg.window_chunks - 1)
        return WindowState((chunk, *empty) if cfg.sink else (*empty, chunk))
    if not cfg.sink:
        return WindowState((*window.chunks[1:], chunk))
    sink, recent = window.chunks[0], window.chunks[1:]
    later = WindowState((sink, *(*recent, chunk)[1:]))  # with a single slot, the sink alone
    if bool(sink.valid.all()):
        return later
    first = WindowState((chunk, *recent))  # an empty window takes its first chunk as the sink
    if not bool(sink.valid.any()):
        return first
    return tree_map(lambda a, b: _where_slot(sink.valid, a, b), later, first)


def _where_slot(condition: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Return slot by slot `a` where `condition` `(B,)` holds and `b` elsewhere."""
    return torch.where(condition.to(a.device).view(-1, *[1] * (a.ndim - 1)), a, b)
