"""How close images are to the truth: MSE, PSNR, SSIM.

Formulas: docs/reference/evaluation.md#image-metrics. Legend: `h, w` pixels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

LUMA = (0.299, 0.587, 0.114)  # of R, G, B
PSNR_CAP = 100.0
_MSE_FLOOR = 1e-10
_SSIM_WINDOW = 11


def mse(a: Tensor, b: Tensor) -> Tensor:
    """Return the mean squared error `(...)` float64 of images `(..., h, w, 3)`, in grey levels squared."""
    _check_images(a, b)
    return (a.double() - b.double()).square().flatten(-3).mean(-1)


def psnr(a: Tensor, b: Tensor) -> Tensor:
    """Return 10 log10(255^2 / MSE) `(...)` in dB of uint8 images `(..., h, w, 3)`; 100 where equal."""
    error = mse(a, b)
    value = 10 * torch.log10(255.0**2 / error.clamp_min(_MSE_FLOOR))
    return torch.where(error < _MSE_FLOOR, PSNR_CAP, value)


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """Return the structural similarity `(...)` of uint8 images `(..., h, w, 3)`: the uniform-window variant.

        (2 m_a m_b + C1)(2 s_ab + C2) / ((m_a^2 + m_b^2 + C1)(s_a^2 + s_b^2 + C2))

    Per channel, 11x11 uniform window, biased moments, C1 = (0.01*255)^2, C2 = (0.03*255)^2; mean over the
    whole map (image mirrored at its border) and over channels. Gaussian variants give other numbers.
    """
    _check_images(a, b)
    if min(a.shape[-3:-1]) < _SSIM_WINDOW:
        raise ValueError(
            f"images of {a.shape[-3]}x{a.shape[-2]} are smaller than the {_SSIM_WINDOW}x11 window"
        )
    x, y = (image.double().movedim(-1, -3).flatten(0, -4) for image in (a[None], b[None]))  # (n, 3, h, w)
    mean_x, mean_y = _window_mean(x), _window_mean(y)
    var_x = _window_mean(x * x) - mean_x**2
    var_y = _window_mean(y * y) - mean_y**2
    covariance = _window_mean(x * y) - mean_x * mean_y
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    similarity = ((2 * mean_x * mean_y + c1) * (2 * covariance + c2)) / (
        (mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2)
    )
    return similarity.flatten(1).mean(-1).reshape(a.shape[:-3])


def _window_mean(x: Tensor) -> Tensor:
    """Return the local mean of `(n, 3, h, w)` over an 11x11 window, borders mirrored (edge repeated)."""
    half = _SSIM_WINDOW // 2
    for axis in (-2, -1):
        size = x.shape[axis]
        index = torch.arange(-half, size + half, device=x.device)
        mirrored = torch.where(index < 0, -1 - index, torch.where(index >= size, 2 * size - 1 - index, index))
        x = x.index_select(axis, mirrored)
    return F.avg_pool2d(x, _SSIM_WINDOW, stride=1)


def _check_images(a: Tensor, b: Tensor) -> None:
    if a.shape != b.shape or a.ndim < 3 or a.shape[-1] != 3:
        raise ValueError(
            f"images have shapes {tuple(a.shape)} and {tuple(b.shape)}; need equal (..., h, w, 3)"
        )
