"""Checkpoints are strict: nothing missing, unexpected, misshapen or altered gets in."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from wm_env.model.storage.checkpoint import load_checkpoint, load_into, save_checkpoint, with_prefix


def test_weights_and_card_come_back(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    tensors = {"a.w": torch.randn(2, 3), "b": torch.arange(4)}
    digest = save_checkpoint(path, tensors, {"steps": 7})
    loaded, card = load_checkpoint(path)
    assert {name: t.tolist() for name, t in loaded.items()} == {n: t.tolist() for n, t in tensors.items()}
    assert card["steps"] == 7
    assert card["sha256"] == digest
    assert list(with_prefix(loaded, "a")) == ["w"]
    assert not list(tmp_path.glob(".*"))


def test_only_floating_point_is_stored_shorter(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    save_checkpoint(path, {"w": torch.ones(2), "n": torch.ones(2, dtype=torch.int64)}, {}, torch.bfloat16)
    loaded, _ = load_checkpoint(path)
    assert (loaded["w"].dtype, loaded["n"].dtype) == (torch.bfloat16, torch.int64)


def test_all_that_does_not_fit_is_listed_together() -> None:
    net = nn.Linear(2, 3)
    with pytest.raises(
        ValueError, match=r"1 missing: bias; 1 unexpected: extra; 1 misshapen: weight \(2, 2\)"
    ):
        load_into(net, {"weight": torch.zeros(2, 2), "extra": torch.zeros(1)}, "file")


def test_altered_weights_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    save_checkpoint(path, {"w": torch.ones(8)}, {})
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(ValueError, match="corrupted"):
        load_checkpoint(path)


@pytest.mark.parametrize("suffix", [".safetensors", ".json"])
def test_a_missing_file_is_named(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / "net.safetensors"
    save_checkpoint(path, {"w": torch.ones(8)}, {})
    path.with_suffix(suffix).unlink()
    with pytest.raises(FileNotFoundError, match=f"net{suffix}"):
        load_checkpoint(path)
