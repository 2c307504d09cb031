"""The frame-wise delta rule with its frames spread over several devices: what context parallelism needs.

One frame acts on the memory as an affine map, so do many, and maps compose associatively:

    S_t = W_t S_{t-1} + A_t,   W_t = d_t (I - K_t^T diag(beta_t) K_t),   A_t = K_t^T diag(beta_t) V_t
    (C, H)(S) = C S + H        later after first:  C = C2 C1,  H = C2 H1 + H2

A shard is a run of consecutive frames. Its map (C, H), `(D, D)` and `(D, V)` a head however many frames and
tokens it has, is all that the others need of it. Each device computes its own map from zero, all maps are
exchanged, and everyone folds those before it into the memory its first frame starts from: exact, not an
approximation. Backwards (a bidirectional chunk) the same holds with the order of the frames reversed.

    1. shard_map             (C, H) of the frames here
    2. exchange              everybody's, and what reaches this shard from the left and from the right:
       memory_before         the maps of earlier shards applied in turn
       memory_after          the reverse maps of later ones
    3. frame_gdn(state=...)  chunk-causal, shards cut at chunk starts
       bidirectional_shard   one chunk over all shards

Legend: B batch, H heads, T latent frames here, N tokens per frame, D key dim, V value dim, P shards.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from wm_env.kernels.frame_gdn import frame_gdn
from wm_env.kernels.frame_gdn.naive import GDNMemory, state_dtype


class Affine(NamedTuple):
    """S -> transition S + increment: `(..., D, D)` and `(..., D, V)`, of the memory's dtype."""

    transition: Tensor
    increment: Tensor


class ShardMap(NamedTuple):
    """What a shard does to the memory S and, where there is one, to the normaliser z (V = 1)."""

    S: Affine
    z: Affine | None


def compose(first: Affine, later: Affine) -> Affine:
    """Return the map that applies `first`, then `later`."""
    return Affine(later.transition @ first.transition, later.transition @ first.increment + later.increment)


def frame_maps(*, k: Tensor, v: Tensor, beta: Tensor, g: Tensor) -> Affine:
    """Return the map of every frame, `(B,H,T,D,D)` and `(B,H,T,D,V)`; arguments as in `frame_gdn`."""
    dtype = state_dtype(v)
    with torch.autocast(v.device.type, enabled=False):
        k, v = k.to(dtype), v.to(dtype)
        weighted = (beta.to(dtype)[..., None] * k).transpose(-1, -2)  # (B,H,T,D,N)
        eye = torch.eye(k.shape[-1], dtype=dtype, device=k.device)
        decay = g.to(dtype).exp()[..., None, None]  # (B,H,T,1,1)
        return Affine(decay * (eye - weighted @ k), weighted @ v)


def reduce_frames(maps: Affine, *, reverse: bool = False) -> Affine:
    """Return the composition of the T maps on axis 2, pairwise in log2(T) rounds; reverse: last one first."""
    C, H = (x.flip(2) if reverse else x for x in maps)
    while C.shape[2] > 1:
        even = C.shape[2] // 2 * 2
        pairs = compose(
            Affine(C[:, :, 0:even:2], H[:, :, 0:even:2]), Affine(C[:, :, 1:even:2], H[:, :, 1:even:2])
        )
        C, H = (torch.cat([new, old[:, :, even:]], dim=2) for new, old in zip(pairs, (C, H), strict=True))
    return Affine(C[:, :, 0], H[:, :, 0])


def shard_map(
    *, k: Tensor, v: Tensor, beta: Tensor, g: Tensor, k_norm: Tensor | None = None, reverse: bool = False
) -> ShardMap:
    """Return what these frames do to a memory; arguments as in `frame_gdn`. Differentiable.

    reverse: the frames act from the last to the first, as on the reverse memory of a bidirectional chunk.
    """
    S = reduce_frames(frame_maps(k=k, v=v, beta=beta, g=g), reverse=reverse)
    if k_norm is None:
        return ShardMap(S, None)
    ones = v.new_ones(*v.shape[:-1], 1)
    return ShardMap(S, reduce_frames(frame_maps(k=k_norm, v=ones, beta=beta, g=g), reverse=reverse))


def _apply(shard: ShardMap, memory: GDNMemory | None) -> GDNMemory:
    """Return the memory after a shard; None for zeros before it."""
    if memory is None:
        return GDNMemory(shard.S.increment, None if shard.z is None else shard.z.increment[..., 0])
    S = shard.S.transition @ memory.S.to(shard.S.increment.dtype) + shard.S.increment
    if shard.z is None:
        return GDNMemory(S, None)
    assert memory.z is not None
    z = shard.z.transition @ memory.z.to(S.dtype)[..., None] + shard.z.increment
    return GDNMemory(S, z[..., 0])


def memory_before(maps: Sequence[ShardMap], shard: int, state: GDNMemory | None) -> GDNMemory | None:
    """Return the memory that shard number `shard` starts from; state: before shard 0, None for zeros."""
    for earlier in maps[:shard]:
        state = _apply(earlier, state)
    return state


def memory_after(reverse_maps: Sequence[ShardMap], shard: int) -> GDNMemory | None:
    """Return the reverse memory at the last frame of shard number `shard`, None (zeros) at the last shard."""
    memory = None
    for later in reversed(reverse_maps[shard + 1 :]):
        memory = _apply(later, memory)
    return memory


def bidirectional_shard(
    *,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    g: Tensor,
    q_norm: Tensor | None = None,
    k_norm: Tensor | None = None,
    before: GDNMemory | None,
    after: GDNMemory | None,
    eps: float = 1e-8,
    impl: str = "chunk",
) -> Tensor:
    """Return the outputs `(B,H,T,N,V)` of the frames here in a chunk that goes on to both sides.

    before: forward memory at the first frame's left. after: reverse memory at the last frame, exclusive of
    it. None for zeros. Other arguments as in `frame_gdn`.
    """
    out = _both_ways(q, k, v, beta, g, before and before.S, after and after.S, impl)
    if q_norm is None or k_norm is None:
        return out
    ones = v.new_ones(*v.shape[:-1], 1)
    z, z_after = (None if m is None or m.z is None else m.z[..., None] for m in (before, after))
    return out / (_both_ways(q_norm, k_norm, ones, beta, g, z, z_after, impl) + eps)


def _both_ways(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    g: Tensor,
    before: Tensor | None,
    after: Tensor | None,
    impl: str,
) -> Tensor:
    """Return Q_t (S_t + S^r_t) `(B,H,T,N,V)` without a normaliser.

    The reverse memory that frame t reads has seen frame t+1 last, so backwards its queries stand there.
    """

    def causal(q: Tensor, k: Tensor, v: Tensor, beta: Tensor, g: Tensor, start: Tensor | None) -> Tensor:
        state = None if start is None else GDNMemory(start, None)
        return frame_gdn(
            q=q, k=k, v=v, beta=beta, g=g, state=state, chunk_starts=tuple(range(q.shape[2])), impl=impl
        )[0]

    out = causal(q, k, v, beta, g, before)
    if q.shape[2] > 1:
        later = [x[:, :, 1:].flip(2) for x in (k, v, beta, g)]
        backwards = causal(q[:, :, :-1].flip(2), later[0], later[1], later[2], later[3], after).flip(2)
        out = out + torch.cat([backwards, torch.zeros_like(out[:, :, -1:])], dim=2)
    if after is not None:
        last = q[:, :, -1:] @ after[:, :, None].to(q.dtype)  # (B,H,1,N,V)
        out = torch.cat([out[:, :, :-1], out[:, :, -1:] + last], dim=2)
    return out


class _AllGather(torch.autograd.Function):
    """Everybody's tensor `(P, ...)`; the gradient of one's own is the sum of what all did with it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: dist.ProcessGroup | None) -> Tensor:
        ctx.group = group
        parts = [torch.empty_like(x) for _ in range(dist.get_world_size(group))]
        dist.all_gather(parts, x, group=group)
        return torch.stack(parts)

    @staticmethod
    def backward(ctx: Any, d_all: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        d_all = d_all.contiguous()
        dist.all_reduce(d_all, group=ctx.group)
        return d_all[dist.get_rank(ctx.group)], None


def _tensors(shard: ShardMap) -> list[Tensor]:
    return [*shard.S, *(() if shard.z is None else shard.z)]


def _like(shard: ShardMap, parts: Sequence[Tensor]) -> ShardMap:
    return ShardMap(Affine(*parts[:2]), None if shard.z is None else Affine(*parts[2:4]))


def exchange(
    own: ShardMap,
    own_reverse: ShardMap | None = None,
    state: GDNMemory | None = None,
    group: dist.ProcessGroup | None = None,
) -> tuple[GDNMemory, GDNMemory | None]:
    """Return the memory before this process's frames and, given `own_reverse`, the reverse one after them.

    Processes of `group` hold consecutive shards in the order of their ranks. state: before the first shard,
    None for zeros, the same on all. Differentiable; one collective forward, one backward, on every process:
    also where nothing of the others matters (the first shard), its backward pass takes part in the exchange.
    """
    maps = [own] if own_reverse is None else [own, own_reverse]
    tensors = [tensor for shard in maps for tensor in _tensors(shard)]
    everybody = _AllGather.apply(torch.cat([tensor.flatten() for tensor in tensors]), group)  # (P, values)
    found: list[list[ShardMap]] = [[] for _ in maps]
    for row in everybody:
        parts = [
            part.view_as(tensor)
            for part, tensor in zip(row.split([t.numel() for t in tensors]), tensors, strict=True)
        ]
        for i, shard in enumerate(maps):
            share = len(parts) // len(maps)
            found[i].append(_like(shard, parts[i * share : (i + 1) * share]))
    rank = dist.get_rank(group)
    tie = everybody.sum() * 0.0
    before = _tied(memory_before(found[0], rank, state), own, tie)
    return before, None if own_reverse is None else _tied(memory_after(found[1], rank), own_reverse, tie)


def _tied(memory: GDNMemory | None, shard: ShardMap, tie: Tensor) -> GDNMemory:
    """Return the memory (zeros for None) plus a zero that depends on `tie`."""
    S = torch.zeros_like(shard.S.increment) if memory is None else memory.S
    if shard.z is None:
        return GDNMemory(S + tie, None)
    z = torch.zeros_like(shard.z.increment[..., 0]) if memory is None or memory.z is None else memory.z
    return GDNMemory(S + tie, z + tie)
