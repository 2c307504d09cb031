"""`wm-env train import`: real video files, a readable report, exit status 2, and --skip-bad."""

from __future__ import annotations

import json
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
import torch

import wm_env
from wm_env.cli import main
from wm_env.model.data.clip import ClipShards
from wm_env.model.data.clip_files import ClipFiles
from wm_env.model.data.latent_zip import LatentEntry, write_latent_zips
from wm_env.model.data.procedural import RenderConfig, render_clip
from wm_env.model.embedded import embedded_vae, load_embedded
from wm_env.model.training.autoencoder import load_vae

FRAMES = 9
TOLERANCE = 6.0  # mean difference in grey levels that the video codec may make


def status(*words: str | Path) -> int | str | None:
    with pytest.raises(SystemExit) as stop:
        main([str(word) for word in words])
    return stop.value.code


@pytest.fixture(scope="module")
def rendered() -> list[dict[str, np.ndarray]]:
    config = RenderConfig(frames=FRAMES, event_fraction=0.0)
    return [render_clip(seed, config)[0] for seed in range(3)]


@pytest.fixture(scope="module")
def clips(rendered: list[dict[str, np.ndarray]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of three videos of 64x64 with camera files, and two that are damaged."""
    folder = tmp_path_factory.mktemp("clips")
    for index, arrays in enumerate(rendered):
        path = folder / f"walk{index}.mp4"
        iio.imwrite(path, arrays["rgb"], fps=16, codec="libx264", quality=10, macro_block_size=1)
        camera = {"c2w": arrays["c2w"].tolist(), "intrinsics": arrays["intrinsics"].tolist()}
        path.with_suffix(".json").write_text(json.dumps(camera))
    whole = (folder / "walk0.mp4").read_bytes()
    for name, data in (("cut", whole[: len(whole) // 2]), ("empty", b"")):
        (folder / f"{name}.mp4").write_bytes(data)
        (folder / f"{name}.json").write_text((folder / "walk0.json").read_text())
    return folder


@pytest.mark.slow
def test_bad_videos_end_the_import_with_a_report_and_skip_bad_goes_on(
    clips: Path, rendered: list[dict[str, np.ndarray]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("train", "import", "--from", clips, "--layout", "video", "--frames", str(FRAMES))
    words = (*words, "--out", tmp_path / "out", "--json", tmp_path / "import.json")
    assert status(*words) == 2
    said = capsys.readouterr().err
    assert "5 clips, 2 bad" in said and "  cut    cut.mp4 cannot be decoded" in said and "  empty  " in said
    assert "2 of 5 clips are bad" in said and "--skip-bad" in said and "Traceback" not in said
    assert list(tmp_path.iterdir()) == []

    assert status(*words, "--skip-bad") == 0
    result = json.loads((tmp_path / "import.json").read_text())
    assert result["windows"] == {"train": 2, "val": 1}
    assert [row["clip"] for row in result["left_out"]] == ["cut", "empty"]
    assert "  cut  " in capsys.readouterr().out
    shards = ClipShards(tmp_path / "out" / "train")
    for index, row in enumerate(shards.origins[0]["clips"]):
        clip, arrays = shards.read(index), rendered[int(row["clip"].removeprefix("walk"))]
        difference = np.abs(clip.rgb.numpy().astype(float) - arrays["rgb"])
        assert difference.mean() < TOLERANCE
        assert np.allclose(clip.c2w.numpy(), arrays["c2w"], atol=1e-6)
        true = np.clip(arrays["depth"].astype(float), 0.4, 60)
        relative, flat = np.abs(clip.depth.numpy() / true - 1), np.abs(np.median(true) / true - 1)
        assert np.median(relative) < 0.7 * np.median(flat)  # nearer than the best constant
    _, sha256 = embedded_vae("tiny-pure")
    assert shards.origins[0]["depth_sha256"] == sha256


def test_saved_clips_are_imported_by_the_same_command(
    rendered: list[dict[str, np.ndarray]], tmp_path: Path
) -> None:
    for name, arrays in zip(("hall", "yard"), rendered, strict=False):
        clip = wm_env.PosedClip(arrays["rgb"], arrays["c2w"], arrays["intrinsics"], 16, f"the {name}")
        clip.save(tmp_path / "in" / name)
    words = ("--from", tmp_path / "in", "--layout", "clips", "--frames", FRAMES, "--out", tmp_path / "out")
    assert status("train", "import", *words) == 0
    shards = [ClipShards(tmp_path / "out" / split) for split in ("train", "val")]
    assert sorted(shard.captions[0] for shard in shards) == ["the hall", "the yard"]
    frames = [shard.read(0).rgb.numpy() for shard in shards]
    assert {frame.tobytes() for frame in frames} == {arrays["rgb"].tobytes() for arrays in rendered[:2]}


def test_a_damaged_stream_is_an_error_and_not_painted_over(clips: Path, tmp_path: Path) -> None:
    data = bytearray((clips / "walk1.mp4").read_bytes())
    start = data.index(b"mdat") + 2400
    data[start : start + 2000] = b"\xff" * 2000  # seven frames come out of this if ffmpeg may guess
    (tmp_path / "damaged.mp4").write_bytes(data)
    with pytest.raises(ValueError, match=r"damaged\.mp4 cannot be decoded"):
        list(ClipFiles().frames(tmp_path / "damaged.mp4"))
    assert (
        len(list(ClipFiles().frames(clips / "walk1.mp4")))
        == FRAMES
        == len(ClipFiles().times(clips / "walk1.mp4"))
    )


def test_latents_are_decoded_by_the_autoencoder_that_made_them(
    rendered: list[dict[str, np.ndarray]], tmp_path: Path
) -> None:
    vae, _ = embedded_vae("tiny-pure")
    entries = []
    for index, arrays in enumerate(rendered[:2]):
        rgb, depth = torch.from_numpy(arrays["rgb"])[None], torch.from_numpy(arrays["depth"]).float()[None]
        with torch.no_grad():
            z = vae.encode_clip(rgb, depth)[0].transpose(0, 1)  # (C, T, h, w)
        rows = torch.from_numpy(arrays["intrinsics"]).expand(FRAMES, 4)
        entries.append(LatentEntry(f"k{index}", z, "", 64, 64, torch.from_numpy(arrays["c2w"]), rows))
    write_latent_zips(tmp_path / "raw", tmp_path / "z", "part", entries)
    words = (
        "train",
        "import",
        "--from",
        tmp_path / "raw",
        "--latents",
        tmp_path / "z",
        "--layout",
        "latents",
    )
    assert status(*words, "--frames", str(FRAMES), "--out", tmp_path / "out") == 0
    shards = ClipShards(tmp_path / "out" / "val")
    index = int(shards.origins[0]["clips"][0]["clip"].removeprefix("part/k"))
    difference = np.abs(shards.read(0).rgb.numpy().astype(float) - rendered[index]["rgb"])
    assert difference.mean() < TOLERANCE


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--layout", "video"], "no clips in"),
        (["--layout", "transforms"], "expected transforms.json"),
        (["--layout", "tum", "--latents", "."], "go with --layout latents"),
        (["--layout", "latents"], "needs --latents"),
        (["--layout", "video", "--latents", "."], "go with --layout latents"),
        (["--layout", "video", "--frames", "68"], "4k+1"),
    ],
)
def test_impossible_imports_are_one_clear_line(
    words: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in").mkdir()
    assert status("train", "import", "--from", tmp_path / "in", "--out", tmp_path / "out", *words) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and says in lines[0]
    assert not (tmp_path / "out").exists()


def test_the_parts_of_a_world_are_files_that_trainings_start_from(tmp_path: Path) -> None:
    assert status("train", "parts", "--out", tmp_path) == 0
    assert {path.name for path in tmp_path.glob("*.safetensors")} == {"dit.safetensors", "vae.safetensors"}
    vae, card = load_vae(tmp_path / "vae.safetensors")
    world = load_embedded("tiny-pure")
    assert card["taken_from"] == {"world": "tiny-pure", "sha256": world.spec.weights_sha256}
    for name, tensor in world.vae.state_dict().items():
        assert torch.equal(vae.state_dict()[name], tensor), name
