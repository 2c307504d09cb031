"""Every training goes as it went in 0.1: `losses-0.1.json` holds the losses of its code on these clips.

The file was written by the trainers of 0.1 (commit 8f1896c) with this scenario; machines differ in the order
of float32 sums, and a few steps of training make the difference grow.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from wm_env.model.data.latents import encode_shards
from wm_env.model.data.procedural import RenderConfig, render_shards
from wm_env.model.rollout_state import SamplerConfig
from wm_env.model.training.autoencoder import load_vae
from wm_env.model.training.inputs import Inputs, Resources
from wm_env.model.training.recipe import with_presets
from wm_env.model.training.table import configured, preset, train
from wm_env.model.training.world_folder import export_world

MACHINE = 2e-3  # relative: other vector units, other order of sums
CLIP_STAGES = {
    "preset": "smoke",
    "loop": {"total_steps": 3, "eval_every": 3},
    "stages": [
        {"kind": "clip", "until": 0.5, "batch": 2, "frames": 4},
        {"kind": "rollout", "until": 1.0, "batch": 2, "frames": 4, "own_history": 0.5},
    ],
}


def short(part: str, name: str, length: int, **changes: Any) -> Any:
    """Return a preset of a few steps, evaluated at its end."""
    config = preset(part, name, **changes)
    return dataclasses.replace(
        config, loop=dataclasses.replace(config.loop, total_steps=length, eval_every=length)
    )


@pytest.fixture(scope="module")
def curves(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[float]]:
    """The losses of a chain of all trainings, by name."""
    w = tmp_path_factory.mktemp("equal")
    found: dict[str, list[float]] = {}

    def record(name: str, part: str, config: Any, **inputs: Path) -> None:
        losses = found.setdefault(name, [])
        train(
            part,
            config,
            Inputs(**inputs),
            Resources(out=w / name),
            report=lambda step, total, loss: losses.append(loss),
        )

    for split, count in (("train", 8), ("val", 3)):
        config = RenderConfig(split=split, clips=count, frames=17, clips_per_shard=4, event_fraction=0.5)
        render_shards(w / "clips" / split, config)
    clips, latents, vae = w / "clips", w / "latents", w / "vae" / "vae.safetensors"
    record("vae", "vae", short("vae", "smoke", 6), data=clips)
    record("depth", "depth", short("depth", "smoke", 4), data=clips, vae=vae)
    model, card = load_vae(vae)
    for split in ("train", "val"):
        encode_shards(model, card["sha256"], clips / split, latents / split)
    both = {"data": clips, "latents": latents}
    world = {**both, "vae": vae}
    record("world-smoke", "world", short("world", "smoke", 4), **world)
    record("world-smoke-memory", "world", short("world", "smoke-memory", 3), **world)
    start = w / "world-smoke" / "dit.safetensors"
    record("world-lora", "world", short("world", "smoke", 3, lora=2), init=start, **world)
    record("refiner-smoke", "refiner", short("refiner", "smoke", 4), **world)
    record("refiner-smoke-flow", "refiner", short("refiner", "smoke-flow", 4), **world)
    pure = w / "world-smoke" / "world"
    export_world(
        name="memory", dit=w / "world-smoke-memory" / "dit.safetensors", vae=vae, out=w / "memory",
        refiner=w / "refiner-smoke" / "refiner.safetensors", sampler=SamplerConfig(), trained_steps=3,
        memory_reading="four",  # as it was then
    )  # fmt: skip
    record(
        "refiner-rollouts", "refiner-rollouts", short("refiner-rollouts", "smoke", 3),
        data=clips, world=w / "memory",
    )  # fmt: skip
    record("self-forcing", "self-forcing", short("self-forcing", "smoke", 3), world=w / "memory", **both)
    record(
        "self-forcing-vivid", "self-forcing", short("self-forcing", "smoke", 3, appearance=1.0, far=0.5),
        world=pure, far_data=clips, far_latents=latents, **both,
    )  # fmt: skip
    few = {"steps": 2, "teacher_steps": 4}
    record("distill-ode", "distill", short("distill", "smoke", 3, **few), teacher=pure, **both)
    record("distill-dmd", "distill", short("distill", "smoke-dmd", 3, **few), teacher=pure, **both)
    record("world-clip", "world", configured("world", with_presets("world", CLIP_STAGES)), **world)
    return found


BEFORE = json.loads((Path(__file__).parent / "losses-0.1.json").read_text())


@pytest.mark.parametrize("name", BEFORE)
def test_a_training_has_the_losses_it_had(name: str, curves: dict[str, list[float]]) -> None:
    assert curves[name] == pytest.approx(BEFORE[name], rel=MACHINE)
    assert curves.keys() == BEFORE.keys()
