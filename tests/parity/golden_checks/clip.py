"""Checks of commands, camera paths and frame counts."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import Tensor

from golden_checks.fixture import Fixture, load
from wm_env.model.camera import clip_windows
from wm_env.model.frame_counts import latent_frames, snap_frames
from wm_env.model.geometry import RIGID_TOLERANCE, check_rigid, invert_rigid, relative_to_first
from wm_env.model.intrinsics import check_intrinsics, intrinsics_per_frame
from wm_env.model.kinematics import KEYS, KeyMotion, c2w_from_actions
from wm_env.model.metrics import fit_upstream, frame_errors, pose_errors


def actions(fixture: Fixture) -> None:
    assert sorted(fixture.meta["allowed_keys"]) == sorted(KEYS)
    for name, case in fixture.meta["cases"].items():
        fixture.check(f"{name}.c2w", _integrate(case, fixture.meta.get("defaults", {})))
    _strings(fixture.meta["strings"])


def action_strings(fixture: Fixture) -> None:
    """The JSON beside an actions fixture: the same cases (poses in the file of the same name) and strings."""
    sibling = fixture.path.with_suffix(".safetensors")
    poses = load(sibling) if sibling.is_file() else None
    if poses is not None:
        fixture.meta["tolerances"] = poses.meta["tolerances"]
    for name, case in fixture.meta.get("cases", {}).items():
        path = _integrate(case, poses.meta.get("defaults", {}) if poses is not None else {})
        if poses is not None and f"{name}.c2w" in poses:
            fixture.check_value(f"{name}.c2w", path, poses[f"{name}.c2w"])
    _strings(fixture.meta["strings"])


def _integrate(case: dict[str, Any], defaults: dict[str, Any]) -> Tensor:
    settings = defaults | case
    smooth = settings.get("smooth", True)
    known = KeyMotion.__dataclass_fields__
    motion = KeyMotion(**{key: value for key, value in settings.items() if key in known}, inertia=smooth)
    return c2w_from_actions(case["action"], motion)


def _strings(strings: list[dict[str, Any]]) -> None:
    for entry in strings:
        if entry["raises"]:
            assert entry.get("type", "ValueError") == "ValueError"
            with pytest.raises(ValueError):
                c2w_from_actions(entry["action"], KeyMotion())
                pytest.fail(f"{entry['action']!r} was accepted")
        else:
            assert len(c2w_from_actions(entry["action"], KeyMotion())) == entry["frames"], entry


SUMMARIES = {"RotErr": 0, "TransErr": 1, "CamMC": 2}


def pose_metrics(fixture: Fixture) -> None:
    for name, case in fixture.meta["cases"].items():
        if "interval" in case:
            truth = fixture[f"{name}.gt_c2w"][:: case["interval"]]
            _summary(fixture, name, case, truth, fixture[f"{name}.pred_c2w_sampled"], {})
            continue
        truth, prediction = fixture[f"{name}.gt_c2w"], fixture[f"{name}.pred_c2w"]
        assert len(truth) == case["F"]
        _summary(fixture, name, case, truth, prediction, {})
        for key, options in VARIANTS.items():
            if key in case:
                _summary(fixture, f"{name}.{key}", case[key], truth, prediction, options)
        _parts(fixture, name, truth.double(), prediction.double())


VARIANTS = {"without_relativisation": {"relative": False}, "skip_first_frame": {"skip_first": True}}


def _summary(
    fixture: Fixture,
    name: str,
    recorded: dict[str, Any],
    truth: Tensor,
    prediction: Tensor,
    options: dict[str, bool],
) -> None:
    means = pose_errors(truth, prediction, "upstream", **options).means()
    for key, value in recorded.items():
        metric = key.partition("_")[0]
        if metric in SUMMARIES:
            ours = torch.tensor(means[SUMMARIES[metric]], dtype=torch.float64)
            expected = torch.tensor(value, dtype=torch.float64)
            fixture.check_value(f"{name}.{key}", ours, expected, like=key)


def _parts(fixture: Fixture, name: str, truth: Tensor, prediction: Tensor) -> None:
    relative_truth, relative_prediction = relative_to_first(truth), relative_to_first(prediction)
    fit = fit_upstream(relative_truth, relative_prediction)
    unaligned = frame_errors(relative_truth, relative_prediction)
    parts = {
        "gt_rel": relative_truth,
        "pred_rel": relative_prediction,
        "align_R": fit.rotation,
        "align_s": fit.scale,
        "align_t": fit.translation,
        "rel_right": truth @ invert_rigid(truth[:1]),
        "per_frame_roterr_deg_unaligned": unaligned.rotation_deg,
        "per_frame_transerr_unaligned": unaligned.translation,
        "per_frame_cammc_unaligned": unaligned.cammc,
    }
    for part, value in parts.items():
        if f"{name}.{part}" in fixture:
            recorded = fixture[f"{name}.{part}"]
            # angles come from a float32 arccos whatever their name, so they share RotErr's tolerance
            like = "RotErr" if "roterr" in part else f"{name}.{part}"
            fixture.check_value(f"{name}.{part}", value, recorded, like=like)


def frame_counts(fixture: Fixture) -> None:
    for table, content in fixture.meta.items():
        if table.startswith("snap_"):
            for row in content:
                ours = snap_frames(row["n"], row["stride"], row.get("upper_bound"))
                assert ours == row["out"], f"{row}: {ours}"
        elif table == "latent_frames":
            assert {frames: latent_frames(int(frames)) for frames in content} == content
        else:
            ours_of = {
                "pose_index_of_latent": lambda frames: clip_windows(frames, 8).pose.tolist(),
                "plucker_raw_frames_of_latent": lambda frames: clip_windows(frames, 8).rays.tolist(),
            }[table]
            examples = {key: value for key, value in content.items() if key.startswith("example_F")}
            assert examples, f"{table} has no example"
            for key, value in examples.items():
                match = re.fullmatch(r"example_F(\d+)", key)
                assert match and ours_of(int(match[1])) == value, f"{table}.{key}"


def poses(fixture: Fixture) -> None:
    """A released camera path is rigid, OpenCV camera-to-world, and starts at the identity."""
    path = fixture["array"]
    assert path.ndim == 3
    check_rigid(path)
    rotation = path[:, :3, :3].double()
    skew = rotation.transpose(-1, -2) @ rotation - torch.eye(3, dtype=torch.float64)
    fixture._record("rotation^T rotation - 1", "absolute", float(skew.abs().max()), RIGID_TOLERANCE)
    relative = relative_to_first(path.double())
    fixture._record(
        "relative to first", "absolute", float((relative - path.double()).abs().max()), RIGID_TOLERANCE
    )
    usable = snap_frames(len(path), upper_bound=len(path))
    assert 1 < usable <= len(path) and (usable - 1) % 8 == 0


def intrinsics(fixture: Fixture) -> None:
    """Released intrinsics fit a centred picture within the accepted fields of view, for the whole path."""
    matrices = fixture["array"]
    first = intrinsics_per_frame(matrices, 1)[0]
    width, height = round(2 * float(first[2])), round(2 * float(first[3]))
    sibling = fixture.path.with_name(fixture.path.name.replace("intrinsics", "pose"))
    path = load(sibling) if sibling != fixture.path and sibling.is_file() else None
    frames = len(path["array"]) if path is not None else max(1, len(matrices))
    rows = intrinsics_per_frame(matrices, frames)
    assert rows.shape == (frames, 4)
    check_intrinsics(rows, height, width)
