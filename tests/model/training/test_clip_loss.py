"""Whole clips with a noise level per chunk: the mixture is as published, the loss masks what is given."""

from __future__ import annotations

import collections
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
import distributed_job as job

from wm_env.model.training.losses.clip import ClipLossConfig, chunk_indices, clip_loss, monotone, shifted
from wm_env.model.training.table import chosen, configured, preset

CLOSE = 2e-6  # rounding of the same sums in another order, float32


def test_monotone_sequences_are_uniform_over_all_of_them() -> None:
    generator = torch.Generator().manual_seed(0)
    seen = collections.Counter(tuple(monotone(2, 1, 3, generator).tolist()) for _ in range(3000))
    assert set(seen) == {(1, 1), (1, 2), (1, 3), (2, 2), (2, 3), (3, 3)}
    assert all(abs(count - 500) < 5 * 500**0.5 for count in seen.values())  # five standard deviations
    assert monotone(0, 3, 3, generator).tolist() == []


@pytest.mark.parametrize("mode", [0, 1, 2, 3])
def test_noise_never_falls_with_time_in_any_mode(mode: int) -> None:
    mixture = tuple(float(i == mode) for i in range(4))
    config = ClipLossConfig(frames=6, chunk_frames=1, mixture=mixture, levels=50)
    index = chunk_indices(64, 6, config, torch.Generator().manual_seed(1))
    assert bool((index.diff(dim=1) >= 0).all())
    assert int(index.min()) >= 0 and int(index.max()) < 50
    assert bool((index.diff(dim=1) == 0).all()) == (mode == 0)
    assert bool((index[:, 0] == 0).all()) == (mode == 3)


def test_the_shift_is_the_published_one() -> None:
    index = torch.tensor([0, 10, 100, 500, 999])
    expected = torch.tensor([0.0, 0.0913, 0.525, 0.909, 0.9999])
    assert torch.allclose(shifted(index, ClipLossConfig()), expected, atol=5e-4)


def test_the_given_first_frame_has_no_loss_and_no_noise() -> None:
    batch, model = job.batch(torch.Generator().manual_seed(0)), job.model()
    config = ClipLossConfig(frames=job.FRAMES, chunk_frames=1, image_condition=1.0)
    loss = clip_loss(model, batch, config, torch.Generator().manual_seed(4))
    assert loss.error.shape == (job.BATCH * (job.FRAMES - 1),)
    assert torch.allclose(loss.mean, loss.error.mean())
    free = clip_loss(model, batch, replace(config, image_condition=0.0), torch.Generator().manual_seed(4))
    assert free.error.shape == (job.BATCH * job.FRAMES,)
    # the head starts at zero, so the error is that of saying zero: eps - z
    assert 0.8 < float(free.mean.detach()) < 2.2


def test_recomputing_blocks_gives_the_same_loss_and_gradients() -> None:
    found = []
    for recompute in (False, True):
        model = job.model(recompute)
        torch.manual_seed(2)
        with torch.no_grad():
            model.head.weight.normal_()
        loss, _ = job.step(model, torch.Generator().manual_seed(3), 0)
        loss.backward()
        found.append((loss.detach(), [p.grad for p in model.parameters()]))
    (plain, gradients), (again, recomputed) = found
    assert torch.equal(plain, again)
    for a, b in zip(gradients, recomputed, strict=True):
        assert a is not None and b is not None
        assert (a - b).abs().max() <= CLOSE * a.abs().max()


RECIPE = """
preset = "smoke"
lora = 2
[dit]
hidden = 32
[loop]
total_steps = 6
[[stages]]
kind = "clip"
until = 0.3
frames = 4
[[stages]]
kind = "clip"
until = 0.6
frames = 4
chunk_frames = 1
mixture = [0.25, 0.25, 0.25, 0.25]
[[stages]]
until = 1.0
frames = 4
own_history = 0.5
"""


def test_a_recipe_says_stages_in_one_file(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(RECIPE)
    config = configured("world", chosen("world", None, path), path)
    assert (config.loop.total_steps, config.lora, config.ends) == (6, 2, (0.3, 0.6, 1.0))
    assert [config.stage(step) for step in range(6)] == [0, 0, 1, 1, 2, 2]
    first, second, third = config.stages
    assert isinstance(first, ClipLossConfig) and first.chunk_starts == (0,)
    assert isinstance(second, ClipLossConfig) and second.chunk_starts == (0, 1, 2, 3)
    assert second.mixture == (0.25,) * 4
    assert third == replace(preset("world", "smoke").stages[0], batch=4, frames=4, own_history=0.5)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[loop]\nspeed = 3", r"\[loop\] has unknown settings speed; known are total_steps"),
        ("[[stages]]\nframes = 4", "stage 1 needs until"),
        ('[[stages]]\nuntil = 1.0\nkind = "flip"', "stage 1 has kind 'flip'; choose one of rollout, clip"),
        ('[[stages]]\nuntil = 1.0\nkind = "clip"\nframes = 6\nchunk_frames = 3', "frames=6 are not first"),
        ("[[stages]]\nuntil = 0.5", "rising to 1.0"),
        ("lora = = 2", "cannot be read"),
    ],
)  # fmt: skip
def test_a_recipe_that_cannot_be_is_refused_by_name(text: str, complaint: str, tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(text)
    with pytest.raises(ValueError, match=complaint) as stop:
        configured("world", chosen("world", None, path), path)
    assert str(path) in str(stop.value)


def test_a_preset_and_a_recipe_are_not_both_given(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="exclude each other"):
        chosen("world", "tiny", tmp_path / "recipe.toml")
    assert configured("world", chosen("world", None, None)) == preset("world", "tiny")
