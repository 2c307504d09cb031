"""Lenses that bend: a world knows pinhole cameras only, so pictures have to be undistorted before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from wm_env.model.storage.facts import number, shown

LENS = ("k1", "k2", "p1", "p2", "k3", "k4", "k5", "k6", "s1", "s2", "s3", "s4")  # in the order of OpenCV
_LISTS = ("distortion", "distortion_coefficients", "distortion_params", "dist_coeffs", "dist", "D")
_READ = ("k1", "k2", "k3", "p1", "p2")
_MOST = 1e300
MAX_BEND = 0.005  # of the picture's width: a third of a pixel at 64, 4 pixels at 832


def check_pinhole(
    numbers: Mapping[str, float],
    intrinsics: Tensor,
    size: tuple[int, int],
    advice: str,
) -> None:
    """Raise `ValueError` where a lens moves a pixel by more than `MAX_BEND` of the width.

    Brown's model as OpenCV has it, x and y in focal lengths, r^2 = x^2 + y^2:

        x' = x (1 + k1 r^2 + k2 r^4 + k3 r^6) + 2 p1 x y + p2 (r^2 + 2 x^2), and y' alike

    numbers: those of `LENS` that are known; any but these five has to be 0. intrinsics: `(4,)` pixels of
    `size` (height, width).
    """
    if not any(numbers.values()):
        return
    others = [f"{name} = {value:g}" for name, value in numbers.items() if value and name not in _READ]
    if others:
        raise ValueError(
            f"the lens has {', '.join(others)}, which bends in a way that is not known here; {advice}"
        )
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


def lens_of(values: Mapping[str, object]) -> dict[str, float]:
    """Return the numbers of a lens that a camera file says, by name or as a list in the order of OpenCV.

    Raises `ValueError` for one that is no number, and for names and a list that say it twice.
    """
    found = numbers_of(values, LENS)
    for name in _LISTS:
        said = values.get(name)
        if said is None:
            continue
        rows = said.ravel().tolist() if isinstance(said, np.ndarray) else said
        if not isinstance(rows, Sequence) or isinstance(rows, str) or len(rows) > len(LENS):
            raise ValueError(
                f"{name} is {shown(said)}; expected up to {len(LENS)} numbers, as OpenCV has them"
            )
        listed = numbers_of(dict(zip(LENS, rows, strict=False)), LENS, name)
        twice = [key for key in listed if key in found and listed[key] != found[key]]
        if twice:
            raise ValueError(f"{name} and {twice[0]} say different lenses; keep one")
        found |= listed
    return found


def numbers_of(values: Mapping[str, object], names: Sequence[str], where: str = "") -> dict[str, float]:
    """Return the numbers of some names that are there; raises `ValueError` for one that is no number.

    where: the list that they stand in, for messages.
    """
    found = {}
    for name in names:
        value = values.get(name)
        if value is None:
            continue
        if not number(value, -_MOST, _MOST):
            said = f"{name} in {where}" if where else name
            raise ValueError(f"{said} is {shown(value)}; expected a number")
        found[name] = float(value)  # type: ignore[arg-type]  # it is a number
    return found
