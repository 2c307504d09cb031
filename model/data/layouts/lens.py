"""Lenses that bend: a world knows pinhole cameras only, so pictures have to be undistorted before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

MAX_BEND = 0.005  # of the picture's width: a third of a pixel at 64, 4 pixels at 832


def check_pinhole(
    numbers: dict[str, float],
    intrinsics: Tensor,
    size: tuple[int, int],
    advice: str,
) -> None:
    """Raise `ValueError` where a lens moves a pixel by more than `MAX_BEND` of the width.

    Brown's model as OpenCV has it, x and y in focal lengths, r^2 = x^2 + y^2:

        x' = x (1 + k1 r^2 + k2 r^4 + k3 r^6) + 2 p1 x y + p2 (r^2 + 2 x^2), and y' alike

    numbers: k1, k2, k3, p1, p2, those that are known. intrinsics: `(4,)` pixels of `size` (height, width).
    """
    if not any(numbers.values()):
        return
    fx, fy, cx, cy = intrinsics.double().tolist()
    height, width = size
    v, u = torch.meshgrid(
        torch.linspace(0, height, 17, dtype=torch.float64),
        torch.linspace(0, width, 17, dtype=torch.float64),
        indexing="ij",
    )
    x, y = (u - cx) / fx, (v - cy) / fy
    r2 = x * x + y * y
    k1, k2, k3, p1, p2 = (numbers.get(name, 0.0) for name in ("k1", "k2", "k3", "p1", "p2"))
    radial = k1 * r2 + k2 * r2**2 + k3 * r2**3
    dx = x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x * x)
    dy = y * radial + p1 * (r2 + 2 * y * y) + 2 * p2 * x * y
    bend = float(((dx * fx) ** 2 + (dy * fy) ** 2).sqrt().max()) / width
    if not bend <= MAX_BEND:
        said = ", ".join(f"{name} = {value:g}" for name, value in numbers.items() if value)
        raise ValueError(
            f"the lens ({said}) bends the picture by {100 * bend:.1f}% of its width, at most "
            f"{100 * MAX_BEND:g}% is a pinhole camera; {advice}"
        )


def numbers_of(values: Mapping[str, object], names: Sequence[str]) -> dict[str, float]:
    """Return the lens numbers that are there; raises `ValueError` for one that is no number."""
    found = {}
    for name in names:
        value = values.get(name)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise ValueError(f"{name} is {value!r}; expected a number")
        found[name] = float(value)
    return found
