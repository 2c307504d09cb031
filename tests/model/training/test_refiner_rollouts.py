"""Training the refiner on rollouts of its own world."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from wm_env.model.data.clip import ClipShards
from wm_env.model.embedded import load_embedded
from wm_env.model.pixels import to_pixels
from wm_env.model.refiner.tiny import TinyRefiner, TinyRefinerConfig
from wm_env.model.rollout_state import SamplerConfig
from wm_env.model.storage.checkpoint import save_checkpoint
from wm_env.model.training.inputs import Inputs, Resources
from wm_env.model.training.parts.refiner import load_refiner
from wm_env.model.training.parts.refiner_rollouts import goal, roll_out
from wm_env.model.training.parts.world import build_dit
from wm_env.model.training.table import preset, train
from wm_env.model.training.world_folder import export_world


@pytest.fixture(scope="module")
def world(vae_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a world whose transformer and refiner are untrained."""
    parts, out = tmp_path_factory.mktemp("parts"), tmp_path_factory.mktemp("world")
    config = preset("world", "smoke-memory")
    refiner = TinyRefinerConfig(width=4, blocks=1)
    dit_card = {"settings": {"dit": vars(config.dit)}}
    save_checkpoint(parts / "dit.safetensors", build_dit(config).state_dict(), dit_card)
    refiner_card = {"settings": {"refiner": vars(refiner)}}
    save_checkpoint(parts / "refiner.safetensors", TinyRefiner(refiner).state_dict(), refiner_card)
    export_world(
        name="toy",
        dit=parts / "dit.safetensors",
        vae=vae_run / "vae.safetensors",
        refiner=parts / "refiner.safetensors",
        out=out,
        sampler=SamplerConfig(),
        trained_steps=3,
    )
    return out


def test_the_recorded_chunks_are_those_of_the_rollout(clips: Path, world: Path) -> None:
    loaded, shards = load_embedded(world), ClipShards(clips / "train")
    clip = shards.read_many([0, 3], [slice(0, 9)] * 2)
    rollout = roll_out(loaded, clip, shards.captions, [1, 2])
    assert rollout.decoded.shape == (4, 4, 4, 64, 64)  # 2 chunks of 2 clips
    assert rollout.seen.shape == (4, 4, 5, 64, 64)
    expected = to_pixels(clip.rgb, clip.depth)[1, 5:9]  # clip 1, chunk 2
    assert torch.equal(rollout.truth[3], expected)
    alone = roll_out(loaded, shards.read_many([3], [slice(0, 9)]), shards.captions, [2])
    assert torch.allclose(alone.decoded[1], rollout.decoded[3], atol=1e-3)


def test_the_goal_is_the_truth_where_the_memory_sees_and_else_what_was_decoded(
    clips: Path, world: Path
) -> None:
    loaded, shards = load_embedded(world), ClipShards(clips / "train")
    rollout = roll_out(loaded, shards.read_many([0], [slice(0, 17)]), shards.captions, [1])
    seen = rollout.seen[:, :, 4:].expand_as(rollout.truth).bool()
    assert 0 < seen.float().mean() < 1
    assert torch.equal(goal(rollout)[seen], rollout.truth[seen])
    assert torch.equal(goal(rollout)[~seen], rollout.decoded[~seen])


@pytest.mark.slow
def test_a_smoke_run_trains_resumes_and_loads(clips: Path, world: Path, tmp_path: Path) -> None:
    config, inputs = preset("refiner-rollouts", "smoke"), Inputs(data=clips, world=world)
    for steps in (2, None):
        run = train("refiner-rollouts", config, inputs, Resources(out=tmp_path), steps=steps)
    assert run.finished
    assert {"refined_4", "refined_16", "decoded_16"} <= set(run.metrics)
    refiner, _ = load_refiner(tmp_path / "refiner.safetensors")
    assert refiner.config == TinyRefinerConfig(width=4, blocks=1)
    assert not refiner.head.weight.eq(0).all()
    assert load_embedded(tmp_path / "world").refiner.config == refiner.config  # type: ignore[union-attr]
