"""Self-forcing: the state it trains on is the rollout's own, and a run resumes exactly."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from wm_env.model.data.latents import LatentShards
from wm_env.model.embedded import load_embedded
from wm_env.model.rollout_state import SamplerConfig, chunk_noise
from wm_env.model.state import leaves
from wm_env.model.storage.checkpoint import save_checkpoint
from wm_env.model.text import HashTextEncoder
from wm_env.model.training.autoencoder import load_vae
from wm_env.model.training.inputs import Inputs, Resources
from wm_env.model.training.losses.flow_matching import history_state, velocities
from wm_env.model.training.parts.self_forcing import draw_clips, roll_out_latents, true_batch
from wm_env.model.training.parts.world import build_dit
from wm_env.model.training.table import preset, train
from wm_env.model.training.world_folder import export_world

CLOSE = 2e-4


@pytest.fixture(scope="module")
def world_folder(clips: Path, vae_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A world of random weights around the autoencoder of the smoke run."""
    out = tmp_path_factory.mktemp("world")
    config = preset("world", "smoke")
    torch.manual_seed(0)
    tensors = {k: v + 0.03 * torch.randn_like(v) for k, v in build_dit(config).state_dict().items()}
    settings = {"settings": {"dit": dataclasses.asdict(config.dit)}}
    save_checkpoint(out / "dit.safetensors", tensors, settings)
    export_world(
        name="mine", dit=out / "dit.safetensors", vae=vae_run / "vae.safetensors", refiner=None,
        out=out / "folder", sampler=SamplerConfig(), trained_steps=4,
    )  # fmt: skip
    return out / "folder"


@torch.no_grad()
def test_training_starts_from_the_state_that_the_rollout_was_in(
    clips: Path, latents: Path, vae_run: Path, world_folder: Path
) -> None:
    """From a window's state, one pass must predict what the rollout drew next, noise and all."""
    world = load_embedded(world_folder)
    shards = LatentShards(
        clips / "train", latents / "train", load_vae(vae_run / "vae.safetensors")[1]["sha256"]
    )
    config = dataclasses.replace(preset("self-forcing", "smoke"), frames=3)
    found = draw_clips(shards, config, far=False, generator=torch.Generator().manual_seed(5))
    sample = shards.read([0, 3], [0, 0], 5)
    whole = roll_out_latents(world, sample.clip, shards.captions, found.seeds)
    window = roll_out_latents(world, sample.clip, shards.captions, found.seeds, first=2)
    assert torch.equal(window.z, whole.z[:, :, 2:])
    captions = HashTextEncoder(width=world.dit.cfg.caption_channels).encode(shards.captions)
    for own in (whole, window):
        batch = true_batch(sample, own, captions)
        assert torch.equal(batch.z[:, :, 1:], sample.z[:, own.first + 1 :].transpose(1, 2))
        state = history_state(world.dit, batch, own.z, torch.zeros(2, own.z.shape[2]), own.before)
        frames, shape = own.z.shape[2], (own.z.shape[1], 1, *own.z.shape[3:])
        ones, seeds = torch.ones(2, frames), torch.tensor(found.seeds)
        noise = [chunk_noise(seeds, torch.full((2,), own.first + t - 1), shape) for t in range(1, frames)]
        eps = torch.cat([own.z[:, :, :1], *noise], dim=2)
        v = velocities(world.dit, batch, eps, ones, state)[:, :, 0]
        drawn = eps[:, :, 1:].transpose(1, 2).flatten(0, 1) - v
        expected = own.z[:, :, 1:].transpose(1, 2).flatten(0, 1)
        assert (drawn - expected).abs().max() < CLOSE * expected.abs().max()
        assert all(leaf.requires_grad is False for _, leaf in leaves(own.before))


@pytest.mark.slow
@pytest.mark.parametrize("appearance", [None, 1.0])
def test_a_self_forcing_run_resumes_exactly_and_its_world_loads(
    clips: Path, latents: Path, world_folder: Path, tmp_path: Path, appearance: float | None
) -> None:
    config = dataclasses.replace(
        preset("self-forcing", "smoke"), appearance=appearance, far=0.5, half_lives=(4.0, 64.0)
    )
    inputs = Inputs(
        data=clips, latents=latents, world=world_folder, far_data=clips, far_latents=latents
    )  # fmt: skip
    whole = train("self-forcing", config, inputs, Resources(out=tmp_path / "whole"), steps=4)
    for _ in range(2):
        cut = train("self-forcing", config, inputs, Resources(out=tmp_path / "cut"), steps=2)
    assert whole.step == cut.step == 4
    for name, tensor in whole.ema_weights().items():
        assert torch.equal(tensor, cut.ema_weights()[name]), name
    assert load_embedded(tmp_path / "cut" / "world").spec.name == "cut"
