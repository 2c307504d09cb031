"""A small rendered data set and an autoencoder trained on it for seconds, shared by the training tests."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from wm_env.model.data.latents import encode_shards
from wm_env.model.data.procedural import RenderConfig, render_shards
from wm_env.model.training.autoencoder import load_vae
from wm_env.model.training.inputs import Inputs, Resources
from wm_env.model.training.table import preset, train


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with 8 training and 3 validation clips of 17 frames."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("clips")
    for split, count in (("train", 8), ("val", 3)):
        config = RenderConfig(split=split, clips=count, frames=17, clips_per_shard=4, event_fraction=0.5)
        render_shards(folder / split, config)
    return folder


@pytest.fixture(scope="session")
def vae_run(clips: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a finished smoke run of the autoencoder."""
    out = tmp_path_factory.mktemp("vae")
    train("vae", preset("vae", "smoke"), Inputs(data=clips), Resources(out=out))
    return out


@pytest.fixture(scope="session")
def latents(clips: Path, vae_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the latents of `clips` by the autoencoder of `vae_run`."""
    out = tmp_path_factory.mktemp("latents")
    vae, card = load_vae(vae_run / "vae.safetensors")
    for split in ("train", "val"):
        encode_shards(vae, card["sha256"], clips / split, out / split)
    return out
