"""Quantised weights: which they are, how they are loaded, and that pictures still follow the camera."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from released_parts import CFG, random_released
from safetensors.torch import save_file
from torch import Tensor, nn

from wm_env.model.camera import camera_input, clip_windows
from wm_env.model.dit import DiT
from wm_env.model.refiner.ltx2 import LTX2Refiner
from wm_env.model.released import quantise as quantising
from wm_env.model.released.measure.step import TOY
from wm_env.model.released.names import table
from wm_env.model.released.precision import (
    PARTS,
    PLAIN,
    Part,
    Precision,
    may_quantise,
    precisions,
    quantised_bytes,
    quantised_modules,
)
from wm_env.model.released.quantise import check_precision, quantise, quantised_weight
from wm_env.model.released.sizes import stage1_weights
from wm_env.model.released.stage1 import load_stage1
from wm_env.model.storage import tensor_files
from wm_env.model.storage.folder import Stage1File
from wm_env.model.text import TextTokens
from wm_env.model.visiting import held_bytes

QUANTISED: tuple[Precision, ...] = ("int8", "fp8", "nvfp4")
# Least cosine between the changes of the output that a change of the camera makes, with quantised weights and
# without, and how far their sizes may be apart. Weights of 4 bits are off by a tenth themselves.
DIRECTION = {"int8": 0.9998, "fp8": 0.998, "nvfp4": 0.97}
SIZE = {"int8": 0.002, "fp8": 0.02, "nvfp4": 0.05}


@pytest.fixture(scope="module")
def torchao() -> Any:
    return pytest.importorskip("torchao", reason="needs the extra quant")


def networks() -> dict[Part, nn.Module]:
    from transformers import Gemma2Config, Gemma2Model, Gemma3TextConfig, Gemma3TextModel

    small = {"vocab_size": 40, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8}
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2}
    with torch.device("meta"):
        return {
            "stage1": DiT(TOY.dit),
            "refiner": LTX2Refiner(TOY.refiner),
            "text": nn.ModuleList(
                [
                    Gemma2Model(Gemma2Config(**small, **sizes)),
                    Gemma3TextModel(Gemma3TextConfig(**small, **sizes)),
                ]
            ),
        }


def test_the_table_names_every_module_once() -> None:
    for part, network in networks().items():
        for name, module in network.named_modules():
            if list(module.parameters(recurse=False)):
                may_quantise(part, name)  # raises where no row, or two, name it
    for part in PARTS:
        with pytest.raises(ValueError, match=r"0 rows of the table of"):
            may_quantise(part, "a.module.that.is.new")


def test_what_is_quantised_is_this_and_nothing_else() -> None:
    found = {part: {name for name, _ in quantised_modules(part, net)} for part, net in networks().items()}
    attention, refiner = (
        [f"attn.{x}" for x in ("qkv", "out")],
        [f"{a}.{x}" for a in ("attn", "cross") for x in "qkv"],
    )
    block = [*attention, "cross.q", "cross.kv", "cross.out", "ffn.expand", "ffn.contract"]
    assert found["stage1"] == {f"blocks.{i}.{name}" for i in range(TOY.dit.depth) for name in block}
    layer = [*refiner, "attn.out", "cross.out", "expand", "contract"]
    assert found["refiner"] == {f"layers.{i}.{name}" for i in range(TOY.refiner.layers) for name in layer}
    heads = [f"self_attn.{x}_proj" for x in "qkvo"] + [f"mlp.{x}_proj" for x in ("gate", "up", "down")]
    assert found["text"] == {f"{m}.layers.{i}.{name}" for m in range(2) for i in range(2) for name in heads}
    for kept in (
        "camera",
        "plucker",
        "head",
        "norm",
        "gate.",
        "beta",
        "decay",
        "latent_in",
        "time",
        "caption",
    ):
        assert not any(kept in name for name in found["stage1"])


def test_a_precision_is_one_word_or_one_a_part() -> None:
    assert precisions("int8") == dict.fromkeys(PARTS, "int8")
    assert precisions("refiner=fp8, text=int8") == {"stage1": PLAIN, "refiner": "fp8", "text": "int8"}
    for odd in ("int4", "dit=int8", "refiner", "refiner=", ""):
        with pytest.raises(ValueError, match="precision="):
            precisions(odd)


@pytest.mark.parametrize("precision", QUANTISED)
def test_weights_are_as_large_as_the_plan_counts(torchao: Any, precision: Precision) -> None:
    weight = torch.randn(144, 96, dtype=torch.bfloat16)
    assert held_bytes(quantised_weight(weight, precision)) == quantised_bytes(144, 96, precision)


def stored(folder: Path) -> Stage1File:
    save_file(random_released(), folder / "w.safetensors")
    return Stage1File(path=folder / "w.safetensors", variant="streaming")


@pytest.mark.parametrize("precision", QUANTISED)
def test_loading_quantises_tensor_by_tensor(
    torchao: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: Precision
) -> None:
    """Bytes read and not yet assigned never exceed the largest stored tensor."""
    alive, peak, read = 0, 0, tensor_files.read

    class Counted:
        def __init__(self, tensor: Tensor) -> None:
            nonlocal alive, peak
            self.bytes = tensor.nbytes
            alive += self.bytes
            peak = max(peak, alive)

        def __del__(self) -> None:
            nonlocal alive
            alive -= self.bytes

    def counted(entry: tensor_files.TensorEntry) -> Tensor:
        tensor = read(entry)
        tensor.note = Counted(tensor)  # type: ignore[attr-defined]  # dies with the tensor
        return tensor

    monkeypatch.setattr(tensor_files, "read", counted)
    dit = load_stage1(stored(tmp_path), CFG, dtype=torch.bfloat16, precision=precision)
    rows = {row.released for row in table(CFG) if row.ours is not None}
    assert (
        peak == max(value.nbytes for name, value in random_released().items() if name in rows) and not alive
    )
    small = {f"{name}.weight" for name, _ in quantised_modules("stage1", dit)}
    for name, value in dit.state_dict().items():
        assert (type(value) is not Tensor) == (name in small), name
    total = sum(held_bytes(value) for value in dit.state_dict().values())
    assert total == stage1_weights(CFG, precision, 2).total


def seen(dit: DiT, sideways: float) -> Tensor:
    """Return the velocity of a clip of 4 latents along a path that drifts sideways, in metres a frame."""
    c2w = torch.eye(4).repeat(1, 25, 1, 1)
    way = torch.arange(25.0)
    c2w[0, :, 2, 3], c2w[0, :, 0, 3] = 0.05 * way, sideways * way
    draw = torch.Generator().manual_seed(5)
    latents = torch.randn(1, TOY.dit.latent_channels, 4, 2, 3, generator=draw)
    tokens = torch.randn(1, 12, TOY.dit.caption_channels, generator=draw)
    focal = torch.tensor([[48.0, 48.0, 48.0, 32.0]])
    camera = camera_input(c2w, focal, TOY.frame_size, (2, 3), clip_windows(25, TOY.dit.temporal_stride))
    said = TextTokens(tokens, torch.ones(1, 12))
    with torch.inference_mode():
        velocity, _ = dit(latents, torch.full((1, 4), 700.0), said, camera)
    return velocity


def shaken() -> DiT:
    """Return a transformer whose camera branch is not silent, of bfloat16 values.

    It computes in float32, so that what is measured is the weights and not the rounding of a small change.
    """
    torch.manual_seed(0)
    dit = DiT(TOY.dit).eval().requires_grad_(False)
    for parameter in dit.parameters():
        parameter.add_(0.05 * torch.randn_like(parameter))
    return dit.bfloat16().float()


@pytest.mark.parametrize("precision", QUANTISED)
def test_the_output_follows_the_camera_as_it_did(torchao: Any, precision: Precision) -> None:
    plain, small = shaken(), shaken()
    quantise("stage1", small, precision)
    expected, got = (seen(dit, 0.04) - seen(dit, 0.0) for dit in (plain, small))
    cosine = nn.functional.cosine_similarity(expected.flatten(), got.flatten(), dim=0)
    assert cosine > DIRECTION[precision]
    assert abs(float(got.norm() / expected.norm()) - 1) < SIZE[precision]
    assert not torch.equal(seen(plain, 0.0), seen(small, 0.0))


def test_a_camera_branch_that_is_quantised_too_follows_worse(torchao: Any) -> None:
    """What the table keeps matters: with 4 bits everywhere the change of the output turns further away."""
    plain, tabled, naive = shaken(), shaken(), shaken()
    quantise("stage1", tabled, "nvfp4")
    for module in list(naive.modules()):
        if isinstance(module, nn.Linear) and module.in_features % 16 == module.out_features % 16 == 0:
            module.weight = nn.Parameter(quantised_weight(module.weight, "nvfp4"), requires_grad=False)
    change = [seen(dit, 0.04) - seen(dit, 0.0) for dit in (plain, tabled, naive)]
    off = [nn.functional.cosine_similarity(change[0].flatten(), d.flatten(), dim=0) for d in change[1:]]
    assert off[1] < off[0]


def test_a_precision_that_fails_is_refused_with_those_that_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantising, "_torchao", lambda precision: None)
    monkeypatch.setattr(
        quantising, "_failure", lambda precision, device: None if precision == "int8" else "no"
    )
    check_precision("int8", "cpu")
    with pytest.raises(ValueError, match=r"'fp8' cannot be computed on cpu \(no\); bf16, int8 can"):
        check_precision("fp8", "cpu")


def test_precisions_of_this_machine_compute(torchao: Any) -> None:
    for precision in (PLAIN, *QUANTISED):
        check_precision(precision, "cpu")


def test_without_torchao_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchao.quantization", None)
    check_precision(PLAIN, "cpu")
    with pytest.raises(ImportError, match=r"wm-env\[quant\]"):
        check_precision("int8", "cpu")


def test_weights_that_are_quantised_already_are_refused(tmp_path: Path) -> None:
    released = random_released()
    released["blocks.0.attn.qkv.weight"] = released["blocks.0.attn.qkv.weight"].to(torch.float8_e4m3fn)
    save_file(released, tmp_path / "w.safetensors")
    with pytest.raises(ValueError, match=r"'F8_E4M3'.*see precision="):
        load_stage1(Stage1File(path=tmp_path / "w.safetensors", variant="streaming"), CFG)
