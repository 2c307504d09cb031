"""Surface materials: one texture formula for every surface, so a whole picture is shaded by one table lookup.

With texture coordinates (u, v) in metres and

    s1 = sin(a1u u + a1v v + p1 + pi brick row),   row = floor((a2u u + a2v v + p2 + pi/2) / 2 pi)
    s2 = sin(a2u u + a2v v + p2 + warp s1)
    raw = product s1 s2 + first s1 + second s2 + lowest min(s1, s2) + bias

a surface shows c1 + (c0 - c1) (1 + tanh(raw / (softness + footprint frequency))) / 2. The footprint of the
pixel widens the edge, which is the anti-aliasing. Checkers, stripes, bricks, panels, dots and gradients are
choices of coefficients; four further kinds are kept for held-out scenes.
"""

from __future__ import annotations

import math

import numpy as np

# Columns of a material row; `MATERIAL[name]` is the column.
# fmt: off
COLUMNS = (
    "c0_r", "c0_g", "c0_b", "c1_r", "c1_g", "c1_b",  # the two colours, linear RGB
    "a1u", "a1v", "p1", "a2u", "a2v", "p2", "product", "first", "second", "lowest", "bias",  # the formula
    "softness", "frequency", "brick", "warp",
    "emission",  # share of its own light, 0..1
    "lamp_x", "lamp_y", "lamp_z",  # ceiling lamp of its room
    "centre_x", "centre_y", "centre_z", "inverse_rx", "inverse_ry", "inverse_rz",  # round surfaces only
)
# fmt: on
MATERIAL = {name: column for column, name in enumerate(COLUMNS)}

TRAIN_TEXTURES = ("plain", "checker", "stripes", "bands", "bricks", "panels", "dots", "gradient")
HELDOUT_TEXTURES = ("diagonal", "waves", "lattice", "planks")

BEACON_COLORS: dict[str, tuple[float, float, float]] = {
    "red": (0.95, 0.12, 0.10),
    "green": (0.12, 0.85, 0.20),
    "blue": (0.15, 0.30, 0.98),
    "yellow": (0.98, 0.85, 0.10),
    "magenta": (0.92, 0.15, 0.85),
    "cyan": (0.10, 0.88, 0.92),
}


def hsv(hue: float, saturation: float, value: float) -> np.ndarray:
    """Return the RGB colour `(3,)` in [0, 1] of hue (turns), saturation and value."""
    k = (np.array([5.0, 3.0, 1.0]) + 6.0 * (hue % 1.0)) % 6.0
    return value - value * saturation * np.clip(np.minimum(k, 4.0 - k), 0.0, 1.0)


def material(
    rng: np.random.Generator, texture: str, c0: np.ndarray, c1: np.ndarray, period: float
) -> np.ndarray:
    """Return a material row `(len(COLUMNS),)` float32 of `texture` in two colours; `period` in metres."""
    row = np.zeros(len(COLUMNS), dtype=np.float32)
    row[0:3], row[3:6] = c0, c1
    f = 2 * math.pi / period
    values = {
        "a1u": f,
        "a2v": f,
        "softness": 0.12,
        "p1": 2 * math.pi * rng.random(),
        "p2": 2 * math.pi * rng.random(),
    }
    match texture:
        case "plain":
            values |= {"bias": 3.0}
        case "checker":
            values |= {"product": 1.0, "a1u": f / 2, "a2v": f / 2}
        case "stripes":
            values |= {"first": 1.0}
        case "bands":
            values |= {"second": 1.0}
        case "bricks":
            values |= {"lowest": 1.0, "bias": 0.75, "a1u": f * 0.6, "a2v": f * 1.2, "brick": 1.0}
        case "panels":
            values |= {"lowest": 1.0, "bias": 0.7}
        case "dots":
            values |= {"first": 0.7, "second": 0.7, "bias": -0.45}
        case "gradient":
            values |= {"first": 0.4, "second": 0.8, "a1u": f * 0.25, "a2v": f * 0.3, "softness": 0.9}
        case "diagonal":
            values |= {"first": 1.0, "a1v": f, "a1u": f * 0.8}
        case "waves":
            values |= {"second": 1.0, "warp": 1.2, "a1u": f * 0.7}
        case "lattice":
            values |= {"product": 1.0, "a1u": f / 2, "a1v": f / 2, "a2u": f / 2, "a2v": -f / 2}
        case "planks":
            values |= {"lowest": 1.0, "bias": 0.85, "a1u": f * 0.3, "a2v": f * 1.3, "brick": 0.5}
        case _:
            raise ValueError(f"unknown texture {texture!r}; known: {TRAIN_TEXTURES + HELDOUT_TEXTURES}")
    for name, value in values.items():
        row[MATERIAL[name]] = value
    slopes = row[MATERIAL["a1u"]], row[MATERIAL["a1v"]], row[MATERIAL["a2u"]], row[MATERIAL["a2v"]]
    row[MATERIAL["frequency"]] = max(math.hypot(slopes[0], slopes[1]), math.hypot(slopes[2], slopes[3]))
    return row


def turned(row: np.ndarray) -> np.ndarray:
    """Return the material with u and v exchanged."""
    out = row.copy()
    for a, b in (("a1u", "a1v"), ("a2u", "a2v")):
        out[MATERIAL[a]], out[MATERIAL[b]] = row[MATERIAL[b]], row[MATERIAL[a]]
    return out


def room_scheme(rng: np.random.Generator, heldout: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """Return (walls (4, P), floor (P,), ceiling (P,), base hue in turns) of one room's colour scheme."""
    textures = HELDOUT_TEXTURES if heldout else TRAIN_TEXTURES
    hue = rng.random()
    if heldout:  # two strong hues a third of the circle apart, darker floors
        wall = hsv(hue, rng.uniform(0.45, 0.7), rng.uniform(0.7, 0.9))
        other = hsv(hue + rng.choice([-0.33, 0.33]), rng.uniform(0.3, 0.5), rng.uniform(0.55, 0.8))
        ground = hsv(hue + rng.uniform(0.25, 0.42), rng.uniform(0.35, 0.6), rng.uniform(0.45, 0.65))
    else:
        wall = hsv(hue, rng.uniform(0.15, 0.55), rng.uniform(0.72, 0.95))
        other = hsv(hue + rng.uniform(-0.1, 0.1), rng.uniform(0.25, 0.65), rng.uniform(0.42, 0.7))
        ground = hsv(hue + rng.uniform(0.38, 0.62), rng.uniform(0.15, 0.5), rng.uniform(0.5, 0.8))
    wall_kinds = textures if heldout else textures[1:]
    base = material(rng, str(rng.choice(wall_kinds)), wall, other, rng.uniform(1.1, 2.4))
    walls = np.stack([base] * 4)
    accent = int(rng.integers(4))
    if rng.random() < 0.6:  # one wall of its own, a landmark
        tint = hsv(hue + rng.uniform(0.12, 0.3), rng.uniform(0.3, 0.6), rng.uniform(0.65, 0.9))
        walls[accent] = material(rng, str(rng.choice(textures)), tint, 0.6 * tint, rng.uniform(1.1, 2.4))
    floor_kinds = textures if heldout else ("plain", "checker", "stripes", "panels", "bricks", "gradient")
    floor = material(
        rng, str(rng.choice(floor_kinds)), ground, ground * rng.uniform(0.55, 0.8), rng.uniform(1.2, 2.4)
    )
    ceiling_color = hsv(hue + 0.05, rng.uniform(0.02, 0.15), rng.uniform(0.85, 0.97))
    ceiling = material(rng, "plain", ceiling_color, ceiling_color, 2.0)
    return walls, turned(floor) if rng.random() < 0.5 else floor, ceiling, hue


def furniture_material(rng: np.random.Generator, hue: float, heldout: bool) -> np.ndarray:
    """Return the material row of a piece of furniture in a room of base hue `hue`."""
    tint = hsv(hue + rng.uniform(0.15, 0.85), rng.uniform(0.35, 0.8), rng.uniform(0.45, 0.9))
    if rng.random() < 0.5:
        return material(rng, "plain", tint, tint, 1.0)
    kinds = HELDOUT_TEXTURES if heldout else ("checker", "stripes", "bands", "panels", "gradient")
    return material(rng, str(rng.choice(kinds)), tint, tint * rng.uniform(0.5, 0.75), rng.uniform(0.6, 1.0))
