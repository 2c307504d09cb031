"""World training: the state it trains on is the rollout's, the smoke runs learn, and the result loads."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from wm_env.model.data.latents import LatentShards
from wm_env.model.data.procedural import RenderConfig
from wm_env.model.data.rendered import write_recipe
from wm_env.model.embedded import load_embedded
from wm_env.model.state import leaves, tree_map
from wm_env.model.text import HashTextEncoder
from wm_env.model.training.autoencoder import load_vae
from wm_env.model.training.batches import BatchSource, WorldBatch
from wm_env.model.training.inputs import Inputs, Resources
from wm_env.model.training.losses.flow_matching import history_state, velocities, world_loss
from wm_env.model.training.parts.world import build_dit
from wm_env.model.training.table import preset, train
from wm_env.model.training.transformer import parameter_rule, set_half_lives

UNTRAINED_LOSS = 2.0  # v = eps - z with unit variances against the zero that an untrained head says
SMOKE_LOSS = 1.6  # on fixed validation batches; the 40 steps of the smoke presets end near 1.3
CLOSE = 2e-5
STORED_ROUNDING = 1e-4  # latents are stored in float16


@pytest.fixture(scope="module")
def vae_file(vae_run: Path) -> Path:
    return vae_run / "vae.safetensors"


def draw(clips: Path, latents: Path, vae_file: Path, name: str = "smoke") -> tuple[WorldBatch, BatchSource]:
    config = preset("world", name)
    shards = LatentShards(clips / "train", latents / "train", load_vae(vae_file)[1]["sha256"])
    captions = HashTextEncoder(width=config.dit.caption_channels).encode(shards.captions)
    source = BatchSource(shards, captions, config.stages[0], bool(config.dit.memory_channels))
    return source.draw(torch.Generator().manual_seed(3)), source


@torch.no_grad()
def test_the_state_before_every_frame_is_what_streaming_leaves(
    clips: Path, latents: Path, vae_file: Path
) -> None:
    batch, _ = draw(clips, latents, vae_file)
    torch.manual_seed(0)
    model = build_dit(preset("world", "smoke")).eval()
    for parameter in model.parameters():
        parameter.add_(0.05 * torch.randn_like(parameter))
    count, _, frames = batch.z.shape[:3]
    tau = torch.rand(count, frames)
    states = history_state(model, batch, batch.z, tau)  # batch of B (T-1)
    sigma = torch.rand(count, frames)
    trained = velocities(model, batch, batch.z, sigma, states).unflatten(0, (count, frames - 1))
    state = None
    for t in range(frames):
        cut = (
            tree_map(lambda x, t=t: x[:, t : t + 1], batch.text),
            type(batch.camera)(batch.camera.conditions[:, t : t + 1], batch.camera.plucker[:, :, t : t + 1]),
        )
        if t > 0:
            assert state is not None
            velocity, _ = model(batch.z[:, :, t : t + 1], 1000 * sigma[:, t : t + 1], *cut, state)
            assert (velocity - trained[:, t - 1]).abs().max() < CLOSE * velocity.abs().max()
            for (name, a), (_, b) in zip(leaves(state), leaves(states), strict=True):
                b = b.unflatten(0, (count, frames - 1))[:, t - 1]
                if a.is_floating_point():
                    assert (a - b).abs().max() <= CLOSE * b.abs().max().clamp_min(1.0), name
                else:
                    assert torch.equal(a, b), name
        _, state = model(batch.z[:, :, t : t + 1], 1000 * tau[:, t : t + 1], *cut, state)


def test_an_untrained_model_has_the_loss_of_saying_zero(clips: Path, latents: Path, vae_file: Path) -> None:
    batch, source = draw(clips, latents, vae_file)
    model = build_dit(preset("world", "smoke"))
    loss = world_loss(model, batch, source.settings, torch.Generator().manual_seed(0))
    expected = UNTRAINED_LOSS - 1 + float(batch.z[:, :, 1:].square().mean())
    assert float(loss.mean.detach()) == pytest.approx(expected, rel=0.1)
    own = dataclasses.replace(source.settings, own_history=1.0)
    world_loss(model, batch, own, torch.Generator().manual_seed(0)).mean.backward()
    silent = {name for name, p in model.named_parameters() if p.grad is None}
    assert silent == set()


@pytest.mark.parametrize("name", ["smoke", "smoke-memory"])
def test_smoke_training_of_a_world_reaches_its_bound_and_loads(
    name: str, clips: Path, latents: Path, vae_file: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    inputs = Inputs(data=clips, latents=latents, vae=vae_file)
    run = train("world", preset("world", name), inputs, Resources(out=out))
    lines = [json.loads(line) for line in (out / "losses.jsonl").read_text().splitlines()]
    trained = [line["train"]["loss"] for line in lines if "train" in line]
    assert run.metrics["val_loss"] < SMOKE_LOSS < trained[0]
    world = load_embedded(out / "world")
    assert world.spec.name == "run" and world.spec.trained_steps == 3
    assert (world.refiner is not None) == (name == "smoke-memory")  # that of the embedded world
    card = json.loads((out / "world" / "run.json").read_text())
    assert card["parts"]["dit"]["settings"]["dit"] == dataclasses.asdict(preset("world", name).dit)


def test_a_slice_resumed_equals_a_run_in_one_piece(
    clips: Path, latents: Path, vae_file: Path, tmp_path: Path
) -> None:
    config, inputs = preset("world", "smoke"), Inputs(data=clips, latents=latents, vae=vae_file)
    whole = train("world", config, inputs, Resources(out=tmp_path / "whole"), steps=4)
    for _ in range(2):
        cut = train("world", config, inputs, Resources(out=tmp_path / "cut"), steps=2)
    assert whole.step == cut.step == 4
    for name, tensor in whole.ema_weights().items():
        assert torch.equal(tensor, cut.ema_weights()[name]), name


def test_a_world_with_memory_starts_where_the_plain_one_ended(
    clips: Path, latents: Path, vae_file: Path, tmp_path: Path
) -> None:
    inputs = Inputs(data=clips, latents=latents, vae=vae_file)
    plain = train("world", preset("world", "smoke"), inputs, Resources(out=tmp_path / "plain"), steps=2)
    inputs = dataclasses.replace(inputs, init=tmp_path / "plain" / "dit.safetensors")
    memory = train("world", preset("world", "smoke-memory"), inputs, Resources(out=tmp_path / "m"), steps=1)
    for name, tensor in plain.ema_weights().items():
        moved = (memory.ema_weights()[name] - tensor).abs().max()
        assert moved < 0.05, name
    assert memory.settings["init_sha256"] is not None


def test_matrices_of_blocks_go_to_muon_and_gates_do_not() -> None:
    rules = {
        name: parameter_rule(name, p) for name, p in build_dit(preset("world", "smoke")).named_parameters()
    }
    assert rules["blocks.0.attn.qkv.weight"] == rules["blocks.3.ffn.expand.weight"] == "muon"
    adamw = ("head.weight", "blocks.0.attn.beta.weight", "blocks.0.modulation", "blocks.0.attn.gate.bias")
    assert {name: rules[name] for name in adamw} == dict.fromkeys(adamw, "adamw")


def test_the_decay_gates_start_where_they_are_told_and_learn_slowly() -> None:
    model = build_dit(preset("world", "smoke"))
    set_half_lives(model, (2.0, 50.0))
    attention = model.blocks[0].attn
    _, log_decay = attention.gates(torch.randn(1, 3, 5, model.cfg.hidden))  # (1, H, 3), for any input
    half = 0.5 ** (1 / torch.tensor([2.0, 50.0]))
    assert torch.allclose(log_decay.exp(), half[None, :, None].expand_as(log_decay), atol=1e-5)
    rules = {name: parameter_rule(name, p) for name, p in model.named_parameters()}
    slow = {name for name, rule in rules.items() if rule == "slow"}
    assert slow and all("decay" in name or name.endswith(("A_log", "dt_bias")) for name in slow)
    with pytest.raises(ValueError, match="one per head"):
        set_half_lives(model, (2.0,))


def test_stages_must_cover_the_run() -> None:
    with pytest.raises(ValueError, match="rising to 1"):
        dataclasses.replace(preset("world", "smoke"), ends=(0.7, 0.9))
    with pytest.raises(ValueError, match="unknown preset"):
        preset("world", "huge")


def test_a_world_trains_on_clips_rendered_when_read_as_on_the_same_clips_stored(
    clips: Path, latents: Path, vae_file: Path, tmp_path: Path
) -> None:
    for split, count in (("train", 8), ("val", 3)):  # the clips of the fixture, not yet rendered
        config = RenderConfig(split=split, clips=count, frames=17, clips_per_shard=4, event_fraction=0.5)
        write_recipe(tmp_path / split, config)
    smoke = preset("world", "smoke")
    config = dataclasses.replace(smoke, loop=dataclasses.replace(smoke.loop, eval_every=1))
    inputs = Inputs(data=tmp_path, vae=vae_file)
    rendered = train("world", config, inputs, Resources(out=tmp_path / "rendered"), steps=1)
    inputs = Inputs(data=clips, latents=latents, vae=vae_file)
    stored = train("world", config, inputs, Resources(out=tmp_path / "stored"), steps=1)
    assert rendered.step == stored.step == 1
    assert rendered.metrics["val_loss"] == pytest.approx(stored.metrics["val_loss"], rel=STORED_ROUNDING)
    assert rendered.metrics["val_pure"] == pytest.approx(stored.metrics["val_pure"], rel=STORED_ROUNDING)
