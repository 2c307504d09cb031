"""Where a camera may be, how it slides along obstacles, and how far apart places are on foot.

The camera is a vertical cylinder of `radius` from the floor to itself: furniture blocks at any height. Free
space is the union of the cells shrunk by `radius`, doorways lengthened instead along their passage, minus
furniture grown by `radius`.
"""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from wm_env.model.contact import RADIUS, slide_where
from wm_env.model.scenes.raycast import cast
from wm_env.model.scenes.worlds import Scene

HALF_EXTENT = 8.0  # scenes lie within +- this in x and z
_EDGE = 1e-5


def is_free(scene: Scene, points: Tensor, radius: float = RADIUS) -> Tensor:
    """Return whether `points` `(B, M, 3)` are at least `radius` from all geometry, `(B, M)` bool."""
    p = points.to(device=scene.cell_lo.device, dtype=torch.float64)[:, :, None]  # (B, M, 1, 3)
    through = scene.passage[:, :, None] == torch.arange(3, device=p.device)  # (B, C, 3)
    shrink = torch.where(through, -radius - _EDGE, radius)
    inside = (p >= (scene.cell_lo + shrink)[:, None]) & (p <= (scene.cell_hi - shrink)[:, None])
    flat = p[..., [0, 2]]
    lo, hi = scene.box_lo[:, None, :, [0, 2]] - radius, scene.box_hi[:, None, :, [0, 2]] + radius
    in_box = ((flat > lo) & (flat < hi)).all(-1).any(-1)  # (B, M)
    gap = flat - scene.cylinder[:, None, :, :2]  # (B, M, Y, 2)
    in_cylinder = (gap.square().sum(-1) < (_post_radius(scene)[:, None] + radius).square()).any(-1)
    return inside.all(-1).any(-1) & ~in_box & ~in_cylinder


def _post_radius(scene: Scene) -> Tensor:
    """Cylinder radii `(B, Y)`; the beacon's post counts with the radius of its head."""
    radius = scene.cylinder[..., 2].clone()
    radius[:, 0] = torch.maximum(radius[:, 0], scene.sphere[:, 3])
    return radius


def slide(scene: Scene, start: Tensor, end: Tensor, radius: float = RADIUS) -> tuple[Tensor, Tensor]:
    """Return the position `(B, 3)` float64 reached from `start` towards `end`, and `(B,)` if it was blocked.

    Of a blocked move the longest part along x, y, z or two of them that stays free is kept, so a camera walks
    along a wall. `start` should be free; a camera inside geometry moves only to free places.
    """
    return slide_where(lambda position, tries: is_free(scene, tries, radius), start, end)


def line_of_sight(scene: Scene, a: Tensor, b: Tensor, tolerance: float = 0.02) -> Tensor:
    """Return whether nothing lies between points `a` and `b` `(B, 3)` (or `(3,)`), `(B,)` bool.

    `b` may be on or inside an object of extent `tolerance`.
    """
    device = scene.cell_lo.device
    a, b = (x.to(device=device, dtype=torch.float32).reshape(-1, 3) for x in (a, b))
    a, b = (x.expand(scene.light.shape[0], 3) for x in (a, b))
    offset = b - a
    reach = offset.norm(dim=-1)
    return (cast(scene, a[:, None], offset[:, None])[:, 0] >= reach - tolerance) | (reach <= tolerance)


@dataclass(frozen=True)
class DistanceField:
    """Shortest walking distances to one goal in one scene.

    origin: (x, z) of the centre of grid cell (0, 0). cell: metres. metres: float64 `(Gx, Gz)`, inf where
    no path leads. goal: `(3,)` float64.
    """

    origin: tuple[float, float]
    cell: float
    metres: np.ndarray
    goal: np.ndarray

    def at(self, points: Tensor) -> Tensor:
        """Return the walking distance `(M,)` float64 of `points` `(M, 3)`: best over the nearby cells.

        Never below the straight distance in the floor plane; heights do not count.
        """
        xz = points.detach().cpu().double().numpy().reshape(-1, 3)[:, [0, 2]]  # (M, 2)
        base = np.floor((xz - self.origin) / self.cell).astype(int)
        best = np.full(len(xz), np.inf)
        for dx in (0, 1):
            for dz in (0, 1):
                index = base + np.array([dx, dz])
                inside = ((index >= 0) & (index < self.metres.shape)).all(1)
                clipped = np.clip(index, 0, np.array(self.metres.shape) - 1)
                leg = np.linalg.norm(self.origin + clipped * self.cell - xz, axis=1)
                best = np.minimum(
                    best, np.where(inside, self.metres[clipped[:, 0], clipped[:, 1]] + leg, np.inf)
                )
        straight = np.linalg.norm(xz - self.goal[[0, 2]], axis=1)
        near = (straight < self.cell) & np.isfinite(best)
        return torch.from_numpy(np.where(near, straight, best))


def distance_field(scene: Scene, goal: Tensor, radius: float = RADIUS, cell: float = 0.1) -> DistanceField:
    """Return distances to `goal` `(3,)` over a grid of free cells, 8-connected, by Dijkstra's algorithm.

    Where the goal itself is not free (a beacon), the free cells nearest to it are its seeds. `scene` has B=1.
    """
    if scene.light.shape[0] != 1:
        raise ValueError(f"a distance field belongs to one scene, not to {scene.light.shape[0]}")
    rooms = int(scene.counts[0, 0])
    lo = scene.cell_lo[0, :rooms].amin(0).cpu().double().numpy()
    hi = scene.cell_hi[0, :rooms].amax(0).cpu().double().numpy()
    nx, nz = (math.ceil((hi[i] - lo[i]) / cell) + 1 for i in (0, 2))
    x, z = lo[0] + cell * np.arange(nx), lo[2] + cell * np.arange(nz)
    grid = np.stack(np.meshgrid(x, z, indexing="ij"), -1)  # (Gx, Gz, 2)
    points = np.stack([grid[..., 0], np.full((nx, nz), -1.4), grid[..., 1]], -1).reshape(1, -1, 3)
    free = is_free(scene, torch.from_numpy(points), radius)[0].cpu().numpy().reshape(nx, nz)
    target = goal.detach().cpu().double().numpy().reshape(3)
    metres = _dijkstra(free, np.linalg.norm(grid - target[[0, 2]], axis=-1), cell)
    return DistanceField((float(x[0]), float(z[0])), cell, metres, target)


def _dijkstra(free: np.ndarray, straight: np.ndarray, cell: float) -> np.ndarray:
    """Return path lengths `(Gx, Gz)` to the goal, given straight distances to it; the nearest are seeds."""
    nx, nz = free.shape
    metres = np.full(free.shape, np.inf)
    if not free.any():
        return metres
    nearest = straight[free].min()
    seeds = np.argwhere(free & (straight <= nearest + 1.5 * cell))
    best = [math.inf] * (nx * nz)
    heap: list[tuple[float, int]] = []
    for i, j in seeds.tolist():
        best[i * nz + j] = float(straight[i, j])
        heap.append((float(straight[i, j]), i * nz + j))
    heapq.heapify(heap)
    open_cell = free.reshape(-1).tolist()
    moves = [(a, b, cell * math.hypot(a, b)) for a in (-1, 0, 1) for b in (-1, 0, 1) if a or b]
    while heap:
        length, index = heapq.heappop(heap)
        if length > best[index]:
            continue
        i, j = divmod(index, nz)
        for a, b, step in moves:
            if 0 <= i + a < nx and 0 <= j + b < nz:
                other = index + a * nz + b
                if open_cell[other] and length + step < best[other]:
                    best[other] = length + step
                    heapq.heappush(heap, (length + step, other))
    metres[:] = np.array(best).reshape(nx, nz)
    return metres


def visible_cells(scene: Scene, c2w: Tensor, fov_deg: Tensor | float, cell: float = 0.25) -> Tensor:
    """Return the floor cells `(B, G, G)` bool that cameras `(B, 4, 4)` see along a horizontal fan of rays.

    The rays leave at eye height. The grid covers x, z in [-8, 8] for every scene, G = 16 / cell, index
    floor((x + 8) / cell). `fov_deg` is the horizontal field of view, a number or `(B,)`.
    """
    rays, size = 64, round(2 * HALF_EXTENT / cell)
    device = scene.cell_lo.device
    pose = c2w.to(device=device, dtype=torch.float32)
    batch = pose.shape[0]
    half = (
        torch.deg2rad(torch.as_tensor(fov_deg, dtype=torch.float32, device=device)).expand(batch)[:, None] / 2
    )
    angle = torch.atan2(pose[:, 0, 2], pose[:, 2, 2])[:, None] + half * torch.linspace(
        -1, 1, rays, device=device
    )
    direction = torch.stack([angle.sin(), torch.zeros_like(angle), angle.cos()], -1)  # (B, rays, 3)
    origin = pose[:, None, :3, 3].expand_as(direction)
    reach = cast(scene, origin, direction)  # (B, rays)
    along = torch.arange(0.0, 2.9 * HALF_EXTENT, 0.5 * cell, device=device)
    points = origin[..., None, :] + along[:, None] * direction[..., None, :]  # (B, rays, samples, 3)
    index = ((points[..., [0, 2]] + HALF_EXTENT) / cell).floor().long()
    seen = (along < reach[..., None]) & ((index >= 0) & (index < size)).all(-1)
    flat = torch.where(seen, index[..., 0] * size + index[..., 1], size * size).flatten(
        1
    )  # (B, rays * samples)
    grid = torch.zeros(batch, size * size + 1, dtype=torch.bool, device=device)
    return grid.scatter(1, flat, True)[:, :-1].unflatten(1, (size, size))
