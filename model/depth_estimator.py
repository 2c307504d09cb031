"""Depth of frames by an estimator of `transformers` in a local folder, for worlds that give none.

    depth = estimate(frames)          uint8 (B, h, w, 3)  ->  float32 (B, h, w) metres along z

The folder is what `save_pretrained` writes: `config.json`, `model.safetensors`, `preprocessor_config.json`.
Its depth has to be metric, as that of Depth Anything V2 Metric, ZoeDepth and Depth Pro is: relative depth
says what is nearer, not how far. Nothing is downloaded and nothing unpickled.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

DepthOf = Callable[[Tensor], Tensor]
METRIC = ("zoedepth", "depth_pro")  # model types whose depth is always metric
INSTALL = "install it with `pip install 'wm-env[released]'`"
NEAREST = 1e-3  # metres; an estimator may say 0


def load_depth_estimator(folder: Path, device: str = "cpu") -> DepthOf:
    """Return the estimator of a folder, loaded once per process and device.

    Raises `FileNotFoundError` for a folder that is no model's, `ValueError` for a model of another kind or
    with relative depth, `ImportError` without `transformers`, before any weight is read.
    """
    path = folder.resolve()
    _check(folder, path)
    stamp = max(file.stat().st_mtime_ns for file in path.iterdir())
    return _load(path, device, stamp)


def _check(folder: Path, path: Path) -> None:
    """Raise where a folder does not hold a metric depth estimator."""
    needed = ("config.json", "model.safetensors", "preprocessor_config.json")
    absent = [name for name in needed if not (path / name).is_file()]
    if absent:
        raise FileNotFoundError(
            f"depth={str(folder)!r} lacks {', '.join(absent)}; give the folder of a depth estimator as "
            "transformers' save_pretrained writes it"
        )
    config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    kind = config.get("model_type")
    if not any("DepthEstimation" in name for name in config.get("architectures") or ()):
        raise ValueError(f"depth={str(folder)!r} holds a model of type {kind!r}, which estimates no depth")
    if kind not in METRIC and config.get("depth_estimation_type") != "metric":
        raise ValueError(
            f"depth={str(folder)!r} estimates relative depth; metres are needed, as from a model with "
            '"depth_estimation_type": "metric" in its config.json'
        )


@functools.lru_cache(maxsize=2)
def _load(path: Path, device: str, stamp: int) -> DepthOf:
    try:
        from transformers import AutoImageProcessor, AutoModelForDepthEstimation
    except ImportError as error:
        raise ImportError(f"a depth estimator needs transformers; {INSTALL}") from error
    processor: Any = AutoImageProcessor.from_pretrained(path, local_files_only=True)
    model: Any = AutoModelForDepthEstimation.from_pretrained(
        path, local_files_only=True, use_safetensors=True, dtype=torch.float32
    )
    model = model.to(device).eval().requires_grad_(False)

    @torch.inference_mode()
    def estimate(frames: Tensor) -> Tensor:
        """Return depth float32 `(B, h, w)` metres of frames uint8 `(B, h, w, 3)`, on the model's device."""
        pictures = list(np.ascontiguousarray(frames.cpu().numpy()))
        given = processor(images=pictures, return_tensors="pt")["pixel_values"].to(device)
        depth = model(pixel_values=given).predicted_depth.float()  # (B, H', W')
        return interpolate(depth[:, None], size=frames.shape[1:3], mode="bilinear")[:, 0].clamp_min(NEAREST)

    return estimate
