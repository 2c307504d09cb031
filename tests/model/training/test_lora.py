"""LoRA: nothing changes until it is trained, only the corrections train, merging changes nothing."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from wm_env.model.training.export import Export

sys.path.insert(0, str(Path(__file__).parent))
import distributed_job as job

from wm_env.model.refiner.tiny import TinyRefiner, TinyRefinerConfig
from wm_env.model.storage.checkpoint import load_checkpoint
from wm_env.model.training.lora import add_lora, lora_rule, merged
from wm_env.model.training.run import Run

CLOSE = 2e-6  # rounding of W x + U (D x) against (W + U D) x in float32


def shake(model: nn.Module) -> None:
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))


def outputs(model: nn.Module) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    if isinstance(model, TinyRefiner):
        return model(
            torch.randn(1, 4, 4, 8, 8, generator=generator), torch.rand(1, 4, 5, 8, 8, generator=generator)
        )
    batch = job.batch(generator)
    return model(batch.z, torch.full((2, 1), 500.0), batch.text, batch.camera)[0]


@pytest.mark.parametrize("kind", ["dit", "refiner"])
@torch.no_grad()
def test_an_adapted_model_starts_as_its_base_and_merges_into_a_plain_one(kind: str) -> None:
    def build() -> nn.Module:
        return job.model() if kind == "dit" else TinyRefiner(TinyRefinerConfig(width=8, blocks=1))

    base = build()
    shake(base)
    expected = outputs(base)
    names = add_lora(base, 2)
    assert ("blocks.0.attn.qkv" if kind == "dit" else "body.0.first") in names
    assert ("head" in names) == (kind == "refiner")
    assert torch.equal(outputs(base), expected)
    shake(base)
    adapted = outputs(base)
    assert (adapted - expected).abs().max() > 0.1
    plain = build()
    plain.load_state_dict(merged(base.state_dict()), strict=True)
    assert (outputs(plain) - adapted).abs().max() < CLOSE * adapted.abs().max()


def test_only_the_corrections_train_and_the_export_is_plain(tmp_path: Path) -> None:
    model = job.model()
    shake(model)  # its head starts at zero and would stay there, frozen
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    add_lora(model, 3, seed=1)
    run = Run(
        model=model,
        step_fn=job.step,
        config=job.CONFIG,
        out=tmp_path,
        rule=lora_rule,
        export=Export(name="dit", change=merged),
    )
    run.advance(steps=2)
    after = model.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    tensors, _ = load_checkpoint(tmp_path / "dit.safetensors")
    assert tensors.keys() == before.keys()
    moved = {name for name, tensor in tensors.items() if not torch.equal(tensor, before[name])}
    assert moved and all(name.startswith("blocks.") for name in moved)
    assert not any(part in name for name in moved for part in ("beta", "decay", "modulation"))


def test_the_seed_alone_decides_where_corrections_start() -> None:
    def corrections(seed: int) -> dict[str, torch.Tensor]:
        model = job.model()
        add_lora(model, 2, seed=seed)
        return {name: tensor for name, tensor in model.state_dict().items() if name.endswith("lora_down")}

    before = torch.get_rng_state()
    first = corrections(1)
    torch.rand(3)
    again, other = corrections(1), corrections(2)
    torch.set_rng_state(before)
    assert first and all(torch.equal(again[name], tensor) for name, tensor in first.items())
    assert not any(torch.equal(other[name], tensor) for name, tensor in first.items())


def test_a_rank_that_saves_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match=r"rank=16 must be in \[1, 15\]"):
        add_lora(job.model(), 16)
