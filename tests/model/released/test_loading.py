"""Released weights load strictly, tensor by tensor, from every layout they come in."""

from __future__ import annotations

import json
import random
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from released_parts import CFG, STAGE1_CONFIG, random_released
from safetensors.torch import save_file
from torch import Tensor

from wm_env.model.config import sana_wm
from wm_env.model.dit import DiT
from wm_env.model.released.names import convert, parameter_count, table
from wm_env.model.released.stage1 import check_stage1, config_of, load_stage1
from wm_env.model.storage import tensor_files
from wm_env.model.storage.folder import Stage1File, choose_stage1, look_into
from wm_env.model.text import TextTokens

STREAMING = "streaming"
ORDER_OF_SUMS = 2e-6  # float32


def stage1(path: Path) -> Stage1File:
    return Stage1File(path=path, variant=STREAMING)


def written(path: Path, tensors: dict[str, Tensor]) -> Stage1File:
    save_file(tensors, path)
    return stage1(path)


def same_weights(dit: DiT, released: dict[str, Tensor]) -> None:
    expected = convert(released, table(CFG))
    state = dit.state_dict()
    assert set(state) == set(expected)
    for name, value in expected.items():
        torch.testing.assert_close(state[name], value, rtol=0, atol=0, check_stride=False)
    # by hand, without the table: a plain matrix, and two whose kernel axes go
    assert torch.equal(state["blocks.1.attn.out.weight"], released["blocks.1.attn.proj.weight"])
    assert torch.equal(state["latent_in.weight"], released["x_embedder.proj.weight"][:, :, 0, 0, 0])
    assert torch.equal(state["blocks.0.attn.conv_k"], released["blocks.0.attn.conv_k.weight"][:, 0])


def test_the_full_table_has_872_keys_and_2_661_800_448_parameters() -> None:
    rows = table(sana_wm())
    with torch.device("meta"):
        dit = DiT(sana_wm())
    assert len(rows) == 872
    assert parameter_count(rows) == 2_661_800_448
    used = {row.ours: row.shape for row in rows if row.ours is not None}
    assert used == {name: tuple(value.shape) for name, value in dit.state_dict().items()}
    assert all(row.reason for row in rows if row.ours is None)


def test_safetensors_load(tmp_path: Path) -> None:
    released = random_released()
    same_weights(load_stage1(written(tmp_path / "w.safetensors", released), CFG), released)


def test_sharded_safetensors_load_through_their_index(tmp_path: Path) -> None:
    released = random_released()
    names = sorted(released)
    halves = {"a-00001-of-00002.safetensors": names[::2], "a-00002-of-00002.safetensors": names[1::2]}
    for file, part in halves.items():
        save_file({name: released[name] for name in part}, tmp_path / file)
    index = tmp_path / "a.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {n: file for file, part in halves.items() for n in part}}))
    same_weights(load_stage1(stage1(index), CFG), released)
    (tmp_path / "a-00002-of-00002.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="a-00002-of-00002"):
        load_stage1(stage1(index), CFG)


@pytest.mark.parametrize("wrapper", ["generator", "model", "state_dict", None])
@pytest.mark.parametrize("prefix", ["", "model."])
def test_model_pt_loads_from_every_wrapper(tmp_path: Path, wrapper: str | None, prefix: str) -> None:
    released = random_released()
    weights = {prefix + name: value for name, value in released.items()}
    content = (
        weights if wrapper is None else {wrapper: weights, "step": 7, "denoising_step_list": [1000, 960]}
    )
    torch.save(content, tmp_path / "model.pt")
    same_weights(load_stage1(stage1(tmp_path / "model.pt"), CFG), released)


def test_model_pt_may_hold_views_and_transposed_tensors(tmp_path: Path) -> None:
    released = random_released()
    base = torch.arange(40.0)
    released["attention_y_norm.weight"] = base[4:36]
    key = "blocks.0.attn.proj.weight"
    released[key] = released[key].T
    torch.save(released, tmp_path / "model.pt")
    same_weights(load_stage1(stage1(tmp_path / "model.pt"), CFG), released)


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (print, ("executed",))


def test_a_pickle_is_never_executed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"generator": random_released(), "extra": Evil()}, tmp_path / "model.pt")
    with pytest.raises(ValueError, match="never executed"):
        load_stage1(stage1(tmp_path / "model.pt"), CFG)
    assert "executed" not in capsys.readouterr().out


def test_all_misfits_are_listed_in_one_error(tmp_path: Path) -> None:
    released = random_released()
    del released["x_embedder.proj.bias"], released["blocks.1.attn.A_log"]
    released["blocks.0.attn.proj.bias"] = torch.zeros(31)
    released["stray.weight"] = torch.zeros(2)
    with pytest.raises(ValueError) as error:
        load_stage1(written(tmp_path / "w.safetensors", released), CFG)
    for name in ("x_embedder.proj.bias", "blocks.1.attn.A_log", "blocks.0.attn.proj.bias", "stray.weight"):
        assert name in str(error.value)


def with_both_prefixes(released: dict[str, Tensor]) -> None:
    released["model.final_layer.linear.bias"] = released["final_layer.linear.bias"].clone()


def with_whole_numbers(released: dict[str, Tensor]) -> None:
    released["final_layer.linear.bias"] = released["final_layer.linear.bias"].long()


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (with_both_prefixes, "holds 'final_layer.linear.bias' twice"),
        (with_whole_numbers, "torch.int64, expected a floating-point"),
    ],
)
def test_tensors_that_are_stored_twice_or_are_no_weights_are_refused(
    spoil: Callable[[dict[str, Tensor]], None], says: str, tmp_path: Path
) -> None:
    released = random_released()
    spoil(released)
    with pytest.raises(ValueError, match=says):
        load_stage1(written(tmp_path / "w.safetensors", released), CFG)


def test_an_index_that_names_what_its_file_lacks_is_refused(tmp_path: Path) -> None:
    save_file({"there": torch.zeros(2)}, tmp_path / "a.safetensors")
    index = tmp_path / "a.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": dict.fromkeys(("there", "lost"), "a.safetensors")}))
    with pytest.raises(ValueError, match=r"do not hold: lost"):
        tensor_files.list_tensors(index)


def test_what_is_loaded_is_frozen_and_in_evaluation(tmp_path: Path) -> None:
    dit = load_stage1(written(tmp_path / "w.safetensors", random_released()), CFG)
    assert not dit.training and not any(parameter.requires_grad for parameter in dit.parameters())


@pytest.mark.parametrize(
    ("change", "says"),
    [({"qk_norm": False}, "asks for {'qk_norm': False}"), ({"num_layers": None}, "lacks 'num_layers'")],
)
def test_a_config_of_another_network_or_without_a_size_is_refused(
    change: dict[str, Any], says: str, tmp_path: Path
) -> None:
    stated = {key: value for key, value in {**STAGE1_CONFIG, **change}.items() if value is not None}
    file = Stage1File(path=tmp_path / "w.safetensors", variant=STREAMING, config=stated)
    with pytest.raises(ValueError, match=says):
        config_of(file, CFG)
    right = Stage1File(path=tmp_path / "w.safetensors", variant=STREAMING, config=STAGE1_CONFIG)
    assert config_of(right, sana_wm()).depth == CFG.depth


def test_a_missing_key_that_nothing_reads_is_a_warning_that_names_it(tmp_path: Path) -> None:
    released = random_released()
    del released["pos_embed"]
    with pytest.warns(UserWarning, match="pos_embed"):
        load_stage1(written(tmp_path / "w.safetensors", released), CFG)


@pytest.mark.parametrize("name", ["w.safetensors", "model.pt"])
@pytest.mark.parametrize("kept", [0, 5, 3000, -100])
def test_truncated_files_are_refused(tmp_path: Path, name: str, kept: int) -> None:
    path = tmp_path / name
    if path.suffix == ".pt":
        torch.save(random_released(), path)
    else:
        save_file(random_released(), path)
    data = path.read_bytes()
    path.write_bytes(data[:kept])
    with pytest.raises(ValueError, match=r"truncated|corrupted"):
        load_stage1(stage1(path), CFG)


@pytest.mark.parametrize("name", ["w.safetensors", "model.pt"])
def test_flipped_bytes_are_refused_or_harmless(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    tensors = {f"part.{i}": torch.randn(5, 7) for i in range(4)}
    torch.save({"model": tensors}, path) if path.suffix == ".pt" else save_file(tensors, path)
    whole, refused = path.read_bytes(), 0
    draw = random.Random(0)
    for _ in range(80):
        data = bytearray(whole)
        for _ in range(3):
            data[draw.randrange(600)] = draw.randrange(256)
        path.write_bytes(data)
        try:
            for entry in tensor_files.list_tensors(path).values():
                tensor_files.read(entry)
        except ValueError:
            refused += 1
    assert refused > 20


@pytest.mark.parametrize(
    "content",
    [
        "[]",
        '{"weight_map": {"a": "w.safetensors.index.json"}}',
        '{"weight_map": {"a": "../b.safetensors"}}',
        '{"weight_map": {"a": 3}}',
    ],
)
def test_an_index_names_safetensors_files_beside_it(tmp_path: Path, content: str) -> None:
    index = tmp_path / "w.safetensors.index.json"
    index.write_text(content)
    with pytest.raises(ValueError, match=r"index"):
        tensor_files.list_tensors(index)


def test_values_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    released = random_released()
    released["final_layer.linear.bias"][1] = torch.nan
    with pytest.raises(ValueError, match="not finite"):
        load_stage1(written(tmp_path / "w.safetensors", released), CFG)


def test_loading_keeps_one_stored_tensor_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes read and not yet assigned never exceed the largest tensor: the model's size plus one tensor."""
    released = random_released()
    alive = 0
    peak = 0

    class Counted:
        def __init__(self, tensor: Tensor) -> None:
            nonlocal alive, peak
            self.bytes = tensor.untyped_storage().nbytes()
            alive += self.bytes
            peak = max(peak, alive)

        def __del__(self) -> None:
            nonlocal alive
            alive -= self.bytes

    read = tensor_files.read

    def counted_read(entry: tensor_files.TensorEntry) -> Tensor:
        tensor = read(entry)
        tensor.note = Counted(tensor)  # type: ignore[attr-defined]  # dies with the tensor
        return tensor

    monkeypatch.setattr(tensor_files, "read", counted_read)
    dit = load_stage1(written(tmp_path / "w.safetensors", released), CFG, dtype=torch.bfloat16)
    used = [row.released for row in table(CFG) if row.ours is not None]
    assert peak == max(released[name].nbytes for name in used)
    assert alive == 0
    assert {value.dtype for value in dit.state_dict().values()} == {torch.bfloat16}


def test_the_variant_is_told_by_the_released_names(tmp_path: Path) -> None:
    for name, variant in {
        "dit/sana_wm_1600m_720p.safetensors": "bidirectional",
        "dit/sana_wm_chunk_causal_1600m_720p.safetensors": "chunk-causal",
        "sana_dit/model.pt": "streaming",
    }.items():
        folder = tmp_path / variant
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_bytes(b"")
        found = look_into(folder)
        assert choose_stage1(found, variant).path == folder / name
        with pytest.raises(ValueError, match=f"holds no .*{variant}"):
            choose_stage1(found, "streaming" if variant != "streaming" else "bidirectional")


def test_an_empty_folder_is_an_error_with_the_download_command(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="wm-env download sana-wm-streaming"):
        choose_stage1(look_into(tmp_path), "streaming")


def test_the_diffusers_layout_loads_and_computes_the_same(tmp_path: Path) -> None:
    """Without cameras: with them theirs rounds on the way (docs/performance/released.md)."""
    from diffusers import SanaWMTransformer3DModel

    torch.manual_seed(0)
    theirs = SanaWMTransformer3DModel(
        in_channels=4, num_layers=2, hidden_size=32, num_attention_heads=2, linear_head_dim=16,
        caption_channels=12, chunk_plucker_post_attn_blocks=2, softmax_every_n=9,
    ).eval()  # fmt: skip
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    theirs.save_pretrained(tmp_path / "transformer")
    file = choose_stage1(look_into(tmp_path), "bidirectional")
    cfg = config_of(file, sana_wm())
    assert (cfg.hidden, cfg.heads, cfg.depth, cfg.plucker_channels) == (32, 2, 2, 48)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_stage1(file, cfg)
    ours = load_stage1(file, cfg)
    x, said = torch.randn(1, 4, 3, 2, 3), torch.randn(1, 7, 12)
    timestep, mask = torch.tensor([[0.0, 500, 500]]), torch.tensor([[1.0, 1, 1, 1, 1, 0, 0]])
    with torch.inference_mode():
        expected = theirs(x, timestep[:, None], said[:, None], mask=mask, return_dict=False)[0]
        got, _ = ours(x, timestep, TextTokens(said, mask), None)
    assert (got - expected).abs().max() < ORDER_OF_SUMS * expected.abs().max()
