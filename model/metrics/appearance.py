"""Statistics of frames that need no truth, and what their deviations say.

Definitions: docs/reference/evaluation.md#reference-free-statistics.

Standardised: z = (mean of a clip's bin - mean of the reference's bin) / spread of the reference. The
reference is the truth at the same poses where there is one (it cancels what changes along the path), else the
first bin of the same clip. Signs are kept: darkening, blur, noise and freezing are different faults.

Legend: `F` frames, `h, w` pixels; frames are uint8 RGB.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from wm_env.model.metrics.images import LUMA

CLIPPED = (2, 253)
HIGH_FREQUENCY = 0.25  # cycles per pixel
COMPONENTS = (
    *("luma", "contrast", "saturation", "colourfulness", "clipped", "entropy", "laplacian"),
    *("sharpness", "high_frequency", "slope", "noise", "blockiness", "motion", "consistency"),
)
FAULTS = {
    "darker": ("luma", -1),
    "brighter": ("luma", 1),
    "blur": ("sharpness", -1),
    "noise": ("noise", 1),
    "freeze": ("motion", -1),
}
"""A fault by name: the component that tells it and the sign of its deviation."""

_IMMERKAER = ((1.0, -2.0, 1.0), (-2.0, 4.0, -2.0), (1.0, -2.0, 1.0))


def frame_statistics(frames: Tensor, previous: Tensor, block: int = 8) -> dict[str, Tensor]:
    """Return every component `(F,)` float64 of frames `(F, h, w, 3)` and the frames right before them.

    luma: mean of Y. contrast: std of Y. saturation: mean of max(RGB) - min(RGB). colourfulness: Hasler and
    Suesstrunk. clipped: share of values <= 2 or >= 253. entropy: of the grey histogram, bits. laplacian: log
    variance of the Laplacian. sharpness: the same over the variance of Y, so that gain cancels.
    high_frequency: share of the spectral energy above 0.25 cycles per pixel. slope: of log power over log
    frequency. noise: Immerkaer's estimate, grey levels. blockiness: gradient across the edges of `block`
    pixels over the gradient elsewhere. motion: mean |f_t - f_{t-1}|, grey levels. consistency: correlation of
    Y with the frame before, 1 for a frozen frame.
    """
    rgb = frames.double()
    luma = rgb @ torch.tensor(LUMA, dtype=torch.float64)  # (F, h, w)
    before = previous.double() @ torch.tensor(LUMA, dtype=torch.float64)
    centred = luma - luma.mean((1, 2), keepdim=True)
    power, radius = _power(centred)
    total = power.sum((1, 2)).clamp_min(1e-12)
    edges = _laplacian(luma).flatten(1).var(1, correction=0) + 1e-6
    return {
        "luma": luma.mean((1, 2)),
        "contrast": luma.flatten(1).std(1, correction=0),
        "saturation": (rgb.amax(-1) - rgb.amin(-1)).mean((1, 2)),
        "colourfulness": _colourfulness(rgb),
        "clipped": ((rgb <= CLIPPED[0]) | (rgb >= CLIPPED[1])).double().flatten(1).mean(1),
        "entropy": _entropy(luma),
        "laplacian": torch.log(edges),
        "sharpness": torch.log(edges / (luma.flatten(1).var(1, correction=0) + 1e-3)),
        "high_frequency": power[:, radius > HIGH_FREQUENCY].sum(1) / total,
        "slope": _spectral_slope(power, radius),
        "noise": _noise(luma),
        "blockiness": _blockiness(luma, block),
        "motion": (rgb - previous.double()).abs().flatten(1).mean(1),
        "consistency": _correlation(luma, before),
    }


def clip_statistics(frames: Tensor) -> dict[str, np.ndarray]:
    """Return luma, contrast and saturation `(B,)`, means over uint8 frames `(B, F, h, w, 3)`.

    In float32 and with the unbiased deviation, unlike `frame_statistics`: the committed reports are made so.
    """
    out: dict[str, list[float]] = {"luma": [], "contrast": [], "saturation": []}
    for clip in frames:
        x = clip.float()
        luma = x @ torch.tensor(LUMA)  # (F, h, w)
        out["luma"].append(float(luma.mean()))
        out["contrast"].append(float(luma.flatten(1).std(-1).mean()))
        out["saturation"].append(float((x.amax(-1) - x.amin(-1)).mean()))
    return {key: np.array(values) for key, values in out.items()}


def histograms(frames: Tensor) -> np.ndarray:
    """Return the distribution of values of each channel `(3, 256)` over frames `(F, h, w, 3)`."""
    counts = [torch.bincount(frames[..., c].flatten().long(), minlength=256) for c in range(3)]
    table = torch.stack(counts).double()
    return (table / table.sum(1, keepdim=True)).numpy()


def colour_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Return the Wasserstein-1 distance of histograms `(3, 256)` in grey levels, mean over channels."""
    return float(np.abs(np.cumsum(a - b, axis=1)).sum(1).mean())


def standardise(own: np.ndarray, reference: np.ndarray, spread: np.ndarray | float) -> np.ndarray:
    """Return z = (own - reference) / spread; 0 where nothing differs, also where the spread is 0."""
    difference = own - reference
    return np.where(difference == 0, 0.0, difference / np.maximum(spread, 1e-6))


def distance(z: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return D_app = sqrt(mean over components of z^2)."""
    return np.sqrt(np.mean([np.square(value) for value in z.values()], axis=0))


def _colourfulness(rgb: Tensor) -> Tensor:
    red_green = rgb[..., 0] - rgb[..., 1]
    yellow_blue = 0.5 * (rgb[..., 0] + rgb[..., 1]) - rgb[..., 2]
    pair = [x.flatten(1) for x in (red_green, yellow_blue)]
    spread = sum(x.var(1, correction=0) for x in pair)
    offset = sum(x.mean(1).square() for x in pair)
    return torch.sqrt(torch.as_tensor(spread)) + 0.3 * torch.sqrt(torch.as_tensor(offset))


def _entropy(luma: Tensor) -> Tensor:
    out = []
    for image in luma:
        p = (
            torch.bincount(image.round().long().clamp(0, 255).flatten(), minlength=256).double()
            / image.numel()
        )
        out.append(-(p[p > 0] * torch.log2(p[p > 0])).sum())
    return torch.stack(out)


def _laplacian(luma: Tensor) -> Tensor:
    inner = luma[:, 1:-1, 1:-1]
    around = luma[:, :-2, 1:-1] + luma[:, 2:, 1:-1] + luma[:, 1:-1, :-2] + luma[:, 1:-1, 2:]
    return around - 4 * inner


def _noise(luma: Tensor) -> Tensor:
    kernel = torch.tensor(_IMMERKAER, dtype=luma.dtype)[None, None]
    response = torch.nn.functional.conv2d(luma[:, None], kernel)  # (F, 1, h-2, w-2)
    return (torch.pi / 2) ** 0.5 / 6 * response.abs().flatten(1).mean(1)


def _power(centred: Tensor) -> tuple[Tensor, Tensor]:
    """Return the power spectrum `(F, h, w)` and the frequency `(h, w)` in cycles per pixel."""
    power = torch.fft.fft2(centred).abs().square()
    fy, fx = (torch.fft.fftfreq(n, dtype=torch.float64) for n in centred.shape[1:])
    return power, torch.sqrt(fy[:, None].square() + fx[None, :].square())


def _spectral_slope(power: Tensor, radius: Tensor) -> Tensor:
    """Return the least-squares slope `(F,)` of log power over log frequency below 0.5 cycles per pixel."""
    used = (radius > 0.02) & (radius <= 0.5)
    x = torch.log(radius[used])
    y = torch.log(power[:, used] + 1e-9)
    x = x - x.mean()
    return (y * x).sum(1) / x.square().sum()


def _blockiness(luma: Tensor, block: int) -> Tensor:
    ratios = []
    for axis in (1, 2):
        gradient = luma.diff(dim=axis).abs()
        edge = (torch.arange(gradient.shape[axis]) + 1) % block == 0
        across = gradient.index_select(axis, edge.nonzero()[:, 0]).flatten(1).mean(1)
        within = gradient.index_select(axis, (~edge).nonzero()[:, 0]).flatten(1).mean(1)
        ratios.append((across + 1e-3) / (within + 1e-3))
    return torch.stack(ratios).mean(0)


def _correlation(a: Tensor, b: Tensor) -> Tensor:
    a, b = (x.flatten(1) - x.flatten(1).mean(1, keepdim=True) for x in (a, b))
    norm = (a.norm(dim=1) * b.norm(dim=1)).clamp_min(1e-9)
    return (a * b).sum(1) / norm
