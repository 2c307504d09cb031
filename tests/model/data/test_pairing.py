"""Frames and poses belong together, and pixels mean what they say: films and pictures of other people."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import numpy as np
import pytest
from PIL import Image

from wm_env.images import start_image
from wm_env.model.data.clip_files import ClipFiles
from wm_env.model.data.layouts.pictures import pictures_in
from wm_env.model.data.layouts.re10k import re10k_clips
from wm_env.model.data.layouts.video import video_clips
from wm_env.model.data.recorded import Problem, RecordedClip, whole_frames

REST = ".8 .8 .5 .5 0 0 1 0 0 0 0 1 0 0 0 0 1 0"
LEVELS = 120  # frame i of a film is grey with level 2 i + 8


def ffmpeg(*words: str) -> None:
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-y", *words]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)


def film(path: Path, *options: str, source: str = "", frames: int = LEVELS, rate: str = "30") -> Path:
    """Write a film whose frames say which they are."""
    grey = f"color=black:size=64x64:rate={rate},geq=lum='16+N':cb=128:cr=128"
    ffmpeg("-f", "lavfi", "-i", source or grey, "-frames:v", str(frames), *options, str(path))
    return path


def which(frames: Any) -> list[int]:
    """Return the number of every frame, from its grey level."""
    return [round(float(frame.mean()) * 219 / 255) for frame in frames]


def text(path: Path, times: list[float]) -> Path:
    path.write_text("url\n" + "\n".join(f"{round(time * 1e6)} {REST}" for time in times))
    return path


def read(folder: Path) -> list[int]:
    clip = re10k_clips(folder, ClipFiles())[0]
    assert isinstance(clip, RecordedClip)
    return which(whole_frames(clip))


GAP = ("-vf", "select='not(between(n,30,39))'", "-fps_mode", "vfr", "-c:v", "libx264", "-crf", "1")


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_poses_get_the_frames_of_their_own_time_stamps(tmp_path: Path, suffix: str) -> None:
    film(tmp_path / f"a{suffix}", *GAP)
    text(tmp_path / "a.txt", [i / 30 for i in range(60, 100)])
    assert read(tmp_path) == list(range(60, 100))


def test_a_pose_in_a_gap_of_the_film_is_refused(tmp_path: Path) -> None:
    film(tmp_path / "a.mp4", *GAP)
    text(tmp_path / "a.txt", [i / 30 for i in range(20, 60)])
    with pytest.raises(ValueError, match=r"pose 1\d at 1\.\d+ s has no frame"):
        read(tmp_path)


def test_a_film_of_two_rates_is_read_by_its_time_stamps(tmp_path: Path) -> None:
    halves = "select='lt(n,60)+not(mod(n,2))'"
    film(tmp_path / "a.mp4", "-vf", halves, "-fps_mode", "vfr", "-c:v", "libx264", "-crf", "1")
    wanted = [*range(40, 60), *range(60, 110, 2)]
    text(tmp_path / "a.txt", [i / 30 for i in wanted])
    assert read(tmp_path) == wanted


def test_sound_that_lasts_longer_or_begins_earlier_changes_no_pair(tmp_path: Path) -> None:
    film(tmp_path / "b.mp4", "-c:v", "libx264", "-crf", "1")
    sound = ("-f", "lavfi", "-i", "sine=duration=9")
    copied = ("-map", "0:v", "-map", "1:a", "-c:v", "copy", "-c:a", "aac")
    ffmpeg("-i", str(tmp_path / "b.mp4"), *sound, *copied, str(tmp_path / "a.mp4"))
    (tmp_path / "b.mp4").unlink()
    text(tmp_path / "a.txt", [i / 30 for i in range(60, 100)])
    assert read(tmp_path) == list(range(60, 100))


def test_a_film_that_lost_its_last_frames_is_refused(tmp_path: Path) -> None:
    film(tmp_path / "a.mp4", "-c:v", "libx264", "-crf", "1", frames=90)
    text(tmp_path / "a.txt", [i / 30 for i in range(60, 100)])
    with pytest.raises(ValueError, match=r"pose 30 at 3\.000 s has no frame, the nearest is at 2\.967 s"):
        read(tmp_path)


def test_two_poses_of_one_frame_are_refused(tmp_path: Path) -> None:
    film(tmp_path / "a.mp4", "-c:v", "libx264", "-crf", "1")
    text(tmp_path / "a.txt", [1.0, 1.001, 1.1])
    with pytest.raises(ValueError, match="same frame"):
        read(tmp_path)


def test_an_uneven_film_has_no_rate_and_an_even_one_that_of_its_time_stamps(tmp_path: Path) -> None:
    film(tmp_path / "gap.mp4", *GAP)
    with pytest.raises(ValueError, match=r"gap\.mp4 has frames 33 to 367 ms apart; make their rate constant"):
        ClipFiles().rate(tmp_path / "gap.mp4")
    for rate in ("30", "30000/1001", "15", "240"):
        found = ClipFiles().rate(film(tmp_path / "even.mp4", "-c:v", "libx264", frames=60, rate=rate))
        assert found == pytest.approx(eval(rate), rel=1e-3)


def test_interlaced_and_hdr_films_are_refused_by_name(tmp_path: Path) -> None:
    film(tmp_path / "fields.mp4", "-c:v", "libx264", "-flags", "+ilme+ildct", "-vf", "setfield=tff", frames=9)
    with pytest.raises(ValueError, match=r"fields\.mp4 is interlaced"):
        list(ClipFiles().frames(tmp_path / "fields.mp4"))
    bright = "setparams=color_trc=smpte2084:color_primaries=bt2020:colorspace=bt2020nc"
    film(tmp_path / "bright.mp4", "-c:v", "libx264", "-vf", bright, frames=9)
    with pytest.raises(ValueError, match=r"bright\.mp4 is an HDR film"):
        list(ClipFiles().frames(tmp_path / "bright.mp4"))


@pytest.mark.parametrize("alpha", [255, 254])
def test_an_opaque_alpha_of_a_film_is_dropped_and_a_real_one_refused(tmp_path: Path, alpha: int) -> None:
    frames = np.full((4, 32, 32, 4), (10, 200, 30, 255), np.uint8)
    frames[3, 0, 0, 3] = alpha
    for index, frame in enumerate(frames):
        Image.fromarray(frame).save(tmp_path / f"{index}.png")
    ffmpeg("-i", str(tmp_path / "%d.png"), "-c:v", "png", str(tmp_path / "a.mov"))
    if alpha < 255:
        with pytest.raises(ValueError, match=r"a\.mov has an alpha channel"):
            list(ClipFiles().frames(tmp_path / "a.mov"))
    else:
        np.testing.assert_array_equal(np.stack(list(ClipFiles().frames(tmp_path / "a.mov"))), frames[..., :3])


MATRICES = [("bt709", "tv"), ("bt709", "pc"), ("smpte170m", "tv"), ("smpte170m", "pc")]


@pytest.mark.parametrize(("matrix", "levels"), MATRICES)
def test_colours_follow_what_a_film_says(tmp_path: Path, matrix: str, levels: str) -> None:
    colours = np.random.default_rng(0).integers(0, 256, (4, 4, 3), np.uint8)
    Image.fromarray(colours.repeat(16, 0).repeat(16, 1)).save(tmp_path / "a.png")
    exact = f"scale=out_color_matrix={matrix}:out_range={levels}:flags=accurate_rnd+full_chroma_int"
    said = ("-colorspace", matrix, "-color_range", levels, "-color_primaries", matrix, "-color_trc", "bt709")
    coded = ("-frames:v", "3", "-c:v", "libx264", "-crf", "0", "-pix_fmt", "yuv420p", *said)
    ffmpeg(
        "-loop",
        "1",
        "-i",
        str(tmp_path / "a.png"),
        "-frames:v",
        "3",
        "-vf",
        exact,
        *coded,
        str(tmp_path / "a.mp4"),
    )
    seen = np.stack(list(ClipFiles().frames(tmp_path / "a.mp4")))[:, 8::16, 8::16].astype(int)
    assert np.abs(seen - colours).max() <= 3


def test_a_film_on_its_side_is_turned_like_a_picture(tmp_path: Path) -> None:
    split = "color=red:size=64x48:rate=16,drawbox=x=0:y=0:w=32:h=48:color=blue:t=fill"
    film(tmp_path / "flat.mp4", "-c:v", "libx264", source=split, frames=6)
    turn = ("-display_rotation", "90", "-i", str(tmp_path / "flat.mp4"), "-c", "copy")
    ffmpeg(*turn, str(tmp_path / "phone.mp4"))
    seen = next(iter(ClipFiles().frames(tmp_path / "phone.mp4")))
    assert seen.shape == (64, 48, 3)
    below, above = seen[-4, 24].astype(int), seen[4, 24].astype(int)
    assert below[2] > 200 > below[0] and above[0] > 200 > above[2]  # turned to the left


def phone(path: Path) -> np.ndarray:
    """Write a picture that lies on its side and says so; return it upright."""
    up = np.zeros((200, 120, 3), np.uint8)
    up[:100], up[100:] = (255, 0, 0), (0, 0, 255)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(up).transpose(Image.Transpose.ROTATE_90).save(path, exif=exif)
    return up


def test_a_picture_is_upright_by_path_as_pil_image_and_in_a_clip(tmp_path: Path) -> None:
    up = phone(tmp_path / "0.png")
    expected = start_image(up, None, (64, 64)).pixels
    for source in (str(tmp_path / "0.png"), tmp_path / "0.png", Image.open(tmp_path / "0.png")):
        np.testing.assert_array_equal(start_image(source, None, (64, 64)).pixels, expected)
    np.testing.assert_array_equal(ClipFiles().image(tmp_path / "0.png"), up)


def grey16() -> Image.Image:
    return Image.fromarray(np.linspace(0, 65535, 64 * 64).reshape(64, 64).astype(np.uint16))


def see_through(alpha: int) -> Image.Image:
    pixels = np.full((64, 64, 4), (10, 200, 30, 255), np.uint8)
    pixels[5, 7, 3] = alpha
    return Image.fromarray(pixels)


PLAIN = np.full((64, 64, 3), (10, 200, 30), np.uint8)
REFUSED: list[tuple[str, Callable[[], Image.Image], str]] = [
    ("16.png", grey16, "mode 'I;16"),
    ("float.tiff", lambda: Image.fromarray(np.zeros((64, 64), np.float32)), "mode 'F'"),
    ("int.tiff", lambda: Image.fromarray(np.zeros((64, 64), np.int32)), "mode 'I'"),
    ("inks.jpg", lambda: Image.fromarray(PLAIN).convert("CMYK"), "mode 'CMYK'"),
    ("alpha.png", lambda: see_through(254), "alpha channel"),
    ("grey alpha.png", lambda: see_through(0).convert("LA"), "alpha channel"),
]


@pytest.mark.parametrize(("name", "make", "says"), REFUSED)
def test_pixels_without_an_eight_bit_meaning_are_refused_everywhere(
    tmp_path: Path, name: str, make: Callable[[], Image.Image], says: str
) -> None:
    make().save(tmp_path / name)
    for source in (tmp_path / name, Image.open(tmp_path / name)):
        with pytest.raises(ValueError, match=says):
            start_image(source, None, (64, 64))
    with pytest.raises(ValueError, match=rf"{name.split('.')[0]}.*{says}"):
        ClipFiles().image(tmp_path / name)


def test_an_animation_is_no_picture(tmp_path: Path) -> None:
    frames = [Image.fromarray(PLAIN), Image.fromarray(255 - PLAIN)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    with pytest.raises(ValueError, match="holds 2 pictures"):
        start_image(tmp_path / "a.gif", None, (64, 64))


@pytest.mark.parametrize("mode", ["RGBA", "P", "L", "LA", "1"])
def test_pixels_with_an_eight_bit_meaning_are_the_same_everywhere(tmp_path: Path, mode: str) -> None:
    picture = see_through(255).convert("RGB").convert(mode)
    picture.save(tmp_path / "a.png")
    expected = np.asarray(picture.convert("RGB"))
    for source in (tmp_path / "a.png", Image.open(tmp_path / "a.png"), expected):
        np.testing.assert_array_equal(start_image(source, None, (64, 64)).pixels, expected)
    np.testing.assert_array_equal(ClipFiles().image(tmp_path / "a.png"), expected)


def test_arrays_follow_the_same_rule() -> None:
    opaque = np.dstack([PLAIN, np.full((64, 64), 255, np.uint8)])
    np.testing.assert_array_equal(start_image(opaque, None, (64, 64)).pixels, PLAIN)
    opaque[0, 0, 3] = 254
    with pytest.raises(ValueError, match="alpha channel"):
        start_image(opaque, None, (64, 64))


def test_pictures_are_in_the_order_of_their_numbers_and_two_of_one_number_are_refused(tmp_path: Path) -> None:
    for number in (0, 1, 2, 9, 10, 11, 100):
        Image.fromarray(PLAIN).save(tmp_path / f"f{number}.png")
    (tmp_path / "._f3.png").touch()
    assert [path.name for path in pictures_in(tmp_path)] == [f"f{n}.png" for n in (0, 1, 2, 9, 10, 11, 100)]
    Image.fromarray(PLAIN).save(tmp_path / "f010.png")
    with pytest.raises(ValueError, match=r"f0?10\.png and f0?10\.png have one number"):
        pictures_in(tmp_path)


def test_two_films_of_one_name_are_a_problem_and_a_picture_beside_clips_is_none(tmp_path: Path) -> None:
    for name in ("x.mp4", "x.mov", "cover.jpg", "._x.mp4"):
        (tmp_path / name).touch()
    np.savez(tmp_path / "x.npz", c2w=np.tile(np.eye(4), (5, 1, 1)), intrinsics=np.ones(4))
    found = video_clips(tmp_path, ClipFiles())
    assert found == [Problem("x", "x.mov and x.mp4 are both there; keep one")]
