"""A recipe's stages train one after the other, as corrections to a frozen start, into plain weights."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from wm_env.model.embedded import world_path
from wm_env.model.storage.checkpoint import load_checkpoint
from wm_env.model.training.inputs import Inputs, Resources
from wm_env.model.training.parts.world import build_dit
from wm_env.model.training.recipe import with_presets
from wm_env.model.training.table import configured, preset, train

STAGES = [
    {"kind": "clip", "until": 0.34, "batch": 2, "frames": 3},
    {"kind": "clip", "until": 0.67, "batch": 2, "frames": 4, "chunk_frames": 1},
    {"until": 1.0, "batch": 2, "frames": 4, "own_history": 0.5},
]


def test_a_recipe_trains_through_its_stages_with_low_rank_corrections(
    clips: Path, latents: Path, vae_run: Path, tmp_path: Path
) -> None:
    inputs = Inputs(data=clips, latents=latents, vae=vae_run / "vae.safetensors")
    train("world", preset("world", "smoke"), inputs, Resources(out=tmp_path / "base"), steps=2)
    start = tmp_path / "base" / "dit.safetensors"
    loop = {"total_steps": 3, "log_every": 1, "eval_every": 1, "warmup_steps": 0}
    loop |= {"microbatches": 2}
    own = {"preset": "smoke", "lora": 2, "recompute": True, "loop": loop, "stages": STAGES}
    config = configured("world", with_presets("world", own))
    with pytest.raises(ValueError, match="lora=2 corrects trained weights"):
        train("world", config, inputs, Resources(out=tmp_path / "none"))
    inputs = dataclasses.replace(inputs, init=start)
    run = train("world", config, inputs, Resources(out=tmp_path / "run"))
    lines = [json.loads(line) for line in (tmp_path / "run" / "losses.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "train" in line] == [1, 2, 3]
    first, second, third = (line["eval"]["val_loss"] for line in lines if "eval" in line)  # fixed clips
    assert first > second > third == run.metrics["val_loss"]
    tensors, card = load_checkpoint(tmp_path / "run" / "dit.safetensors")
    build_dit(config).load_state_dict(tensors, strict=True)
    assert (card["settings"]["lora"], card["data"]["clips"]) == (2, 8)
    assert [stage["frames"] for stage in card["settings"]["stages"]] == [3, 4, 4]
    before, _ = load_checkpoint(start)
    moved = {name for name, tensor in tensors.items() if not torch.equal(tensor, before[name])}
    assert moved and all(name.startswith("blocks.") and name.endswith(".weight") for name in moved)


def test_a_refiner_learns_corrections_on_its_rollouts_and_comes_out_plain(
    clips: Path, tmp_path: Path
) -> None:
    config = preset("refiner-rollouts", "smoke", lora=2)
    inputs = Inputs(data=clips, world=Path("tiny"))
    train("refiner-rollouts", config, inputs, Resources(out=tmp_path), steps=2)
    tensors, card = load_checkpoint(tmp_path / "refiner.safetensors")
    assert card["settings"]["lora"] == 2
    whole, _ = load_checkpoint(world_path("tiny"))
    before = {name.removeprefix("refiner."): t for name, t in whole.items() if name.startswith("refiner.")}
    assert tensors.keys() == before.keys()
    moved = {name for name, tensor in tensors.items() if not torch.equal(tensor, before[name].float())}
    assert moved and all(name.endswith(".weight") for name in moved)
