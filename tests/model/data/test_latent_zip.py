"""The released latent-zip layout: a round trip, metric scale, score filters, and broken entries by name."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from wm_env.model.data.latent_zip import LatentEntry, latent_clips, write_latent_zips
from wm_env.model.data.recorded import Problem, RecordedClip

LATENTS, STRIDE = 3, 4  # 9 frames


def decode(z: Tensor) -> Iterator[np.ndarray]:
    """Yield a frame per pixel frame, its value the mean of the latent frame that describes it."""
    for t, latent in enumerate(z.unbind(1)):
        for _ in range(1 if t == 0 else STRIDE):
            yield np.full((16, 24, 3), round(float(latent.mean())), np.uint8)


def entry(key: str, scale: float = 1.0, poses: int = 9) -> LatentEntry:
    z = torch.arange(LATENTS).float()[None, :, None, None].expand(2, LATENTS, 4, 6) + ord(key[0])
    c2w = torch.eye(4).double().repeat(poses, 1, 1)
    c2w[:, 2, 3] = torch.arange(poses) * (1 + ord(key[0]))
    rows = torch.tensor([60.0, 50.0, 48.0, 32.0]).double().repeat(poses, 1)
    return LatentEntry(key, z, f"prompt of {key}", 96, 64, c2w, rows, scale)


def test_clips_come_back_with_scaled_poses_normalised_intrinsics_and_decoded_frames(tmp_path: Path) -> None:
    entries = [entry("a"), entry("b", scale=0.5)]
    write_latent_zips(tmp_path / "raw", tmp_path / "z", "part0", entries)
    listed = latent_clips(tmp_path / "raw", tmp_path / "z", decode, STRIDE)
    for written, clip in zip(entries, listed, strict=True):
        assert isinstance(clip, RecordedClip)
        assert (clip.name, clip.caption) == (f"part0/{written.key}", f"prompt of {written.key}")
        assert torch.equal(clip.c2w[:, :3, 3], written.c2w[:, :3, 3] * written.metric_scale)
        assert torch.allclose(clip.intrinsics[0], torch.tensor([60 / 96, 50 / 64, 0.5, 0.5]).double())
        values = [int(frame[0, 0, 0]) for frame in clip.frames()]
        assert values == [ord(written.key) + t for t in (0, 1, 1, 1, 1, 2, 2, 2, 2)]


def test_scores_outside_their_bounds_filter_clips_and_bounds_themselves_do_not(tmp_path: Path) -> None:
    write_latent_zips(tmp_path / "raw", tmp_path / "z", "s", [entry(key) for key in "abcd"])
    (tmp_path / "raw" / "s_dover.json").write_text(json.dumps({"a": 0.25, "b": 0.2, "d": 1.0}))
    listed = latent_clips(tmp_path / "raw", tmp_path / "z", decode, STRIDE)
    assert [isinstance(clip, RecordedClip) for clip in listed] == [True, False, False, True]
    assert listed[1] == Problem("s/b", "_dover: score 0.2 is outside 0.25 to 1", filtered=True)
    assert listed[2] == Problem("s/c", "_dover: no score", filtered=True)


def test_broken_entries_are_named_and_the_others_stay(tmp_path: Path) -> None:
    nan = entry("n")._replace(z=torch.full((2, LATENTS, 4, 6), float("nan")))
    write_latent_zips(tmp_path / "raw", tmp_path / "z", "s", [entry("a"), nan, entry("p", poses=8)])
    write_latent_zips(tmp_path / "raw", tmp_path / "z", "t", [entry("a")])
    (tmp_path / "z" / "t.zip").write_bytes(b"cut")
    write_latent_zips(tmp_path / "raw", tmp_path / "other", "u", [entry("a")])
    good, empty, short, cut, missing = latent_clips(tmp_path / "raw", tmp_path / "z", decode, STRIDE)
    assert isinstance(good, RecordedClip) and len(list(good.frames())) == 9
    for clip, what in ((empty, "NaN"), (short, "3 latent frames decode to 9 frames; there are 8 poses")):
        assert isinstance(clip, RecordedClip)
        with pytest.raises(ValueError, match=what):
            list(clip.frames())
    assert isinstance(cut, Problem) and "t.zip cannot be read" in cut.what
    assert isinstance(missing, Problem) and "u.zip is missing" in missing.what


def test_an_entry_of_a_sidecar_that_is_none_is_the_fault_of_its_clip_alone(tmp_path: Path) -> None:
    raw, keys = tmp_path / "raw", "abcdefg"
    write_latent_zips(raw, tmp_path / "z", "s", [entry(key) for key in keys])
    scales = {"a": None, "b": "one", "c": -1, "d": float("inf"), "e": {"mean": 1}, "f": [1]}
    (raw / "s_metric_scale_stats.json").write_text(json.dumps(scales))
    listed = latent_clips(raw, tmp_path / "z", decode, STRIDE)
    assert [isinstance(clip, RecordedClip) for clip in listed] == [True, *[False] * 5, True]
    assert isinstance(listed[0], RecordedClip) and not listed[0].metric  # null: nobody measured it
    (raw / "s_metric_scale_stats.json").unlink()
    (raw / "s_dover.json").write_text(json.dumps({"a": "good", "b": [1], "c": float("nan"), "d": 0.5}))
    listed = latent_clips(raw, tmp_path / "z", decode, STRIDE)
    assert [isinstance(clip, RecordedClip) for clip in listed[:4]] == [False, False, False, True]
    assert all("expected a score" in clip.what for clip in listed[:3] if isinstance(clip, Problem))


@pytest.mark.parametrize(
    "changed",
    [
        {"ranges": np.array([1, 2])},
        {"ranges": np.array([[np.inf, 9.0]])},
        {"ranges": np.array([[-9, 9]])},
        {"ranges": np.array([[0, 10]])},
        {"pose": np.array("none")},
        {"pose": np.eye(4)},
        {"intrinsics": np.array(3.0)},
        {"intrinsics": np.ones((9, 3))},
    ],
)
def test_an_impossible_camera_file_is_one_line(changed: dict[str, np.ndarray], tmp_path: Path) -> None:
    write_latent_zips(tmp_path / "raw", tmp_path / "z", "s", [entry("a")])
    write_latent_zips(tmp_path / "raw", tmp_path / "z", "t", [entry("a")])
    path = tmp_path / "raw" / "s_camera.npz"
    with np.load(path) as arrays:
        values = {**arrays, **changed}
    np.savez(path, **values)
    bad, good = latent_clips(tmp_path / "raw", tmp_path / "z", decode, STRIDE)
    assert isinstance(bad, Problem) and "\n" not in bad.what and isinstance(good, RecordedClip)
