"""A posed clip is sound when it is made, is saved and loaded bit for bit, and picks frames that exist."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import numpy as np
import pytest
import torch
from PIL import Image

import wm_env
from wm_env.env import SanaWMEnv
from wm_env.export.episode import play_episode, save_recording
from wm_env.model.data.layouts.video import video_clip
from wm_env.model.data.posed_clip import MAX_BYTES, PosedClip
from wm_env.model.data.procedural import RenderConfig, render_clip
from wm_env.model.geometry import invert_rigid, se3_exp

FRAMES, SIZE = 17, 64


@cache
def walk() -> PosedClip:
    """Return a rendered walk, 30 frames per second."""
    arrays, captions = render_clip(3, RenderConfig(frames=FRAMES, size=SIZE, event_fraction=0.0))
    return PosedClip(arrays["rgb"], arrays["c2w"], arrays["intrinsics"], 30, captions[0])


def made(**changed: Any) -> PosedClip:
    """Return the walk with some fields changed."""
    clip = walk()
    fields = {name: getattr(clip, name) for name in ("frames", "c2w", "intrinsics", "fps", "caption")}
    return PosedClip(**{**fields, **changed})


def same(a: PosedClip, b: PosedClip) -> bool:
    arrays = all(np.array_equal(getattr(a, n), getattr(b, n)) for n in ("frames", "c2w", "intrinsics"))
    return arrays and (a.fps, a.caption) == (b.fps, b.caption)


def moved(index: int, twist: list[float]) -> np.ndarray:
    """Return the poses of the walk, from frame `index` on moved once by a twist."""
    c2w = torch.tensor(walk().c2w)
    c2w[index:] = c2w[index] @ se3_exp(torch.tensor(twist).double()) @ invert_rigid(c2w[index]) @ c2w[index:]
    return c2w.numpy()


def test_fields_are_arrays_of_their_own_that_cannot_be_written_to() -> None:
    frames, c2w = walk().frames.copy(), torch.tensor(walk().c2w)
    clip = made(frames=frames, c2w=c2w, intrinsics=torch.tensor(walk().intrinsics).float(), fps=16)
    frames[:], c2w[:] = 0, 0
    assert np.array_equal(clip.frames, walk().frames) and np.array_equal(clip.c2w, walk().c2w)
    assert [x.dtype for x in (clip.frames, clip.c2w, clip.intrinsics)] == [np.uint8, np.float64, np.float64]
    assert clip.fps == 16.0 and len(clip) == FRAMES and clip.size == (SIZE, SIZE)
    assert repr(clip).startswith("PosedClip(17 frames of 64x64, 16 fps, '")
    with pytest.raises(ValueError, match="read-only"):
        clip.c2w[0, 0, 3] = 1.0


SKEWED, MISSING = walk().c2w.copy(), walk().c2w.copy()
SKEWED[6, :3, :3] *= 1.1
MISSING[3, 0, 3] = np.nan


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"frames": walk().frames[:-1]}, "16 frames for 17 poses; give one pose for every frame"),
        ({"frames": walk().frames.astype(np.float32)}, r"float32 \(17, 64, 64, 3\); expected uint8"),
        ({"frames": walk().frames[..., :1]}, r"\(17, 64, 64, 1\); expected uint8 \(F, h, w, 3\)"),
        ({"frames": "room.mp4"}, "expected uint8"),
        ({"c2w": SKEWED}, "pose 6 is not a rigid camera-to-world"),
        ({"c2w": MISSING}, "pose 3 holds NaN or infinity; leave out"),
        ({"c2w": moved(8, [9.0, 0, 0, 0, 0, 0])}, "jumps 8.* m between frames 7 and 8.*; cut the clip there"),
        ({"c2w": moved(8, [0, 0, 0, 0, 2.0, 0])}, "turns 11. deg between frames 7 and 8.*; at most 45"),
        ({"c2w": walk().c2w[:, :3]}, r"shape \(17, 3, 4\); expected \(F, 4, 4\)"),
        ({"c2w": "poses"}, "a str is no array of numbers"),
        (
            {"c2w": moved(8, [0, 0, 0, 0, 0.65, 0]), "intrinsics": [90.0, 90.0, 32.0, 32.0]},
            r"frames 7 and 8 have \d% of their view in common, at least 10% is needed",
        ),
        ({"frames": walk().frames[:4], "c2w": walk().c2w[:4]}, "4 frames are too short: at least 5"),
        ({"intrinsics": np.tile(walk().intrinsics, (17, 1))}, r"shape \(17, 4\); .* one camera"),
        ({"intrinsics": [700.0, 700.0, 32.0, 32.0]}, "field of view"),
        ({"fps": 0}, "fps is 0; expected a positive number"),
        ({"fps": float("nan")}, "fps is nan"),
        ({"fps": "30"}, "fps is '30'"),
        ({"caption": 3}, "caption is a int"),
    ],
)
def test_a_clip_that_cannot_be_used_is_refused_in_one_sentence(changed: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says) as caught:
        made(**changed)
    assert "\n" not in str(caught.value)


def test_what_is_saved_is_loaded_bit_for_bit(tmp_path: Path) -> None:
    for clip in (walk(), made(caption=None, fps=29.97, c2w=walk().from_last())):
        path = tmp_path / f"{clip.fps:g}" / "room"
        path.parent.mkdir()
        assert clip.save(path) == path
        assert same(PosedClip.load(path), clip)
        assert same(wm_env.PosedClip.load(str(path.parent)), clip), "the only clip of a folder"
        assert sorted(p.name for p in path.iterdir()) == ["camera.json", "frames"]
        assert [p.name for p in path.parent.iterdir()] == ["room"], "nothing is left beside it"


def test_a_saved_clip_is_not_replaced_and_a_failed_save_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    walk().save(tmp_path / "room")
    with pytest.raises(FileExistsError, match="not empty; give another folder"):
        walk().save(tmp_path / "room")
    calls = iter(range(3))

    def full(image: np.ndarray) -> bytes:
        if next(calls) == 2:
            raise OSError("disk full")
        return b""

    monkeypatch.setattr("wm_env.model.data.posed_clip.png_bytes", full)
    with pytest.raises(OSError, match="disk full"):
        walk().save(tmp_path / "other")
    assert [path.name for path in tmp_path.iterdir()] == ["room"]


def test_poses_from_the_last_frame_end_at_exactly_the_identity() -> None:
    poses = walk().from_last()
    assert poses.dtype == np.float64 and np.array_equal(poses[-1], np.eye(4))
    last = walk().c2w[-1]
    assert np.allclose(last @ poses, walk().c2w, atol=1e-6)  # rendered poses are float32


@pytest.mark.parametrize("fps", [16.0, 12.5, 30.0, 8.0])
def test_a_resampled_clip_keeps_recorded_frames_with_their_own_poses(fps: float) -> None:
    """Of 30 frames per second none is more than 1/60 s off the time it is wanted at."""
    source = walk()
    clip = source.resampled(fps)
    kept = [int(np.flatnonzero((source.c2w == pose).all((1, 2)))[0]) for pose in clip.c2w]
    assert np.array_equal(clip.frames, source.frames[kept]) and clip.fps == fps
    assert kept[-1] == FRAMES - 1 and kept == sorted(set(kept)), "the last frame stays and none is repeated"
    wanted = (FRAMES - 1) / 30 - np.arange(len(kept))[::-1] / fps
    assert len(kept) == int((FRAMES - 1) / 30 * fps + 1e-9) + 1
    assert np.abs(np.array(kept) / 30 - wanted).max() <= 1 / 60 + 1e-9


def test_a_slightly_slower_clip_keeps_every_frame_and_a_much_slower_one_is_refused() -> None:
    kept = made(fps=15).resampled(16)
    assert np.array_equal(kept.frames, walk().frames) and kept.fps == 16
    with pytest.raises(ValueError, match=r"has 10 frames per second, 16 are wanted .* fps=16"):
        made(fps=10).resampled(16)
    with pytest.raises(ValueError, match="5 are needed"):
        walk().resampled(3)


@pytest.mark.parametrize(("chunk", "kept"), [(4, 17), (8, 17), (5, 16), (7, 15)])
def test_the_ending_is_the_last_frame_and_whole_chunks_before_it(chunk: int, kept: int) -> None:
    assert np.array_equal(walk().ending(chunk).frames, walk().frames[-kept:])
    with pytest.raises(ValueError, match="17 frames are too short: at least 21 are needed"):
        walk().ending(20)


def test_a_resized_clip_sees_the_centre_with_the_camera_that_belongs_to_it() -> None:
    assert walk().resized(SIZE, SIZE) is walk()
    half = walk().resized(32, 32)
    assert half.frames.shape == (FRAMES, 32, 32, 3)
    assert np.allclose(half.intrinsics, walk().intrinsics / 2)
    mean = walk().frames.astype(float).mean((1, 2))
    assert np.abs(half.frames.astype(float).mean((1, 2)) - mean).max() < 2.0
    low = walk().resized(48, 64)
    assert np.array_equal(low.frames, walk().frames[:, 8:56])
    assert np.allclose(low.intrinsics, walk().intrinsics - [0, 0, 0, 8])
    with pytest.raises(ValueError, match="64x64 would be enlarged to 96x32"):
        walk().resized(32, 96)


def write_film(folder: Path, name: str, **changed: Any) -> Path:
    """Write a film and its camera file; return their common name."""
    folder.mkdir(exist_ok=True)
    stem = folder / name
    iio.imwrite(stem.with_suffix(".mp4"), walk().frames, fps=30, codec="libx264", quality=10)
    camera = {"c2w": walk().c2w.tolist(), "intrinsics": walk().intrinsics.tolist(), "caption": "a room"}
    stem.with_suffix(".json").write_text(json.dumps({**camera, **changed}))
    return stem


def test_a_film_is_loaded_by_any_of_its_names_at_its_own_rate(tmp_path: Path) -> None:
    stem = write_film(tmp_path, "hall")
    for path in (stem, stem.with_suffix(".mp4"), stem.with_suffix(".json"), tmp_path):
        clip = PosedClip.load(path)
        assert clip.fps == 30 and clip.caption == "a room"
        assert np.array_equal(clip.c2w, walk().c2w)
        assert np.abs(clip.frames.astype(float) - walk().frames).mean() < 6.0
    clip = PosedClip.load(stem, fps=16, scale=2.0, size=(32, 48), intrinsics=[60, 60, 32, 32])
    assert clip.fps == 16 and clip.frames.shape == (FRAMES, 32, 48, 3)
    assert np.allclose(clip.c2w[:, :3, 3], 2 * walk().c2w[:, :3, 3])
    assert clip.intrinsics.tolist() == [45.0, 45.0, 24.0, 16.0]


def test_a_folder_of_several_clips_lists_them_and_asks_for_one(tmp_path: Path) -> None:
    write_film(tmp_path, "hall")
    walk().save(tmp_path / "room")
    with pytest.raises(ValueError, match=r"holds 2 clips, hall, room; ask for one, as in '.*hall'"):
        PosedClip.load(tmp_path)
    assert same(PosedClip.load(tmp_path / "room"), walk())


def test_what_is_no_clip_is_said_with_what_is_known(tmp_path: Path) -> None:
    (tmp_path / "notes.rst").write_text("nothing here")
    with pytest.raises(ValueError, match=r"it holds notes\.rst; known are camera\.json with frames/"):
        PosedClip.load(tmp_path)
    with pytest.raises(ValueError, match="it is a file"):
        PosedClip.load(tmp_path / "notes.rst")
    with pytest.raises(FileNotFoundError, match="does not exist"):
        PosedClip.load(tmp_path / "hall")
    stem = write_film(tmp_path, "hall")
    stem.with_suffix(".json").unlink()
    with pytest.raises(ValueError, match=r"no poses; put hall\.npz or hall\.json beside it"):
        PosedClip.load(stem.with_suffix(".mp4"))


def test_a_film_that_cannot_be_used_is_refused_with_its_path(tmp_path: Path) -> None:
    zoom = np.tile(walk().intrinsics, (FRAMES, 1))
    zoom[8:, :2] *= 1.2
    for name, changed, says in (
        ("zoom", {"intrinsics": zoom.tolist()}, "change by 20% of the focal length; a clip has one camera"),
        ("more", {"c2w": [*walk().c2w.tolist(), walk().c2w[-1].tolist()]}, "17 frames for 18 poses"),
        ("short", {"c2w": walk().c2w[:3].tolist()}, "3 frames are too short: at least 5"),
    ):
        stem = write_film(tmp_path / name, name, **changed)
        with pytest.raises(ValueError, match=f"{name}': .*{says}"):
            PosedClip.load(stem)
    stem = write_film(tmp_path / "cut", "cut")
    stem.with_suffix(".mp4").write_bytes(stem.with_suffix(".mp4").read_bytes()[:3000])
    with pytest.raises(ValueError, match=r"cut\.mp4 (is not a video|cannot be decoded)"):
        PosedClip.load(stem)


def write_pictures(folder: Path, frames: np.ndarray) -> Path:
    """Write a folder of pictures 0.png, 1.png, ... 16.png with a camera file beside it."""
    folder.mkdir(parents=True)
    for index, frame in enumerate(frames):
        Image.fromarray(frame).save(folder / f"{index}.png")
    np.savez(folder.with_suffix(".npz"), c2w=walk().c2w, intrinsics=walk().intrinsics)
    return folder


def test_pictures_are_taken_by_number_and_need_a_frame_rate(tmp_path: Path) -> None:
    folder = write_pictures(tmp_path / "hall", walk().frames)
    with pytest.raises(ValueError, match="nothing says how many of its 17 frames make a second; give fps="):
        PosedClip.load(folder)
    clip = PosedClip.load(folder, fps=16)
    assert np.array_equal(clip.frames, walk().frames), "10.png comes after 9.png"
    Image.fromarray(walk().frames[5, :48]).save(folder / "5.png")
    with pytest.raises(ValueError, match="frame 5 is 64x48, those before it 64x64; make all frames"):
        PosedClip.load(folder, fps=16)


def test_poses_are_checked_before_a_picture_is_decoded(tmp_path: Path) -> None:
    folder = write_pictures(tmp_path / "hall", walk().frames)
    np.savez(folder.with_suffix(".npz"), c2w=SKEWED, intrinsics=walk().intrinsics)
    (folder / "0.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match="pose 6 is not a rigid"):
        PosedClip.load(folder, fps=16)


def test_more_frames_than_memory_should_hold_are_refused_at_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_pictures(tmp_path / "hall", walk().frames)
    assert MAX_BYTES == 4 * 2**30
    monkeypatch.setattr("wm_env.model.data.posed_clip.MAX_BYTES", FRAMES * 3 * 40 * 40)
    with pytest.raises(ValueError, match=r"17 frames of 64x64 need .* GiB.* give size=\(height, width\)"):
        PosedClip.load(folder, fps=16)
    assert PosedClip.load(folder, fps=16, size=(32, 32)).size == (32, 32)


def test_a_recorded_clip_of_a_film_is_read_no_further_than_its_camera_file(tmp_path: Path) -> None:
    class NoPictures:
        def __getattr__(self, name: str) -> Any:
            raise AssertionError("listing a clip decodes nothing")

    stem = write_film(tmp_path, "hall")
    clip = video_clip("hall", stem.with_suffix(".json"), stem.with_suffix(".mp4"), NoPictures())  # type: ignore[arg-type]
    assert len(clip.c2w) == FRAMES


def test_a_recorded_episode_is_a_clip_at_the_rate_of_its_world(memory_world: str, tmp_path: Path) -> None:
    env = SanaWMEnv(world=memory_world, action_type="multikeys")
    recording = play_episode(env, lambda state: "wj", seed=0, steps=2)
    save_recording(recording, tmp_path / "episode_000000")
    clip = PosedClip.load(tmp_path / "episode_000000")
    assert np.array_equal(clip.frames, recording.frames) and np.array_equal(clip.c2w, recording.c2w)
    assert clip.fps == env.world.spec.fps == 16 and clip.caption == recording.facts["prompt"]
    assert np.array_equal(PosedClip.load(tmp_path).frames, clip.frames)


def test_a_realestate10k_clip_has_the_rate_of_its_timestamps(tmp_path: Path) -> None:
    """Lines of timestamp, normalised intrinsics, 0 0 and the world-to-camera matrix, after a URL."""
    times = [33_367 * i for i in range(FRAMES)]
    (tmp_path / "house").mkdir()
    lines = ["https://example.org"]
    for time, frame, pose in zip(times, walk().frames, walk().c2w, strict=True):
        Image.fromarray(frame).save(tmp_path / "house" / f"{time}.png")
        numbers = [*walk().intrinsics / SIZE, 0, 0, *np.linalg.inv(pose)[:3].flatten()]
        lines.append(f"{time} " + " ".join(repr(float(number)) for number in numbers))
    (tmp_path / "house.txt").write_text("\n".join(lines) + "\n")
    for path in (tmp_path, tmp_path / "house", tmp_path / "house.txt"):
        clip = PosedClip.load(path)
        assert np.array_equal(clip.frames, walk().frames)
        assert np.abs(clip.c2w - walk().c2w).max() < 1e-6
        assert clip.fps == pytest.approx(1e6 / 33_367)
        assert np.allclose(clip.intrinsics, walk().intrinsics)


@pytest.mark.slow
def test_a_clip_of_arrays_needs_no_decoder() -> None:
    code = "import sys, wm_env.model.data.posed_clip; print({'PIL', 'imageio_ffmpeg'} & set(sys.modules))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert out.stdout.strip() == "set()"
