"""Fine texture in world space: what trackers of features need and the smooth materials lack.

Value noise of three octaves o with lattice frequency f_o and weight w_o,

    n(p) = sum_o w_o noise_o(f_o p),     noise_o in [0, 1]: random at lattice points, smoothstep between them
    factor(p) = 1 + 1.1 strength sum_o w_o fade_o (noise_o(f_o p) - 1/2)

multiplied onto the colour of a surface before its light. A surface keeps its texture from wherever it is
seen; nothing but the position decides. An octave fades out where a pixel is as wide as half its lattice.
"""

from __future__ import annotations

import torch
from torch import Tensor

FREQUENCIES = (6.0, 14.0, 34.0)  # lattice points per metre
WEIGHTS = (0.55, 0.30, 0.15)
CONTRAST = 1.1


def check_detail(strength: float) -> float:
    """Return the strength of the texture as a float, or raise `ValueError` where it is none in [0, 1]."""
    if isinstance(strength, bool) or not isinstance(strength, int | float) or not 0 <= strength <= 1:
        raise ValueError(f"detail={strength!r} must be a strength from 0 (none) to 1")
    return float(strength)


def detail_factor(points: tuple[Tensor, Tensor, Tensor], footprint: Tensor, strength: float) -> Tensor:
    """Return the factor `(P, R)` on colours at world points x, y, z `(P, R)` each, in metres.

    footprint: width of a pixel at the point, `(P, R)` metres. strength in [0, 1]; 0 gives 1 everywhere.
    """
    factor = torch.ones_like(footprint)
    for octave, (frequency, weight) in enumerate(zip(FREQUENCIES, WEIGHTS, strict=True)):
        noise = _noise(tuple(axis * frequency for axis in points), octave)
        fade = (2 - 4 * frequency * footprint).clamp(0, 1)  # whole below a quarter, gone at half a lattice
        factor = factor + (CONTRAST * strength * weight) * fade * (noise - 0.5)
    return factor


def _noise(points: tuple[Tensor, ...], seed: int) -> Tensor:
    """Return value noise in [0, 1] at lattice coordinates, smoothstep-interpolated between 8 corners."""
    cells = [axis.floor() for axis in points]
    blend = [axis - cell for axis, cell in zip(points, cells, strict=True)]
    blend = [w * w * (3 - 2 * w) for w in blend]
    x, y, z = (cell.long() for cell in cells)
    total = torch.zeros_like(points[0])
    for corner in range(8):
        dx, dy, dz = corner & 1, corner >> 1 & 1, corner >> 2
        share = blend[0] if dx else 1 - blend[0]
        share = share * (blend[1] if dy else 1 - blend[1]) * (blend[2] if dz else 1 - blend[2])
        total = total + share * _random(x + dx, y + dy, z + dz, seed)
    return total


def _random(x: Tensor, y: Tensor, z: Tensor, seed: int) -> Tensor:
    """Return a number in [0, 1] for every lattice point: a multiplicative hash of its integers."""
    mixed = (x * 73856093 ^ y * 19349663 ^ z * 83492791 ^ seed * 2654435761) & 0xFFFFFF
    mixed = ((mixed ^ mixed >> 11) * 1103515245 + 12345) & 0x7FFFFFFF
    return (mixed >> 11 & 0x3FF).float() / 1023
