"""What more pictures are worth: films cut in two, and the command that reports on them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from wm_env.bench.context.report import ContextReport, markdown, verdict
from wm_env.bench.context.rows import ContextSettings, films_of_clips, films_of_scenes, starts
from wm_env.bench.context.run import run
from wm_env.cli import main
from wm_env.model.data.posed_clip import PosedClip
from wm_env.twin import TwinWorld
from wm_env.worlds import load_world


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A true turn of 12 chunks as a clip on disk."""
    films = films_of_scenes(TwinWorld(), ContextSettings(scenes=1, seed=4, split="train"))
    path = tmp_path_factory.mktemp("clips") / "turn"
    frames, c2w = films.frames[0, :49].numpy(), films.c2w[0, :49].numpy()
    PosedClip(frames, c2w, np.array(films.intrinsics[0]), 16.0, "a room").save(path)
    return path


def test_a_film_of_a_scene_is_cut_where_it_starts_and_comes_back() -> None:
    films = films_of_scenes(TwinWorld(), ContextSettings(scenes=2))
    assert films.frames.shape == (2, 97, 64, 64, 3) and films.c2w.shape == (2, 97, 4, 4)
    for slot, before in enumerate(films.before):
        assert before.frames.shape[0] == 101
        assert np.array_equal(before.frames[-1], films.frames[slot, 0].numpy())
        assert np.array_equal(before.c2w[-1], np.eye(4))
        # frame i of the drawn turn is frame i of the shown one
        assert np.allclose(before.c2w[:97], films.c2w[slot].numpy(), atol=1e-9)
        assert (before.frames[4].astype(int) - films.frames[slot, 4].numpy()).__abs__().max() <= 1
    assert films.seen is not None
    share = [films.seen(shown).double().mean().item() for shown in (0, 4, 25)]
    assert 0 < share[0] < share[1] < share[2] and share[2] > 0.95
    told = starts(films, range(2), 4, 4)
    assert [start.context.length for start in told if start.context is not None] == [17, 17]
    assert starts(films, range(1), 0, 4)[0].context is None


def test_a_film_of_a_clip_is_cut_before_its_held_out_end(clip: Path) -> None:
    whole = PosedClip.load(clip)
    films = films_of_clips(TwinWorld(), [clip], ContextSettings(shown=(0, 3), held_out=2, clips=("turn",)))
    assert torch.equal(films.frames[0], torch.from_numpy(whole.frames[-9:]))
    assert np.array_equal(films.before[0].frames, whole.frames[-21:-8])
    there = films.c2w[0, 4].numpy()  # seen from the start, as in the clip
    assert np.allclose(whole.c2w[-9] @ there, whole.c2w[-5], atol=1e-9)
    assert np.allclose(whole.c2w[-9] @ films.before[0].c2w[0], whole.c2w[-21], atol=1e-9)
    assert films.prompts == ["a room"]
    with pytest.raises(ValueError, match=r"turn has 49 frames .* are 81: show fewer"):
        films_of_clips(TwinWorld(), [clip], ContextSettings(shown=(12,), clips=("turn",)))


@pytest.mark.parametrize(
    ("odd", "told"),
    [
        ({"shown": (4, 0)}, "rising"),
        ({"shown": ()}, "rising"),
        ({"shown": (26,)}, "25 chunks"),
        ({"held_out": 0}, "held_out=0"),
    ],
)
def test_impossible_settings_are_refused(odd: dict[str, object], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        ContextSettings(**odd)  # type: ignore[arg-type]


def test_the_report_says_what_more_pictures_are_worth(memory_world: str, tmp_path: Path, clip: Path) -> None:
    out = tmp_path / "out"
    words = ["bench", "context", "--world", memory_world, "--out", str(out), "--shown", "0", "2"]
    told = [*words, "--clips", str(clip), "--held-out", "2", "--json", str(tmp_path / "result.json")]
    with pytest.raises(SystemExit) as exit:
        main(told)
    assert exit.value.code == 0
    result = json.loads((tmp_path / "result.json").read_text())
    assert list(result["rows"]) == ["1", "9", "repeat the start picture"]
    assert result["rows"]["9"]["psnr"]["mean"] != result["rows"]["1"]["psnr"]["mean"]
    assert result["rows"]["9"]["share"] is None and result["settings"]["clips"] == ["turn"]
    report = ContextReport.from_json(result)
    text = next(out.glob("*.md")).read_text()
    assert text == markdown(report) and verdict(report) in text and "too few films to be sure" in text
    world = load_world(memory_world)
    assert result["weights_sha256"] == world.spec.weights_sha256


def test_finished_rows_are_not_drawn_again(
    memory_world: str, tmp_path: Path, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = ContextSettings(shown=(0, 1), held_out=1)
    first, _ = run(memory_world, settings, tmp_path, clips=[clip])
    monkeypatch.setattr("wm_env.bench.context.score.drawn", None)
    again, _ = run(memory_world, settings, tmp_path, clips=[clip])
    assert again.rows == first.rows
    with pytest.raises(ValueError, match="other settings"):
        run(memory_world, ContextSettings(shown=(0,), held_out=1), tmp_path, clips=[clip])
    with pytest.raises(ValueError, match="'twin' is shown nothing"):
        run("twin", settings, tmp_path / "twin")


def test_a_drift_walk_starts_after_what_its_world_was_shown() -> None:
    from wm_env.bench.drift.rollouts import DriftSettings, scene_group

    world = TwinWorld()
    told = {}
    for kind in ("none", "turn"):
        group = scene_group(world, DriftSettings(scenes=1, steps=2, context=kind), "random_walk", [3])
        told[kind] = group.told(load_world("tiny"), 1)[0]
    assert told["none"].context is None and told["turn"].context is not None
    assert told["turn"].context.length == 101
    assert told["none"].noise_seed == told["turn"].noise_seed
    assert np.array_equal(told["none"].image, told["turn"].context.load().frames[-1])
    with pytest.raises(ValueError, match="must be none, turn or walk"):
        DriftSettings(context="film")
