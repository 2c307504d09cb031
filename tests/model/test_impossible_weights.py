"""Weights that cannot be, and cards that describe none: one short sentence, before anything is built."""

from __future__ import annotations

import json
import math
import shutil
import warnings
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from wm_env.model.config import tiny
from wm_env.model.embedded import EmbeddedConfig, latents_of, load_embedded
from wm_env.model.storage.checkpoint import load_into, sha256_of
from wm_env.model.storage.tensor_files import list_tensors, load_tensorwise
from wm_env.model.storage.weight_names import unwrapped

MOST_CHARACTERS = 600  # of an error: a few lines


@pytest.fixture
def world(pure_world: str, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pure_world, tmp_path / "world"))


def with_weights(world: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor] | None]) -> Path:
    """Write the weights of a world anew, changed, and the checksum that its card then needs."""
    path = world / "random.safetensors"
    tensors = load_file(path)
    tensors = change(tensors) or tensors
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
    card = json.loads(path.with_suffix(".json").read_text())
    path.with_suffix(".json").write_text(json.dumps({**card, "sha256": sha256_of(path)}))
    return world


def set_value(name: str, value: float) -> Callable[[dict[str, Tensor]], None]:
    def change(tensors: dict[str, Tensor]) -> None:
        found = next(key for key in tensors if name in key)
        tensors[found].view(-1)[-1] = value

    return change


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("part", ["dit.", "vae."])
def test_a_world_with_a_weight_that_is_not_finite_is_refused(world: Path, part: str, value: float) -> None:
    with pytest.raises(ValueError, match="holds tensors with values that are not finite"):
        load_embedded(with_weights(world, set_value(part, value)))


@pytest.mark.parametrize("dtype", [torch.int8, torch.int64, torch.bool, torch.uint8])
def test_a_world_of_another_kind_of_number_is_refused_shortly(world: Path, dtype: torch.dtype) -> None:
    changed = with_weights(world, lambda tensors: {name: t.to(dtype) for name, t in tensors.items()})
    with pytest.raises(ValueError, match=r"tensors of a wrong dtype.*more") as error:
        load_embedded(changed)
    assert len(str(error.value)) < MOST_CHARACTERS


def test_a_value_too_large_for_the_dtype_it_is_loaded_in_is_refused(tmp_path: Path) -> None:
    net = nn.Linear(2, 1)
    weights = {"weight": torch.tensor([[1e300, 0]], dtype=torch.float64), "bias": torch.zeros(1)}
    with pytest.raises(ValueError, match="not finite"):
        load_into(net, weights, "file")
    save_file({**weights, "weight": torch.tensor([[1e30, 0]])}, tmp_path / "w.safetensors")
    with torch.device("meta"):
        half = nn.Linear(2, 1)
    entries = list_tensors(tmp_path / "w.safetensors")
    with pytest.raises(ValueError, match=r"weight holds values that are not finite in torch\.float16"):
        load_tensorwise(half, entries, source="file", device="cpu", dtype=torch.float16)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."])
def test_what_wrappers_put_before_names_is_taken_off_with_a_word(world: Path, prefix: str) -> None:
    expected = load_embedded(world).dit.state_dict()
    changed = with_weights(world, lambda tensors: {prefix + name: t for name, t in tensors.items()})
    with pytest.warns(UserWarning, match=r"of a wrapper was taken off"):
        found = load_embedded(changed).dit.state_dict()
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_wrappers_around_parts_are_taken_off_too(world: Path) -> None:
    def change(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        return {
            name.replace("dit.blocks.0.", "dit.blocks.0._orig_mod.").replace("vae.", "vae.module."): tensor
            for name, tensor in tensors.items()
        }

    with pytest.warns(UserWarning, match="_orig_mod"):
        load_embedded(with_weights(world, change))


def test_wrapped_names_of_a_pickled_file_are_taken_off(tmp_path: Path) -> None:
    names = [f"module._orig_mod.model.{i}.weight" for i in range(3)]
    torch.save({"state_dict": OrderedDict((name, torch.ones(2)) for name in names)}, tmp_path / "w.pt")
    with pytest.warns(UserWarning, match=r"'_orig_mod\.', 'module\.'"):
        found = list_tensors(tmp_path / "w.pt")
    assert list(found) == [f"model.{i}.weight" for i in range(3)]


def test_names_that_no_wrapper_made_stay_and_no_name_is_lost() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plain = {"module.a": 1, "b": 2}  # a part that is called so
        assert unwrapped(plain, "file") == plain
    with pytest.raises(ValueError, match="holds a twice"):
        unwrapped({"a": 1, "_orig_mod.a": 2}, "file")


def test_a_world_of_other_names_is_refused_by_five_of_them_and_a_count(world: Path) -> None:
    changed = with_weights(world, lambda tensors: {f"ema.{name}": t for name, t in tensors.items()})
    with pytest.raises(ValueError, match=r"holds tensors of no part of it: .* and \d+ more") as error:
        load_embedded(changed)
    assert len(str(error.value)) < MOST_CHARACTERS
    inner = with_weights(
        world, lambda t: {n.replace("ema.", "").replace("dit.", "dit.x."): v for n, v in t.items()}
    )
    with pytest.raises(ValueError, match=r"\d+ missing: .* and \d+ more; \d+ unexpected") as error:
        load_embedded(inner)
    assert len(str(error.value)) < MOST_CHARACTERS


SETTINGS: list[tuple[tuple[str, ...], Any]] = [
    (("dit",), None),
    (("vae",), None),
    (("sampler",), 3),
    (("refiner",), "tiny"),
    (("trained_steps",), 0),
    (("trained_steps",), 1e400),
    (("dit", "heads"), 0),
    (("dit", "heads"), True),
    (("dit", "depth"), 10**12),
    (("dit", "hidden"), "32"),
    (("dit", "short_conv_kernel"), 1_000_000),
    (("dit", "cross_norm_eps"), math.nan),
    (("dit", "cross_norm_eps"), -1.0),
    (("dit", "rope_theta"), 0),
    (("dit", "window_chunks"), None),
    (("dit", "window_chunks"), -1),
    (("dit", "chunk_frames"), 3),
    (("dit", "temporal_stride"), 8),
    (("dit", "memory_channels"), 7),
    (("dit", "sink"), "no"),
    (("dit", "colour"), 3),
    (("vae", "size"), 10**9),
    (("vae", "decoder_width"), -1),
    (("vae", "decoder_width"), [1, 2]),
    (("vae", "decoder_width"), [8, -1, 8]),
    (("vae", "channels"), 16),
    (("sampler", "sigmas"), []),
    (("sampler", "sigmas"), [1.0, math.nan, 0.0]),
    (("sampler", "history_timestep"), 1001),
]


@pytest.mark.parametrize(("where", "value"), SETTINGS)
def test_a_card_with_an_entry_that_cannot_be_is_refused_by_its_name(
    world: Path, where: tuple[str, ...], value: Any
) -> None:
    path = world / "random.json"
    card = json.loads(path.read_text())
    entry = card["world"]
    for name in where[:-1]:
        entry = entry[name]
    entry[where[-1]] = value
    path.write_text(json.dumps(card))
    with pytest.raises(ValueError, match=rf"{where[-1]}|NoneType|int|str|finite") as error:
        load_embedded(world)
    assert len(str(error.value)) < MOST_CHARACTERS


def test_settings_of_another_size_take_no_memory(world: Path) -> None:
    path = world / "random.json"
    card = json.loads(path.read_text())
    card["world"]["dit"] |= {"hidden": 2**16, "heads": 1024, "depth": 4}  # 1 TB
    path.write_text(json.dumps(card))
    with pytest.raises(ValueError, match="does not fit the model"):
        load_embedded(world)


@pytest.mark.parametrize("parts", [None, 3, {}, {"dit": {}, "vae": 3}])
def test_a_card_without_the_cards_of_its_parts_says_so(world: Path, parts: Any) -> None:
    path = world / "random.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "parts": parts}))
    with pytest.raises(ValueError, match=r"is missing|expected the"):
        latents_of(world)


def test_the_ends_of_a_range_are_in_it() -> None:
    from wm_env.model.config import check_ranges

    config = EmbeddedConfig.__new__(EmbeddedConfig)
    for value in (1, 2**31):
        object.__setattr__(config, "trained_steps", value)
        check_ranges(config, {"trained_steps": (1, 2**31)}, {})
    for wrong in (0, 2**31 + 1, 1.0, True, None):
        object.__setattr__(config, "trained_steps", wrong)
        with pytest.raises(ValueError, match="trained_steps"):
            check_ranges(config, {"trained_steps": (1, 2**31)}, {})
    assert tiny().depth == 8
