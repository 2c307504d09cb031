"""The released data layout: zips of encoded clips, with poses, scale and filter scores beside them.

    RAW/STEM.zip                       KEY.json per clip: prompt, width, height
    LATENTS/STEM.zip                   KEY.npz per clip: z (C, T, h, w), normalised latents
    STEM_camera.npz                    ids (K,); ranges (K, 2) = start and count; pose (sum F, 4, 4) c2w;
                                       intrinsics (sum F, 4) fx fy cx cy in pixels of width x height
    STEM_metric_scale_stats.json       KEY: factor on the translations (or {"median": factor}), else 1
    STEM_vmafmotion.json, ...          KEY: score; outside the bounds of `FILTERS`, or without one, it drops

The sidecars lie beside either zip. The public loader skips entries below 10 MB, which stands for "cut off";
here the shape is checked instead, so that small data can be read. Clips come back as frames: `decode` is the
decoder of the autoencoder that made the latents, of temporal stride `stride`.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from wm_env.model.data.recorded import ClipRef, Problem, RecordedClip, in_shares
from wm_env.model.frame_counts import pixel_frames
from wm_env.model.storage.array_files import ARRAY_DAMAGE, read_arrays
from wm_env.model.storage.facts import number, parse_json, read_json, shown

FILTERS = {  # suffix: smallest and largest score, both allowed (docs/reference/training.md#score-filters)
    "_vmafmotion": (0.5, 50.0),  # motion
    "_unimatch": (3.0, 80.0),  # optical flow
    "_dover": (0.25, 1.0),  # visual quality
    "_vlm_entity_filter": (0.0, 10.0),  # moving entities
    "_vlm_quality_filter": (0.5, 1.5),  # pass or fail
}

Decode = Callable[[Tensor], Iterator[np.ndarray]]
"""Yields the frames uint8 `(H, W, 3)` of normalised latents `(C, T, h, w)` float32."""


class LatentEntry(NamedTuple):
    """One clip of the layout; c2w `(F, 4, 4)` before scaling, intrinsics `(F, 4)`."""

    key: str
    z: Tensor
    prompt: str
    width: int
    height: int
    c2w: Tensor
    intrinsics: Tensor
    metric_scale: float = 1.0


def write_latent_zips(raw: Path, latents: Path, stem: str, entries: Sequence[LatentEntry]) -> None:
    """Write clips in the released layout, sidecars beside the raw zip."""
    for folder in (raw, latents):
        folder.mkdir(parents=True, exist_ok=True)
    with (
        zipfile.ZipFile(raw / f"{stem}.zip", "w") as prompts,
        zipfile.ZipFile(latents / f"{stem}.zip", "w") as encoded,
    ):
        for entry in entries:
            facts = {"prompt": entry.prompt, "width": entry.width, "height": entry.height}
            prompts.writestr(f"{entry.key}.json", json.dumps(facts))
            buffer = io.BytesIO()
            np.savez(buffer, z=entry.z.half().numpy())
            encoded.writestr(f"{entry.key}.npz", buffer.getvalue())
    counts = np.array([len(entry.c2w) for entry in entries])
    np.savez(
        raw / f"{stem}_camera.npz",
        ids=np.array([entry.key for entry in entries]),
        ranges=np.stack([np.cumsum(counts) - counts, counts], axis=1),
        pose=np.concatenate([entry.c2w.numpy() for entry in entries]),
        intrinsics=np.concatenate([entry.intrinsics.numpy() for entry in entries]),
    )
    scales = {entry.key: entry.metric_scale for entry in entries}
    (raw / f"{stem}_metric_scale_stats.json").write_text(json.dumps(scales), encoding="utf-8")


def latent_clips(raw: Path, latents: Path, decode: Decode, stride: int) -> list[ClipRef]:
    """Return the clips of every zip of `raw` that `latents` has a counterpart of, by stem and key.

    A clip that its scores rule out is a `Problem` with `filtered`.
    """
    listed: list[ClipRef] = []
    for path in sorted(raw.glob("*.zip")):
        encoded = latents / path.name
        try:
            if not encoded.is_file():
                raise ValueError(f"{encoded} is missing")
            prompts, keys = _prompts(path), _keys(encoded)
            cameras = _cameras(_sidecar(raw, latents, f"{path.stem}_camera.npz"))
            scales, scores = _scales(raw, latents, path.stem), _scores(raw, latents, path.stem)
        except (ValueError, OSError) as error:
            listed.append(Problem(path.stem, str(error)))
            continue
        for key in sorted(prompts.keys() | keys):
            name = f"{path.stem}/{key}"
            try:
                reason = _ruled_out(scores, key)
                if reason is not None:
                    listed.append(Problem(name, reason, filtered=True))
                    continue
                if key not in prompts or key not in keys:
                    where = path if key not in prompts else encoded
                    raise ValueError(f"{where} holds no entry of this key")
                camera = None if cameras is None else cameras.get(key)
                if camera is None:
                    raise ValueError(f"no poses: {path.stem}_camera.npz has no such id")
                listed.append(
                    _clip(name, prompts[key], camera, scales.get(key), encoded, key, decode, stride)
                )
            except (ValueError, OverflowError) as error:
                listed.append(Problem(name, str(error)))
    return listed


def read_latent(path: Path, key: str) -> Tensor:
    """Return the latents z `(C, T, h, w)` float32 of an entry; raise `ValueError` for broken or NaN ones."""
    try:
        with zipfile.ZipFile(path) as archive, np.load(io.BytesIO(archive.read(f"{key}.npz"))) as arrays:
            z = torch.from_numpy(arrays["z"].astype(np.float32))
    except ARRAY_DAMAGE as error:
        raise ValueError(f"{path.name}/{key}.npz cannot be read: {error}") from error
    if z.ndim != 4:
        raise ValueError(f"z has shape {tuple(z.shape)}; expected (C, T, h, w)")
    if not bool(torch.isfinite(z).all()):
        raise ValueError("z holds NaN or infinity")
    return z


def _clip(
    name: str,
    facts: Mapping[str, Any],
    camera: tuple[Tensor, Tensor],
    scale: Any,
    encoded: Path,
    key: str,
    decode: Decode,
    stride: int,
) -> RecordedClip:
    said: dict[str, Any] = facts if isinstance(facts, dict) else {}
    width: Any = said.get("width")
    height: Any = said.get("height")
    prompt = said.get("prompt")
    if not number(width, 1, 1e6) or not number(height, 1, 1e6) or not isinstance(prompt, str):
        raise ValueError(f"{key}.json must hold prompt, width and height; it is {shown(facts)}")
    factor = scale["median"] if isinstance(scale, dict) and "median" in scale else scale
    if factor is not None and not number(factor, 1e-9, 1e9):
        raise ValueError(f"its metric scale is {shown(scale)}; expected a positive number or a median")
    pose, intrinsics = camera
    if pose.shape[1:] != (4, 4) or intrinsics.shape[1:] != (4,):
        raise ValueError(
            f"pose {tuple(pose.shape)} and intrinsics {tuple(intrinsics.shape)} of the camera file are not "
            "(F, 4, 4) and (F, 4)"
        )
    c2w = pose.double().clone()
    c2w[:, :3, 3] *= 1.0 if factor is None else factor

    def frames() -> Iterator[np.ndarray]:
        z = read_latent(encoded, key)
        made = pixel_frames(z.shape[1], stride)
        if made != len(c2w):
            raise ValueError(
                f"{z.shape[1]} latent frames decode to {made} frames; there are {len(c2w)} poses"
            )
        yield from decode(z)

    return RecordedClip(
        name=name,
        c2w=c2w,
        intrinsics=in_shares(intrinsics.double(), height, width),
        normalised=True,
        metric=factor is not None,
        caption=prompt,
        frames=frames,
    )


def _prompts(path: Path) -> dict[str, Any]:
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if name.endswith(".json")]
            return {name.removesuffix(".json"): _facts(archive.read(name), name) for name in names}
    except ARRAY_DAMAGE as error:
        raise ValueError(f"{path} cannot be read: {error}") from error


def _facts(data: bytes, name: str) -> Any:
    """Return the object in the JSON of a clip, None where it holds none: that is the clip's fault alone."""
    try:
        return parse_json(data, name)
    except ValueError:
        return None


def _keys(path: Path) -> set[str]:
    try:
        with zipfile.ZipFile(path) as archive:
            return {n.removesuffix(".npz") for n in archive.namelist() if n.endswith(".npz")}
    except ARRAY_DAMAGE as error:
        raise ValueError(f"{path} cannot be read: {error}") from error


def _cameras(path: Path | None) -> dict[str, tuple[Tensor, Tensor]] | None:
    """Return pose `(F, 4, 4)` and intrinsics `(F, 4)` by key."""
    if path is None:
        return None
    arrays = read_arrays(path)
    lacking = {"ids", "ranges", "pose", "intrinsics"} - arrays.keys()
    if lacking:
        raise ValueError(f"{path} holds no {', '.join(sorted(lacking))}")
    ids, ranges = arrays["ids"], arrays["ranges"]
    if ids.ndim != 1 or ranges.shape != (len(ids), 2) or ranges.dtype.kind not in "iu":
        raise ValueError(f"ranges of {path} are {ranges.dtype} {ranges.shape}; expected whole numbers (K, 2)")
    values = [arrays[name] for name in ("pose", "intrinsics")]
    if any(value.dtype.kind not in "fiu" or not value.ndim for value in values):
        raise ValueError(f"pose or intrinsics of {path} are no arrays of numbers")
    pose, intrinsics = (torch.from_numpy(value.astype(np.float64)) for value in values)
    spans = [(str(key), int(start), int(count)) for key, (start, count) in zip(ids, ranges, strict=True)]
    frames = min(len(pose), len(intrinsics))
    outside = [key for key, start, count in spans if start < 0 or count < 1 or start + count > frames]
    if outside or len({key for key, _, _ in spans}) < len(spans):
        what = f"the range of {outside[0]} is not within {frames} frames" if outside else "an id stands twice"
        raise ValueError(f"{path}: {what}")
    return {key: (pose[start : start + n], intrinsics[start : start + n]) for key, start, n in spans}


def _scales(raw: Path, latents: Path, stem: str) -> dict[str, Any]:
    path = _sidecar(raw, latents, f"{stem}_metric_scale_stats.json")
    return {} if path is None else read_json(path, finite=False)  # a NaN is the fault of one clip


def _scores(raw: Path, latents: Path, stem: str) -> dict[str, dict[str, Any]]:
    """Return the scores by key of every filter sidecar that exists."""
    found = {suffix: _sidecar(raw, latents, f"{stem}{suffix}.json") for suffix in FILTERS}
    return {suffix: read_json(path, finite=False) for suffix, path in found.items() if path is not None}


def _ruled_out(scores: Mapping[str, Mapping[str, Any]], key: str) -> str | None:
    """Return why the scores rule a clip out, None where they do not."""
    for suffix, by_key in scores.items():
        low, high = FILTERS[suffix]
        score = by_key.get(key)
        if score is None:
            return f"{suffix}: no score"
        if not number(score, -1e300, 1e300):
            raise ValueError(f"{suffix} is {shown(score)}; expected a score")
        if not low <= score <= high:
            return f"{suffix}: score {score} is outside {low:g} to {high:g}"
    return None


def _sidecar(raw: Path, latents: Path, name: str) -> Path | None:
    return next((path for path in (raw / name, latents / name) if path.is_file()), None)
