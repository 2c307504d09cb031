"""RecordedClip clips become training data, or are reported one by one before anything is written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from wm_env.model.data.clip import ClipShards
from wm_env.model.data.clip_files import ClipFiles
from wm_env.model.data.importing import BadClips, ImportConfig, Imported, import_clips
from wm_env.model.data.layouts import episode_clips, re10k_clips, video_clips
from wm_env.model.data.recorded import ClipRef, RecordedClip, check_clip
from wm_env.model.geometry import invert_rigid, relative_to_first, se3_exp

FRAMES, HEIGHT, WIDTH = 9, 32, 48
CAMERA = (24.0, 24.0, 25.0, 15.0)  # fx, fy, cx, cy in pixels of 48x32
CONFIG = ImportConfig(size=32, frames=5, clips_per_shard=2)


def walk(seed: int = 0) -> Tensor:
    """Return poses `(F, 4, 4)` float64 of a steady walk that turns a little, from anywhere."""
    generator = torch.Generator().manual_seed(seed)
    twist = torch.cat([torch.tensor([0.0, 0.0, 0.05]), 0.02 * torch.randn(3, generator=generator)]).double()
    poses = [se3_exp(torch.randn(6, generator=generator).double())]
    for _ in range(FRAMES - 1):
        poses.append(poses[-1] @ se3_exp(twist))
    return torch.stack(poses)


def film(seed: int = 0, frames: int = FRAMES, size: tuple[int, int] = (HEIGHT, WIDTH)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (frames, *size, 3)).astype(np.uint8)


def write_pictures(folder: Path, frames: np.ndarray, names: list[int] | None = None) -> None:
    folder.mkdir(parents=True)
    for index, frame in enumerate(frames):
        Image.fromarray(frame).save(folder / f"{names[index] if names else index}.png")


def write_video(
    folder: Path, name: str, seed: int = 0, frames: np.ndarray | None = None, **camera: Any
) -> None:
    write_pictures(folder / name, film(seed) if frames is None else frames)
    values = {"c2w": walk(seed).numpy(), "intrinsics": np.array(CAMERA), "caption": f"the {name}"}
    np.savez(folder / f"{name}.npz", **{**values, **camera})


def write_re10k(path: Path, times: list[int], c2w: Tensor) -> None:
    camera = [*np.array(CAMERA) / [WIDTH, HEIGHT, WIDTH, HEIGHT], 0.0, 0.0]
    rows = [
        [t, *camera, *w2c[:3].flatten().tolist()] for t, w2c in zip(times, invert_rigid(c2w), strict=True)
    ]
    path.write_text("https://example.org\n" + "\n".join(" ".join(map(str, row)) for row in rows) + "\n")


def brought_in(
    listed: list[ClipRef], out: Path, config: ImportConfig = CONFIG, skip_bad: bool = False
) -> Imported:
    def two_metres(rgb: Tensor, intrinsics: Tensor) -> Tensor:
        return torch.full(rgb.shape[:3], 2.0)

    return import_clips(
        listed, out, config, depth_of=two_metres, origin={"depth_sha256": "abc"}, skip_bad=skip_bad
    )


def test_a_video_folder_becomes_shards_with_cropped_frames_and_intrinsics(tmp_path: Path) -> None:
    for seed, name in enumerate(("hall", "kitchen", "yard")):
        write_video(tmp_path / "clips", name, seed)
    listed = video_clips(tmp_path / "clips", ClipFiles())
    done = brought_in(listed, tmp_path / "out", ImportConfig(size=32, frames=5, stride=4))
    assert done.windows == {"train": 4, "val": 2}  # 2 windows of each, one clip held out
    seen = []
    for split in ("train", "val"):
        shards = ClipShards(tmp_path / "out" / split)
        assert all(origin["depth"] == "predicted" for origin in shards.origins)
        rows = [row for origin in shards.origins for row in origin["clips"]]
        for index, row in enumerate(rows):
            clip, first = shards.read(index), row["first_frame"]
            seed = ("hall", "kitchen", "yard").index(row["clip"])
            seen.append((seed, first))
            left = (WIDTH - HEIGHT) // 2
            assert np.array_equal(clip.rgb.numpy(), film(seed)[first : first + 5, :, left : left + HEIGHT])
            assert clip.intrinsics.tolist() == [CAMERA[0], CAMERA[1], CAMERA[2] - left, CAMERA[3]]
            expected = relative_to_first(walk(seed)[first : first + 5]).float()
            assert torch.equal(clip.c2w, expected)
            assert bool((clip.depth == 2).all())
            assert {shards.captions[i] for i in clip.caption.tolist()} == {f"the {row['clip']}"}
    assert sorted(seen) == [(seed, first) for seed in range(3) for first in (0, 4)]


def test_shrinking_keeps_a_pixel_under_its_ray(tmp_path: Path) -> None:
    """A bright spot at u, v of a large frame is found where the new intrinsics put its ray."""
    u, v, size = 130.0, 60.0, 32
    y, x = np.mgrid[0:128, 0:192] + 0.5
    spot = 255 * np.exp(-((x - u) ** 2 + (y - v) ** 2) / 2 / 8**2)
    frames = np.repeat(spot[None, :, :, None], 3, axis=3).astype(np.uint8)
    camera = torch.tensor([[100.0, 90.0, 95.0, 66.0]]).double()
    clip = RecordedClip(
        name="spot", c2w=torch.eye(4).double()[None], intrinsics=camera, frames=lambda: iter(frames)
    )
    found = check_clip(clip, size=size, every=1, scale=1.0, rgb=tmp_path / "a.npy")
    weight = np.load(found.rgb)[0, ..., 0].astype(np.float64)
    y, x = np.mgrid[0:size, 0:size] + 0.5
    fx, fy, cx, cy = found.intrinsics.tolist()
    ray = ((weight * x).sum() / weight.sum() - cx) / fx, ((weight * y).sum() / weight.sum() - cy) / fy
    assert ray == pytest.approx(((u - 95) / 100, (v - 66) / 90), abs=0.1 / fx)  # a tenth of a new pixel


@pytest.mark.parametrize("times", [[10**6 * t for t in range(FRAMES)], [33_367 * t for t in range(FRAMES)]])
def test_realestate10k_texts_give_the_poses_and_pixels_they_were_written_from(
    times: list[int], tmp_path: Path
) -> None:
    for seed in range(2):
        write_pictures(tmp_path / "clips" / f"c{seed}", film(seed), times)
        write_re10k(tmp_path / "clips" / f"c{seed}.txt", times, walk(seed))
    listed = re10k_clips(tmp_path / "clips", ClipFiles())
    for seed, clip in enumerate(listed):
        assert isinstance(clip, RecordedClip) and clip.normalised
        assert torch.allclose(clip.c2w, walk(seed), atol=1e-12)
        assert np.array_equal(np.stack(list(clip.frames())), film(seed))
    brought_in(listed, tmp_path / "out")
    clip = ClipShards(tmp_path / "out" / "val").read(0)
    assert clip.intrinsics.tolist() == pytest.approx([24.0, 24.0, 25.0 - 8, 15.0])


def test_recorded_episodes_are_read(tmp_path: Path) -> None:
    for seed in range(2):
        folder = tmp_path / "data" / f"episode_{seed:06d}"
        write_pictures(folder / "frames", film(seed))
        np.savez(folder / "steps.npz", c2w=walk(seed).numpy())
        (folder / "episode.json").write_text(json.dumps({"intrinsics": CAMERA, "prompt": "a hall"}))
    brought_in(episode_clips(tmp_path / "data", ClipFiles()), tmp_path / "out")
    shards = ClipShards(tmp_path / "out" / "train")
    assert shards.captions == ["a hall"] and len(shards) == 1 and shards.frames == 5


def write_bad_clips(folder: Path) -> dict[str, str]:
    """Write one clip of every fault between sound ones; return what must be said of each."""
    for seed, name in enumerate(("a-good", "m-good", "z-good")):
        write_video(folder, name, seed)
    skewed, missing, jumping, turned = walk(), walk(), walk(), walk()
    skewed[6, :3, :3] *= 1.1
    missing[3, 0, 3] = float("nan")
    jumping[5:, 0, 3] += 40.0
    turned[7:] = turned[7:] @ se3_exp(torch.tensor([0.0, 0, 0, 0, 2.0, 0]).double())
    zoom = np.array([CAMERA] * FRAMES)
    zoom[4:, :2] *= 1.3
    write_video(folder, "few-frames", frames=film(frames=FRAMES - 1))
    write_video(folder, "skewed", c2w=skewed.numpy())
    write_video(folder, "nan", c2w=missing.numpy())
    write_video(folder, "jump", c2w=jumping.numpy())
    write_video(folder, "turn", c2w=turned.numpy())
    write_video(folder, "zoom", intrinsics=zoom)
    write_video(folder, "narrow", intrinsics=np.array([500.0, 500.0, 24.0, 16.0]))
    write_video(folder, "larger", frames=film(size=(48, 64)))
    write_video(folder, "smaller", frames=film(size=(24, 24)))
    write_video(folder, "short", frames=film(frames=3), c2w=walk()[:3].numpy())
    write_video(folder, "broken")
    (folder / "broken" / "4.png").write_bytes(b"no picture")
    write_pictures(folder / "no-poses", film())
    np.savez(folder / "no-frames.npz", c2w=walk().numpy(), intrinsics=np.array(CAMERA))
    write_pictures(folder / "no-c2w", film())
    (folder / "no-c2w.json").write_text(json.dumps({"poses": []}))
    return {
        "broken": "4.png is not a picture that can be read",
        "few-frames": "8 frames for 9 poses",
        "jump": "jumps",
        "larger": "64x48; 3 clips have 48x32",
        "nan": "pose 3 holds NaN",
        "narrow": "field of view",
        "no-c2w": "must hold c2w and intrinsics; it holds ['poses']",
        "no-frames": "no frames",
        "no-poses": "no poses",
        "short": "3 frames; a window needs 5",
        "skewed": "pose 6 is not a rigid",
        "smaller": "24x24 would be enlarged",
        "turn": "turns 1",
        "zoom": "change by 30%",
    }


def test_every_bad_clip_is_reported_and_nothing_is_written(tmp_path: Path) -> None:
    said = write_bad_clips(tmp_path / "clips")
    listed = video_clips(tmp_path / "clips", ClipFiles())
    counted = f"{len(said)} of {len(said) + 3} clips are bad; .*--skip-bad"
    with pytest.raises(BadClips, match=counted) as caught:
        brought_in(listed, tmp_path / "out")
    heading, *lines = caught.value.report.splitlines()
    assert heading == f"{len(said) + 3} clips, {len(said)} bad"
    for line, (name, what) in zip(lines, said.items(), strict=True):
        assert line.split()[0] == name and what in line
    assert not (tmp_path / "out").exists()


def test_skip_bad_lists_what_it_leaves_out_and_goes_on(tmp_path: Path) -> None:
    said = write_bad_clips(tmp_path / "clips")
    done = brought_in(video_clips(tmp_path / "clips", ClipFiles()), tmp_path / "out", skip_bad=True)
    assert [problem.clip for problem in done.left_out] == list(said)
    assert done.clips == 3 and done.windows == {"train": 2, "val": 1}
    facts = json.loads((tmp_path / "out" / "import.json").read_text())
    assert [row["clip"] for row in facts["left_out"]] == list(said)
    rows = [r for s in ("train", "val") for o in ClipShards(tmp_path / "out" / s).origins for r in o["clips"]]
    assert {row["clip"] for row in rows} == {"a-good", "m-good", "z-good"}


def test_one_clip_alone_gives_its_end_to_val_and_no_frame_is_in_both(tmp_path: Path) -> None:
    long = np.concatenate([film(0), film(1)])
    c2w = torch.cat([walk(), walk()[-1] @ relative_to_first(walk())])
    write_video(tmp_path / "clips", "walk", frames=long, c2w=c2w.numpy())
    config = ImportConfig(size=32, frames=5, stride=3, val=0.1)  # windows at 0, 3, 6, 9, 12
    brought_in(video_clips(tmp_path / "clips", ClipFiles()), tmp_path / "out", config)
    origins = {split: ClipShards(tmp_path / "out" / split).origins[0] for split in ("train", "val")}
    firsts = {split: [row["first_frame"] for row in origin["clips"]] for split, origin in origins.items()}
    assert firsts == {"train": [0, 3, 6], "val": [12]}


def test_every_second_frame_and_a_scale_change_the_motion(tmp_path: Path) -> None:
    for seed in range(2):
        write_video(tmp_path / "clips", f"c{seed}", seed)
    listed = video_clips(tmp_path / "clips", ClipFiles())
    config = ImportConfig(size=32, frames=5, every=2, scale=0.1)
    assert brought_in(listed, tmp_path / "out", config).speed == pytest.approx(0.05 * 2 * 0.1, rel=1e-2)
    assert ClipShards(tmp_path / "out" / "train").read(0).rgb.shape[0] == 5


def test_a_second_import_into_the_same_folder_is_refused(tmp_path: Path) -> None:
    for seed in range(2):
        write_video(tmp_path / "clips", f"c{seed}", seed)
    listed = video_clips(tmp_path / "clips", ClipFiles())
    brought_in(listed, tmp_path / "out")
    with pytest.raises(FileExistsError, match="never mixed"):
        brought_in(listed, tmp_path / "out")


def test_settings_that_make_no_data_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="frames=6"):
        ImportConfig(frames=6)
    write_video(tmp_path / "clips", "one")
    with pytest.raises(ValueError, match="train and val need one each"):
        brought_in(
            video_clips(tmp_path / "clips", ClipFiles()), tmp_path / "out", ImportConfig(size=32, frames=9)
        )
    assert not (tmp_path / "out").exists()


def test_a_blocked_camera_that_moves_once_is_no_cut(tmp_path: Path) -> None:
    """As an agent against a wall does: turning on the spot, and one step of the usual size."""
    for name, metres in (("once", 0.05), ("twice", 0.05), ("cut", 5.0)):
        c2w = torch.eye(4).double().repeat(FRAMES, 1, 1)
        c2w[4:, 0, 3] = metres
        write_video(tmp_path / "clips", name, c2w=c2w.numpy())
    done = brought_in(video_clips(tmp_path / "clips", ClipFiles()), tmp_path / "out", skip_bad=True)
    assert [problem.clip for problem in done.left_out] == ["cut"]
