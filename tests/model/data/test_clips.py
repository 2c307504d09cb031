"""Rendered shards: a function of the seed, resumable, events at chunk boundaries."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from wm_env.model.data.clip import ClipShards
from wm_env.model.data.procedural import RenderConfig, render_clip, render_shards
from wm_env.model.geometry import check_rigid

CONFIG = RenderConfig(clips=3, frames=9, size=16, clips_per_shard=2, event_fraction=1.0)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> ClipShards:
    folder = tmp_path_factory.mktemp("shards")
    render_shards(folder, CONFIG)
    return ClipShards(folder)


def test_clips_read_back_as_rendered_whatever_the_shards(shards: ClipShards) -> None:
    assert len(shards) == 3
    for index in range(3):
        arrays, captions = render_clip(index, CONFIG)
        clip = shards.read(index)
        assert np.array_equal(clip.rgb.numpy(), arrays["rgb"])
        assert [shards.captions[i] for i in clip.caption] == [captions[i] for i in arrays["caption"]]
        check_rigid(clip.c2w)
        assert clip.c2w[0].equal(torch.eye(4))


def test_an_event_begins_with_a_chunk_and_changes_the_caption(shards: ClipShards) -> None:
    for index in range(3):
        ids = shards.read(index).caption.tolist()
        changes = [f for f in range(1, 9) if ids[f] != ids[f - 1]]
        assert len(changes) == 1
        assert changes[0] % 4 == 1  # chunk t is frames 4t-3 .. 4t


def test_frames_can_be_picked(shards: ClipShards) -> None:
    batch = shards.read_many([2, 0], [[0, 3, 3], [8, 1, 0]])
    assert batch.rgb.shape == (2, 3, 16, 16, 3)
    assert batch.rgb[1, 0].equal(shards.read(0).rgb[8])


def test_rendering_again_keeps_what_is_there(tmp_path: Path) -> None:
    render_shards(tmp_path, CONFIG)
    marked = tmp_path / "shard-00000" / "captions.json"
    marked.write_text(json.dumps(["mark"] * 4))
    reports: list[int] = []
    render_shards(tmp_path, CONFIG, lambda done, of: reports.append(done))
    assert reports == []
    assert json.loads(marked.read_text()) == ["mark"] * 4


def test_frame_counts_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"frames=10"):
        RenderConfig(frames=10)


def test_a_folder_without_shards_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no shards"):
        ClipShards(tmp_path)


def test_broken_shards_are_listed_clip_by_clip_when_they_are_opened(tmp_path: Path) -> None:
    render_shards(tmp_path, CONFIG)
    file = tmp_path / "shard-00000" / "c2w.npy"
    c2w = np.load(file)
    c2w[1, 4, 0, 0] = np.nan
    np.save(file, c2w)
    other = RenderConfig(clips=1, frames=13, size=16)
    render_shards(tmp_path / "other", other)
    (tmp_path / "other" / "shard-00000").rename(tmp_path / "shard-00007")
    with pytest.raises(ValueError, match="2 faults") as caught:
        ClipShards(tmp_path)
    said = str(caught.value)
    assert "shard-00000 clip 1: pose 4" in said and "shard-00007 holds clips of 13 frames" in said
    assert "clip 0" not in said


def test_a_clip_is_long_enough_for_an_event_in_its_middle() -> None:
    with pytest.raises(ValueError, match="at least 9"):
        RenderConfig(frames=5)
    for seed in range(3):
        render_clip(seed, RenderConfig(frames=9, size=16, event_fraction=1.0))
