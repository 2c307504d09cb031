"""Clips rendered when they are read are those of the shards, on any number of workers, and runs resume."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from wm_env.model.data.clip import ClipShards
from wm_env.model.data.latents import LatentShards, encode_shards
from wm_env.model.data.procedural import RenderConfig, render_shards
from wm_env.model.data.rendered import (
    RenderedClips,
    RenderedLatents,
    open_clips,
    open_latents,
    write_recipe,
)
from wm_env.model.state import leaves
from wm_env.model.text import HashTextEncoder
from wm_env.model.training.batches import BatchSource
from wm_env.model.training.inputs import Inputs, Resources
from wm_env.model.training.losses.flow_matching import WorldLossConfig
from wm_env.model.training.table import preset, train
from wm_env.model.vae.tiny import TinyVAE, TinyVAEConfig

CONFIG = RenderConfig(clips=5, frames=17, size=32, clips_per_shard=2, event_fraction=1.0)
HALF = 2e-3  # latents of unit variance, stored in half precision


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stored")
    render_shards(folder, CONFIG)
    return folder


@pytest.fixture(scope="module")
def vae() -> TinyVAE:
    torch.manual_seed(0)
    vae = TinyVAE(TinyVAEConfig(size=32)).eval()
    for parameter in vae.depth_net.head.parameters():
        torch.nn.init.normal_(parameter, std=0.01)
    return vae


@pytest.mark.parametrize("workers", [0, 1])
def test_rendered_clips_are_those_of_the_shards(stored: Path, workers: int) -> None:
    shards, rendered = ClipShards(stored), RenderedClips(CONFIG, workers)
    assert (len(rendered), rendered.frames, rendered.captions) == (5, 17, shards.captions)
    picks = [[0, 3, 3, 16], [16, 1, 0, 8], [5, 6, 7, 8]]
    for expected, found in zip(
        shards.read_many([4, 0, 4], picks), rendered.read_many([4, 0, 4], picks), strict=True
    ):
        assert torch.equal(expected, found) and expected.dtype == found.dtype
    assert torch.equal(shards.poses(2), rendered.poses(2))
    assert all(torch.equal(a, b) for a, b in zip(shards.read(1), rendered.read(1), strict=True))


def test_encoding_when_read_gives_the_cached_latents(stored: Path, vae: TinyVAE, tmp_path: Path) -> None:
    encode_shards(vae, "mine", stored, tmp_path / "z")
    cached = LatentShards(stored, tmp_path / "z", "mine")
    made = RenderedLatents(RenderedClips(CONFIG), vae)
    assert made.groups == cached.groups == 5 and made.captions == cached.captions
    expected, found = (each.read([3, 1, 0], [0, 2, 1], 3) for each in (cached, made))
    assert torch.allclose(expected.z, found.z, atol=HALF, rtol=HALF)
    assert torch.allclose(expected.start, found.start, atol=HALF, rtol=HALF)
    assert torch.allclose(expected.depth0, found.depth0, rtol=HALF)
    assert all(torch.equal(a, b) for a, b in zip(expected.clip, found.clip, strict=True))
    assert np.allclose(made.z, cached.z, atol=HALF, rtol=HALF)


def test_the_generator_state_alone_brings_back_the_next_batch(vae: TinyVAE, tmp_path: Path) -> None:
    write_recipe(tmp_path, CONFIG)
    generator = torch.Generator().manual_seed(7)

    def source() -> BatchSource:
        shards = open_latents(tmp_path, tmp_path / "none", vae)
        captions = HashTextEncoder(width=16).encode(shards.captions)
        return BatchSource(shards, captions, WorldLossConfig(batch=2, frames=3), memory=False)

    first = source()
    first.draw(generator)
    state = generator.get_state()
    expected = first.draw(generator)
    generator.set_state(state)
    for (name, a), (_, b) in zip(leaves(expected), leaves(source().draw(generator)), strict=True):
        assert torch.equal(a, b), name


def test_a_training_on_rendered_clips_resumes_exactly(tmp_path: Path) -> None:
    for split in ("train", "val"):
        write_recipe(tmp_path / split, RenderConfig(split=split, clips=4, frames=9))
    config, inputs = preset("vae", "smoke"), Inputs(data=tmp_path)
    whole = train("vae", config, inputs, Resources(out=tmp_path / "whole"), steps=2)
    for _ in range(2):
        cut = train("vae", config, inputs, Resources(out=tmp_path / "cut"), steps=1)
    for name, tensor in whole.ema_weights().items():
        assert torch.equal(tensor, cut.ema_weights()[name]), name


def test_workers_fill_one_folder_and_read_disjoint_shares(stored: Path, tmp_path: Path) -> None:
    for rank in (1, 0):
        render_shards(tmp_path, CONFIG, rank=rank, of=2)
    together, whole = ClipShards(tmp_path), ClipShards(stored)
    assert len(together) == len(whole)
    assert all(torch.equal(together.read(i).rgb, whole.read(i).rgb) for i in range(5))
    names = [[path.name for path in whole.share(rank, 2).paths] for rank in range(2)]
    assert names == [["shard-00000", "shard-00002"], ["shard-00001"]]
    with pytest.raises(ValueError, match="3 shards are too few for 4 workers"):
        whole.share(0, 4)
    with pytest.raises(ValueError, match="rank=2"):
        whole.share(2, 2)


def test_a_folder_is_either_rendered_or_a_recipe(stored: Path, tmp_path: Path) -> None:
    with pytest.raises(FileExistsError, match="holds rendered shards"):
        write_recipe(stored, CONFIG)
    write_recipe(tmp_path, CONFIG)
    assert isinstance(open_clips(tmp_path), RenderedClips) and isinstance(open_clips(stored), ClipShards)
    render_shards(tmp_path, CONFIG, rank=2, of=3)
    with pytest.raises(ValueError, match=r"both shards and rendered\.json"):
        open_clips(tmp_path)
