"""What a learned world knows of its own step: signals of trust, read from what the step computed anyway.

The frame is cut into the cells that a token sees (8 x 8 pixels). Per cell, and as the mean over cells per
frame, with r the refined and y the decoded pixels of the newest frame, m the splatted point memory and its
mask w in {0, 1} (`wm_env.model.point_memory`):

    unseen           1 - mean w                          share that no kept frame has shown
    imagined         sum s [drawn] / sum s               share of what is shown that the world drew itself
    untrue           1 - (1 - unseen) (1 - imagined)     share that no true frame has shown
    age              sum s a / sum s                     kept frames since the shown ones, a in [0, 1]
    mismatch         mean w |y - m|                      the decoder draws something else than is remembered
    depth_mismatch   mean w |y_d - m_d|                  the same of inverse depth
    refined          mean |r - y|                        the refiner disagrees with the decoder
    detail           mean |dr/dx| + |dr/dy| of luma      of the frame itself

s are the scores of the blocks that the view is composed of (`wm_env.model.composed_view`). The Gated
DeltaNet memories of the first block are read with the keys and queries that the new chunk will be committed
with, so they say how new it is to the state (S before the write; of worlds without a point memory, for beside
one they add nothing):

    residual         |V - K S| / |V|                     per token over heads: what the memory did not predict
    ray_residual     the same of the camera branch       keys in the frames of the rays
    read             log(1 + |Q_n z|)                    how much has been written along the queries
    ray_read         log(1 + |Q S| / |Q|)                of the camera branch

Frames are those of `LearnedWorld.step_chunk`, bit for bit: the same methods run in the same order.
Legend: `B` slots, `K` pixel frames, `G` rows and columns of cells.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor

from wm_env.model.attention import GDNAttention
from wm_env.model.chunks import ONE
from wm_env.model.composed_view import BLOCK, Blocks
from wm_env.model.dit import Block
from wm_env.model.metrics.images import LUMA
from wm_env.model.pixels import metric_depth, to_rgb
from wm_env.model.point_memory import NEAR, TOKEN_STRIDE, MemoryState, projected
from wm_env.model.rollout import LearnedWorld
from wm_env.model.rollout_state import RolloutState, View
from wm_env.model.state import DiTState, GDNState, cat
from wm_env.model.vae.tiny import GROUP, DecodeState
from wm_env.model.world import Chunk, World

CELL = TOKEN_STRIDE  # pixels on a side
TINY = 1e-6


class Signals(NamedTuple):
    """Signals of one step by name, of its newest frame: frame `(B,)` and cells `(B, G, G)`, float32."""

    frame: dict[str, Tensor]
    cells: dict[str, Tensor]


@runtime_checkable
class SignallingWorld(Protocol):
    """A world, or what stands before one, that answers for itself what the functions below are asked."""

    def step_with_signals(self, state: Any, c2w: Tensor) -> tuple[Chunk, Any, Signals]:
        """Return `step_chunk(state, c2w)`, bit for bit, and the signals of the step."""
        ...

    def start_error(self, images: Tensor, intrinsics: Tensor) -> Tensor | None:
        """Return the autoencoder's error of pictures, as the function of that name does."""
        ...


def step_with_signals(world: World, state: Any, c2w: Tensor) -> tuple[Chunk, Any, Signals]:
    """Return `world.step_chunk(state, c2w)` and the signals of the step; none of a world that has none."""
    if isinstance(world, SignallingWorld):
        return world.step_with_signals(state, c2w)
    if not isinstance(world, LearnedWorld):
        chunk, after = world.step_chunk(state, c2w)
        return chunk, after, Signals({}, {})
    return _learned_step(world, state, c2w)


@torch.inference_mode()
def _learned_step(
    world: LearnedWorld, state: RolloutState, c2w: Tensor
) -> tuple[Chunk, RolloutState, Signals]:
    view = world.look(state, c2w)
    latent, dit = world.draw(state, view)
    decoded = world.decode(state, latent)
    pixels = world.refine(state, decoded, view)
    cells = {"detail": detail(pixels[:, -1, :3])}
    if view.warped is None:
        cells |= state_signals(world, state, view, latent, dit)
    elif state.memory is not None:
        cells |= view_signals(decoded[:, -1].float(), pixels[:, -1], view.warped[:, -1])
        if view.blocks is not None:
            cells |= source_signals(state.memory, view.blocks, c2w[:, -1], state.intrinsics)
            cells["untrue"] = 1 - (1 - cells["unseen"]) * (1 - cells["imagined"])
    after = world.commit(state, view, latent, pixels[:, -1], dit)
    chunk = Chunk(to_rgb(pixels), latent, metric_depth(pixels[:, :, 3]))
    return chunk, after, Signals({name: cell.mean((1, 2)) for name, cell in cells.items()}, cells)


def view_signals(decoded: Tensor, refined: Tensor, seen: Tensor) -> dict[str, Tensor]:
    """Return unseen, mismatch, depth_mismatch and refined `(B, G, G)`.

    decoded, refined `(B, 4, H, W)` pixels; seen `(B, 5, H, W)`, what the memory shows with its mask.
    """
    mask = seen[:, 4]
    gap = (decoded - seen[:, :4]).abs() * mask[:, None]
    return {
        "unseen": 1 - per_cell(mask),
        "mismatch": per_cell(gap[:, :3].mean(1)),
        "depth_mismatch": per_cell(gap[:, 3]),
        "refined": per_cell((refined - decoded)[:, :3].abs().mean(1)),
    }


def source_signals(
    memory: MemoryState, blocks: Blocks, target: Tensor, intrinsics: Tensor
) -> dict[str, Tensor]:
    """Return imagined and age `(B, G, G)` of a view composed of `blocks` from `target` `(B, 4, 4)`.

    Every block counts at its centre with its score; a cell that none falls into is 1 in both. Of S slots the
    newest has age 1 / S; frame 0 is as old as the frames kept since.
    """
    inverse = memory.pixels[:, :, 3]
    height, width = inverse.shape[-2:]
    rows, columns = height // CELL, width // CELL
    centres = slice(BLOCK // 2, None, BLOCK)
    target = target.to(inverse.device)
    points = projected(inverse, memory.c2w, target[:, None], intrinsics, centres)[:, 0]  # (B, S, 3, P)
    x, y, z = (part.flatten(1).gather(1, blocks.number) for part in points.unbind(2))  # (B, N)
    u, v = ((part / z.clamp_min(NEAR) / CELL).floor() for part in (x, y))
    inside = (z > NEAR) & (u >= 0) & (u < columns) & (v >= 0) & (v < rows)
    weight = torch.where(inside, blocks.score, 0.0)
    cell = torch.where(inside, v * columns + u, 0.0).long()
    slots = memory.valid.shape[1]
    slot = blocks.number // points.shape[-1]
    since = memory.valid.flip(1).cumsum(1).flip(1).float() / slots  # (B, S), kept frames from here on
    told = {}
    total = torch.zeros(len(z), rows * columns, device=z.device).scatter_add_(1, cell, weight)
    for name, values in (("imagined", memory.drawn.float()), ("age", since)):
        own = weight * values.gather(1, slot)
        sums = torch.zeros_like(total).scatter_add_(1, cell, own)
        share = torch.where(total > TINY, sums / total.clamp_min(TINY), torch.ones_like(total))
        told[name] = share.unflatten(1, (rows, columns))
    return told


def state_signals(
    world: LearnedWorld, state: RolloutState, view: View, latent: Tensor, dit: DiTState
) -> dict[str, Tensor]:
    """Return residual, ray_residual, read and ray_read `(B, h, w)` of a drawn latent `(B, C, h, w)`.

    dit: the state with the chunk before it. Nothing of a world whose first block is no GDN block.
    """
    first, before = world.dit.blocks[0], dit.blocks[0].attention
    assert isinstance(first, Block)
    if not isinstance(first.attn, GDNAttention) or not isinstance(before, GDNState):
        return {}
    level = torch.full((len(latent), 1), float(world.sampler.history_timestep), device=world.device)
    with world.precision():
        x, call = world.dit.embed(
            latent[:, :, None], level, state.text, view.camera, dit, memory=view.tokens, chunks=ONE
        )
        a = first.attention_input(x, call)
        main = first.attn.operands(a, call.geometry, before, ONE)
        told = {
            "residual": residual(main.k, main.v, before.S),
            "read": torch.log1p((main.q_norm.float()[:, :, 0] @ before.z[..., None])[..., 0].abs().mean(1)),
        }
        if call.geometry.rays is not None:
            rays = first.attn.camera_operands(a, call.geometry, call.geometry.rays, main, before, ONE)
            q = rays.q.float()[:, :, 0]  # (B, H, N, D)
            told["ray_residual"] = residual(rays.k, rays.v, before.S_cam)
            told["ray_read"] = torch.log1p(
                (q @ before.S_cam).square().sum((1, 3)).sqrt() / q.square().sum((1, 3)).sqrt().clamp_min(TINY)
            )
    return {name: values.unflatten(1, latent.shape[-2:]) for name, values in told.items()}


def residual(k: Tensor, v: Tensor, S: Tensor) -> Tensor:
    """Return |V - K S| / |V| `(B, N)` per token over all heads; k, v `(B, H, 1, N, D)`, S `(B, H, D, D)`."""
    keys, values = k.float()[:, :, 0], v.float()[:, :, 0]
    missed = (values - keys @ S).square().sum((1, 3)).sqrt()
    return missed / values.square().sum((1, 3)).sqrt().clamp_min(TINY)


def detail(colour: Tensor) -> Tensor:
    """Return |d/dx| + |d/dy| of luma `(B, G, G)`, colours in [-1, 1], of `(B, 3, H, W)`."""
    weights = torch.tensor(LUMA, device=colour.device)
    luma = (colour.clamp(-1, 1) * weights[:, None, None]).sum(1)  # (B, H, W)
    across, along = F.pad(luma.diff(dim=2), (0, 1)), F.pad(luma.diff(dim=1), (0, 0, 0, 1))
    return per_cell(across.abs() + along.abs())


def per_cell(values: Tensor) -> Tensor:
    """Return the mean of every cell `(B, H / 8, W / 8)` of `(B, H, W)`."""
    return F.avg_pool2d(values[:, None], CELL)[:, 0]


@torch.inference_mode()
def start_error(world: World, images: Tensor, intrinsics: Tensor) -> Tensor | None:
    """Return the RMS error (grey levels) of pictures through a world's autoencoder `(B,)`; None without one.

    images uint8 `(B, h, w, 3)` at the world's size; intrinsics `(B, 4)` pixels. Large where a picture is
    unlike those that the autoencoder was trained on.
    """
    if isinstance(world, SignallingWorld):
        return world.start_error(images, intrinsics)
    if not isinstance(world, LearnedWorld):
        return None
    found = []
    for image, camera in zip(images.to(world.device), intrinsics.to(world.device).float(), strict=True):
        latent = world.vae.encode_image(image[None], camera[None]).latent
        pixels, _ = world.vae.decode(latent, DecodeState(latent))
        own = to_rgb(pixels[:, GROUP - 1])[0].double()
        found.append((own - image.double()).square().mean().sqrt())
    return torch.stack(found).float().cpu()


@torch.inference_mode()
def disagreement(world: World, state: Any, c2w: Tensor, noise_seeds: tuple[int, int]) -> Tensor:
    """Return how far two draws of one step are apart, RMS (grey levels) of the newest frames `(B,)`.

    The step is drawn twice in one batch from the same state, with the noise of two seeds; it costs a step of
    twice the slots and changes nothing.
    """
    batch = len(c2w)
    both = world.set_noise_seed(cat([state, state]), [seed for seed in noise_seeds for _ in range(batch)])
    chunk, _ = world.step_chunk(both, torch.cat([c2w, c2w]))
    one, other = chunk.frames[:, -1].double().split(batch)
    return (one - other).square().mean((1, 2, 3)).sqrt().float().cpu()
