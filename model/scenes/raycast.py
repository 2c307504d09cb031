"""Exact batched ray casting of scenes: RGB, z-depth and distances, in torch on any device.

Empty space is a union of touching boxes (cells). A ray inside a box leaves it at its exit parameter; where
another cell has been entered by then, the ray goes on to that cell's exit:

    t <- max { exit_c : enter_c <= t },   at most once per cell, starting at t = 0.

Furniture is intersected by slab tests, pillars and the beacon by quadratics. A ray of a picture is
`origin + t * direction`, the direction with z-component 1 in the camera, so t is the z-depth.

Legend: `B` scenes, `F` frames, `P` cameras of a block, `R` rays of a camera, `C` primitives of a kind.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from wm_env.model.geometry import pixel_rays
from wm_env.model.placement import placed
from wm_env.model.scenes.detail import check_detail, detail_factor
from wm_env.model.scenes.layouts import ROOMS
from wm_env.model.scenes.materials import MATERIAL
from wm_env.model.scenes.worlds import BOX_SURFACE, CYLINDER_SURFACE, SPHERE_SURFACE, Scene
from wm_env.model.state import select

PARALLEL = 1e-6  # direction components nearer to zero than this are moved here, sign kept
TOUCH = 1e-4  # cells nearer than this along a ray touch
NEAREST = 1e-3
LIGHT_GAIN = (0.52, 0.80, 1.08)  # dim, normal, bright
FOG_DENSITY = (0.01, 0.17)  # per metre: clear, foggy
_CPU_BLOCK_RAYS, _GPU_BLOCK_RAYS = 1 << 14, 1 << 22


class Hit(NamedTuple):
    """First hits: t `(P, R)` ray parameter, surface `(P, R)` int64, axis `(P, R)` int64 (3 = round)."""

    t: Tensor
    surface: Tensor
    axis: Tensor


@torch.no_grad()
def render(
    scene: Scene, c2w: Tensor, intrinsics: Tensor, height: int, width: int, *, detail: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Return rgb uint8 `(B, F, height, width, 3)` and z-depth float32 `(B, F, height, width)` in metres.

    c2w: `(B, F, 4, 4)` absolute camera poses. intrinsics: `(B, 4)` (fx, fy, cx, cy) in pixels. detail: how
    strong a fine texture is, in [0, 1] (`wm_env.model.scenes.detail`); 0, that of all data, is none.
    """
    strength = check_detail(detail)
    batch, frames = c2w.shape[:2]
    if scene.light.shape[0] != batch or intrinsics.shape != (batch, 4):
        raise ValueError(
            f"{scene.light.shape[0]} scenes, poses {tuple(c2w.shape)} and intrinsics "
            f"{tuple(intrinsics.shape)} do not share a batch size"
        )
    device = scene.cell_lo.device
    pose = c2w.to(device=device, dtype=torch.float32).reshape(-1, 4, 4)  # (B*F, 4, 4)
    camera = intrinsics.to(device=device, dtype=torch.float32)
    rays = pixel_rays(camera, height, width, 0.5).reshape(batch, -1, 3).mT  # (B, 3, R)
    pixel = 1.0 / camera[:, 0]  # angular size of a pixel
    owner = torch.arange(batch).repeat_interleave(frames)  # (B*F,), on the host as `Scene.counts` may be
    rgb = torch.empty(batch * frames, height * width, 3, dtype=torch.uint8, device=device)
    depth = torch.empty(batch * frames, height * width, dtype=torch.float32, device=device)
    for rows, slots in _blocks(batch, frames, height * width, device):
        part = select(scene, owner[rows] if slots is None else [slots])
        which = placed(owner[rows] if slots is None else owner[rows][:1], device)
        direction = pose[rows, :3, :3] @ rays[which]  # (P, 3, R)
        origin = pose[rows, :3, 3:]  # (P, 3, 1)
        direction = _away_from_zero(direction)
        hit = _first_hit(part, origin, direction)
        color = _shade(part, origin, direction, hit, pixel[which][:, None], strength)  # (P, 3, R)
        rgb[rows] = color.clamp_(0, 1).mul_(255).add_(0.5).to(torch.uint8).mT
        depth[rows] = hit.t
    return rgb.reshape(batch, frames, height, width, 3), depth.reshape(batch, frames, height, width)


@torch.no_grad()
def surfaces(scene: Scene, c2w: Tensor, intrinsics: Tensor, height: int, width: int) -> Tensor:
    """Return what every pixel of `render` shows: int64 `(B, F, height, width)`, a surface of the scene.

    Arguments are those of `render`; `worlds.surface_kinds` says which surfaces are floor, ceiling and walls.
    """
    batch, frames = c2w.shape[:2]
    device = scene.cell_lo.device
    pose = c2w.to(device=device, dtype=torch.float32)  # (B, F, 4, 4)
    camera = intrinsics.to(device=device, dtype=torch.float32)
    rays = pixel_rays(camera, height, width, 0.5).reshape(batch, -1, 3).mT  # (B, 3, R)
    found = [
        _first_hit(
            select(scene, [slot]),
            pose[slot, rows, :3, 3:],  # (P, 3, 1)
            _away_from_zero(pose[slot, rows, :3, :3] @ rays[slot]),  # (P, 3, R)
        ).surface
        for slot in range(batch)
        for rows in torch.arange(frames).split(max(1, _CPU_BLOCK_RAYS // (height * width)))
    ]
    return torch.cat(found).reshape(batch, frames, height, width)


@torch.no_grad()
def cast(scene: Scene, origins: Tensor, directions: Tensor) -> Tensor:
    """Return the distance `(B, M)` float32 in metres to the first hit along `directions` `(B, M, 3)`."""
    device = scene.cell_lo.device
    origin = origins.to(device=device, dtype=torch.float32).mT  # (B, 3, M)
    unit = torch.nn.functional.normalize(directions.to(device=device, dtype=torch.float32), dim=-1).mT
    return _first_hit(scene, origin, _away_from_zero(unit)).t


def _blocks(batch: int, frames: int, rays: int, device: torch.device) -> list[tuple[slice, int | None]]:
    """Return (rows of the flattened (B, F) axis, scene slot or None for rows of several scenes)."""
    if device.type != "cpu":
        size = max(1, _GPU_BLOCK_RAYS // rays)
        return [(slice(i, min(i + size, batch * frames)), None) for i in range(0, batch * frames, size)]
    size = max(1, _CPU_BLOCK_RAYS // rays)
    return [
        (slice(slot * frames + i, slot * frames + min(i + size, frames)), slot)
        for slot in range(batch)
        for i in range(0, frames, size)
    ]


def _away_from_zero(direction: Tensor) -> Tensor:
    small = direction.abs() < PARALLEL
    return torch.where(small, torch.copysign(torch.full_like(direction, PARALLEL), direction), direction)


def _first_hit(scene: Scene, origin: Tensor, direction: Tensor) -> Hit:
    """Return the first hits of rays from `origin` `(P, 3, R or 1)` along `direction` `(P, 3, R)`.

    No component of a direction is 0. The scene batch is P or 1.
    """
    rooms, doors, boxes, cylinders = scene.counts.amax(0).tolist()
    inverse = direction.reciprocal()
    hit = _leave_cells(scene, rooms, doors, origin, direction, inverse)
    if boxes:
        hit = _meet_boxes(scene, boxes, origin, inverse, hit)
    hit = _meet_cylinders(scene, cylinders, origin, direction, inverse, hit)
    hit = _meet_sphere(scene, origin, direction, hit)
    return Hit(hit.t.clamp_min(NEAREST), hit.surface, hit.axis)


def _slabs(lo: Tensor, hi: Tensor, origin: Tensor, inverse: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """Return per axis the nearer and farther plane parameters `(P, C, R)` of boxes `(P, C, 3)`."""
    near, far = [], []
    for axis in range(3):
        start, slope = origin[:, None, axis], inverse[:, None, axis]  # (P, 1, R)
        a = (lo[:, :, axis, None] - start) * slope
        b = (hi[:, :, axis, None] - start) * slope
        near.append(torch.minimum(a, b))
        far.append(torch.maximum(a, b))
    return near, far


def _leave_cells(
    scene: Scene, rooms: int, doors: int, origin: Tensor, direction: Tensor, inverse: Tensor
) -> Hit:
    index = [*range(rooms), *range(ROOMS, ROOMS + doors)]
    lo, hi = (
        torch.cat([cells[:, :rooms], cells[:, ROOMS : ROOMS + doors]], dim=1)
        for cells in (scene.cell_lo, scene.cell_hi)
    )
    near, far = _slabs(lo, hi, origin, inverse)
    leave = torch.minimum(torch.minimum(far[0], far[1]), far[2])  # (P, C, R)
    axis = torch.where(far[0] <= leave, 0, torch.where(far[1] <= leave, 1, 2))
    positive = (direction > 0).long()  # (P, 3, R)
    face = 2 * axis + torch.where(
        axis == 0, positive[:, None, 0], torch.where(axis == 1, positive[:, None, 1], positive[:, None, 2])
    )
    if len(index) == 1:
        return Hit(leave[:, 0], face[:, 0], axis[:, 0])
    enter = torch.maximum(torch.maximum(near[0], near[1]), near[2])
    t = torch.zeros_like(leave[:, 0])
    cell = torch.zeros_like(axis[:, 0])
    for _ in index:
        reached = torch.where(enter <= (t + TOUCH)[:, None], leave, -1.0)
        t, cell = reached.max(dim=1)
    first = placed(6 * torch.tensor(index), t.device)  # surface of each cell's face 0
    chosen = cell[:, None]
    return Hit(t, first[cell] + face.gather(1, chosen)[:, 0], axis.gather(1, chosen)[:, 0])


def _meet_boxes(scene: Scene, count: int, origin: Tensor, inverse: Tensor, hit: Hit) -> Hit:
    near, far = _slabs(scene.box_lo[:, :count], scene.box_hi[:, :count], origin, inverse)
    enter = torch.maximum(torch.maximum(near[0], near[1]), near[2])  # (P, C, R)
    leave = torch.minimum(torch.minimum(far[0], far[1]), far[2])
    t, index = torch.where((enter < leave) & (enter > NEAREST), enter, torch.inf).min(dim=1)  # (P, R)
    chosen = index[:, None]
    axis = torch.where(
        near[0].gather(1, chosen)[:, 0] >= t, 0, torch.where(near[1].gather(1, chosen)[:, 0] >= t, 1, 2)
    )
    closer = t < hit.t
    return Hit(
        torch.where(closer, t, hit.t),
        torch.where(closer, BOX_SURFACE + index, hit.surface),
        torch.where(closer, axis, hit.axis),
    )


def _meet_cylinders(
    scene: Scene, count: int, origin: Tensor, direction: Tensor, inverse: Tensor, hit: Hit
) -> Hit:
    """Vertical cylinders (x, z, radius, y top, y bottom) with a lid on top."""
    t, surface, axis = hit
    ox, oy, oz = origin.unbind(1)  # (P, R or 1)
    dx, dy, dz = direction.unbind(1)
    a = dx * dx + dz * dz
    inverse_a = a.reciprocal()
    for index in range(count):
        x, z, radius, top, bottom = (
            value[:, None] for value in scene.cylinder[:, index].unbind(-1)
        )  # (P, 1)
        px, pz = ox - x, oz - z
        b = px * dx + pz * dz
        disc = b * b - a * (px * px + pz * pz - radius * radius)
        side = (-b - disc.clamp_min(0).sqrt()) * inverse_a
        y = oy + side * dy
        closer = (disc > 0) & (side > NEAREST) & (y > top) & (y < bottom) & (side < t)
        t = torch.where(closer, side, t)
        surface = torch.where(closer, CYLINDER_SURFACE + index, surface)
        axis = torch.where(closer, 3, axis)
        lid = (top - oy) * inverse[:, 1]
        qx, qz = px + lid * dx, pz + lid * dz
        closer = (qx * qx + qz * qz < radius * radius) & (lid > NEAREST) & (lid < t)
        t = torch.where(closer, lid, t)
        surface = torch.where(closer, CYLINDER_SURFACE + index, surface)
        axis = torch.where(closer, 1, axis)
    return Hit(t, surface, axis)


def _meet_sphere(scene: Scene, origin: Tensor, direction: Tensor, hit: Hit) -> Hit:
    centre, radius = scene.sphere[:, :3, None], scene.sphere[:, 3:]  # (P, 3, 1), (P, 1)
    offset = origin - centre
    a = (direction * direction).sum(1)
    b = (offset * direction).sum(1)
    disc = b * b - a * ((offset * offset).sum(1) - radius * radius)
    t = (-b - disc.clamp_min(0).sqrt()) / a
    closer = (disc > 0) & (t > NEAREST) & (t < hit.t)
    return Hit(
        torch.where(closer, t, hit.t),
        torch.where(closer, SPHERE_SURFACE, hit.surface),
        torch.where(closer, 3, hit.axis),
    )


def _shade(scene: Scene, origin: Tensor, direction: Tensor, hit: Hit, pixel: Tensor, detail: float) -> Tensor:
    """Return linear colours `(P, 3, R)` of first hits: texture x (ambient + lamp + bounce), then fog.

    lamp = max(0, n.l) / (1 + r^2 / 6) from the ceiling lamp of the surface's room; `pixel` `(P, 1)` is the
    angle of a pixel. detail: strength of the fine texture.
    """
    t, surface, axis = hit
    table = scene.materials.flatten(0, 1).mT.contiguous()  # (columns, scenes * S)
    slot = torch.arange(scene.materials.shape[0], device=t.device)[:, None] * scene.materials.shape[1]
    rows = table.index_select(1, (surface + slot).flatten()).unflatten(1, t.shape)  # (columns, P, R)

    def column(name: str) -> Tensor:
        return rows[MATERIAL[name]]

    px, py, pz = (origin + t[:, None] * direction).unbind(1)  # (P, R)
    dx, dy, dz = direction.unbind(1)
    on_x, on_y, on_z, is_round = axis == 0, axis == 1, axis == 2, axis == 3
    nx = torch.where(is_round, (px - column("centre_x")) * column("inverse_rx"), -torch.sign(dx) * on_x)
    ny = torch.where(is_round, (py - column("centre_y")) * column("inverse_ry"), -torch.sign(dy) * on_y)
    nz = torch.where(is_round, (pz - column("centre_z")) * column("inverse_rz"), -torch.sign(dz) * on_z)

    length = (dx * dx + dy * dy + dz * dz).sqrt()
    distance = t * length
    facing = (nx * dx + ny * dy + nz * dz).abs() / length
    footprint = distance * pixel / facing.clamp_min(0.12)

    u = torch.where(on_x, pz, torch.where(is_round, nx, px))
    v = torch.where(on_y, pz, py)
    angle2 = column("a2u") * u + column("a2v") * v + column("p2")
    row = torch.floor((angle2 + torch.pi / 2) * (0.5 / torch.pi))
    s1 = torch.sin(column("a1u") * u + column("a1v") * v + column("p1") + torch.pi * column("brick") * row)
    s2 = torch.sin(angle2 + column("warp") * s1)
    raw = column("product") * s1 * s2 + column("first") * s1 + column("second") * s2
    raw = raw + column("lowest") * torch.minimum(s1, s2) + column("bias")
    blend = 0.5 + 0.5 * torch.tanh(raw / (column("softness") + column("frequency") * footprint))  # (P, R)
    color = rows[3:6] + (rows[0:3] - rows[3:6]) * blend  # (3, P, R)
    if detail:
        color = color * detail_factor((px, py, pz), footprint, detail)

    lx, ly, lz = column("lamp_x") - px, column("lamp_y") - py, column("lamp_z") - pz
    reach2 = lx * lx + ly * ly + lz * lz
    lamp = (nx * lx + ny * ly + nz * lz).clamp_min(0) * (reach2 + 1e-3).rsqrt() / (1 + reach2 / 6)
    ambient = 0.60 + 0.06 * nx - 0.05 * nz + 0.06 * ny  # ny > 0 is the ceiling, lit from the floor
    corner = 1 - 0.18 * torch.exp(py * 5)  # walls darken towards the floor
    light = ambient * torch.where(on_y, 1.0, corner) + 0.85 * lamp
    glow = torch.exp(-8 * reach2)  # the lamp itself, a bright spot on the ceiling
    gain = placed(torch.tensor(LIGHT_GAIN), t.device)[scene.light][:, None]  # (P, 1)
    emission = column("emission")
    color = color * (gain * light * (1 - emission) + emission * (0.75 + 0.35 * facing)) + gain * glow
    density = placed(torch.tensor(FOG_DENSITY), t.device)[scene.air][:, None]
    clear = torch.exp(-density * distance)
    fog = scene.fog_color.mT[:, :, None] * (0.85 * gain)  # (3, P, 1)
    return (fog + (color - fog) * clear).transpose(0, 1)
