"""Strict checkpoints: one safetensors file with the weights, one JSON card beside it.

    NAME.safetensors   tensors, nothing else
    NAME.json          the card: how they came about, and the SHA-256 of the safetensors file

Loading never pads or skips: missing, unexpected and misshapen tensors are one error, values that are not
finite are another, and a file whose digest differs from its card is refused. Names lose what wrappers put
before them, with a warning.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import safetensors
import torch
from safetensors.torch import load as load_bytes
from safetensors.torch import save as save_bytes
from torch import Tensor, nn

from wm_env.model.storage.atomic import write_atomic
from wm_env.model.storage.facts import read_json
from wm_env.model.storage.tensor_files import FLOATS
from wm_env.model.storage.weight_names import report_misfit, some, unwrapped

Card = dict[str, Any]
Network = TypeVar("Network", bound=nn.Module)


def card_path(path: Path) -> Path:
    """Return the path of the JSON card beside `NAME.safetensors`."""
    return path.with_suffix(".json")


def sha256_of(path: Path) -> str:
    """Return the hexadecimal SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_tensors(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], source: str) -> None:
    """Raise `ValueError` where tensors of `found` are missing, unexpected or misshapen."""
    report_misfit(
        source,
        missing=[name for name in expected if name not in found],
        unexpected=[name for name in found if name not in expected],
        misshapen=[
            f"{name} {tuple(found[name].shape)}, expected {tuple(tensor.shape)}"
            for name, tensor in expected.items()
            if name in found and found[name].shape != tensor.shape
        ],
    )


def check_values(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], source: str) -> None:
    """Raise `ValueError` naming tensors that cannot be weights: of another kind of number, or not finite.

    Both hold tensors of the same names. Values are looked at in the dtype of `expected`, where a large one
    may become infinite.
    """
    other = [
        f"{name} {found[name].dtype}"
        for name, tensor in expected.items()
        if (
            found[name].dtype not in FLOATS
            if tensor.is_floating_point()
            else found[name].dtype != tensor.dtype
        )
    ]
    if other:
        raise ValueError(f"{source} holds tensors of a wrong dtype: {some(other)}")
    broken = [
        name
        for name, tensor in expected.items()
        if tensor.is_floating_point() and not bool(torch.isfinite(found[name].to(tensor.dtype)).all())
    ]
    if broken:
        raise ValueError(f"{source} holds tensors with values that are not finite: {some(broken)}")


def save_checkpoint(
    path: Path, tensors: Mapping[str, Tensor], card: Mapping[str, Any], dtype: torch.dtype | None = None
) -> str:
    """Write `path` (`NAME.safetensors`) and its card, and return the SHA-256.

    `dtype`, if given, is applied to floating-point tensors (bfloat16 for embedded weights).
    """
    if path.suffix != ".safetensors":
        raise ValueError(f"a checkpoint is written as NAME.safetensors, not {path.name!r}")
    data = _file_bytes(tensors, dtype)
    digest = hashlib.sha256(data).hexdigest()
    values = sum(tensor.numel() for tensor in tensors.values())
    full_card = {**card, "sha256": digest, "bytes": len(data), "values": values}
    text = json.dumps(full_card, indent=2, sort_keys=True, allow_nan=False) + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, data)
    write_atomic(card_path(path), text.encode())
    return digest


def file_sha256(tensors: Mapping[str, Tensor], dtype: torch.dtype | None = None) -> str:
    """Return the SHA-256 that `save_checkpoint` would give these tensors."""
    return hashlib.sha256(_file_bytes(tensors, dtype)).hexdigest()


def _file_bytes(tensors: Mapping[str, Tensor], dtype: torch.dtype | None) -> bytes:
    stored = {
        name: tensor.detach().to("cpu", dtype if dtype and tensor.is_floating_point() else tensor.dtype)
        for name, tensor in tensors.items()
    }
    return save_bytes({name: tensor.contiguous().clone() for name, tensor in stored.items()})


def load_card(path: Path) -> Card:
    """Return the card of `NAME.safetensors`."""
    card = card_path(path)
    if not card.is_file():
        raise FileNotFoundError(f"checkpoint card {card} is missing; it belongs beside {path.name}")
    parsed = read_json(card, f"checkpoint card {card}")
    if not isinstance(parsed.get("sha256"), str):
        raise ValueError(f"checkpoint card {card} names no sha256; it is not a card of this project")
    return parsed


def load_checkpoint(path: Path) -> tuple[dict[str, Tensor], Card]:
    """Return the tensors and the card of `NAME.safetensors`, after comparing the SHA-256 with the card."""
    if not path.is_file():
        raise FileNotFoundError(f"weights {path} are missing")
    card = load_card(path)
    data = path.read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    if digest != card["sha256"]:
        raise ValueError(
            f"weights {path} are corrupted: sha256 {digest[:12]}..., the card says {card['sha256'][:12]}..."
        )
    try:
        return unwrapped(load_bytes(data), f"weights {path}"), card
    except safetensors.SafetensorError as error:
        raise ValueError(f"weights {path} are not a safetensors file: {error}") from error


def with_prefix(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the tensors whose name starts with `prefix.`, that prefix removed."""
    return {name[len(prefix) + 1 :]: t for name, t in tensors.items() if name.startswith(f"{prefix}.")}


def load_into(module: nn.Module, tensors: Mapping[str, Tensor], source: str) -> None:
    """Copy `tensors` into `module` (cast to its dtypes), strictly; `source` names them in the error.

    Raises `ValueError` as `check_tensors` and `check_values` do.
    """
    named, expected = unwrapped(tensors, source), module.state_dict()
    check_tensors(named, expected, source)
    check_values(named, expected, source)
    module.load_state_dict(named, strict=True)


def build_network(make: Callable[[], Network], tensors: Mapping[str, Tensor], source: str) -> Network:
    """Return the network that `make` builds on the CPU, with `tensors` as its values, strictly.

    Names and shapes are compared before any memory is taken, so that settings which do not belong to the
    tensors cost none. Raises `ValueError` as `load_into` does, and where the settings describe no network.
    """
    try:
        with torch.device("meta"):
            module = make()
    except (ValueError, RuntimeError, TypeError, ZeroDivisionError) as error:
        raise ValueError(f"{source}: its settings describe no network: {error}") from error
    named = unwrapped(tensors, source)
    check_tensors(named, module.state_dict(), source)
    module.to_empty(device="cpu")
    load_into(module, named, source)
    return module
