"""Where each tensor of a weight file lies, and reading one at a time.

A file is opened as a table `name -> TensorEntry` without reading any data. `read` then fetches one tensor
with plain file reads (no memory map, whose pages would count as the process's own), so that building a model
needs its own size and one tensor more. Pickled files are listed by torch's weights-only unpickler: nothing
in them is ever executed.
"""

from __future__ import annotations

import hashlib
import json
import math
import pickle
import struct
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from wm_env.model.storage.facts import read_json
from wm_env.model.storage.weight_names import report_misfit, some, unwrapped

_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
_MAX_HEADER = 100_000_000  # bytes; the limit of the safetensors format
WRAPPERS = ("generator", "model", "state_dict")  # dictionaries that training code wraps weights in


class TensorEntry(NamedTuple):
    """One stored tensor: file, byte offset of its first element, dtype, shape and strides (in elements)."""

    path: Path
    offset: int
    dtype: torch.dtype
    shape: tuple[int, ...]
    stride: tuple[int, ...]


Entries = dict[str, TensorEntry]


def list_tensors(path: Path) -> Entries:
    """Return the tensors of a `.safetensors`, `.safetensors.index.json`, `.pt`, `.pth` or `.bin` file.

    Names lose what wrappers put before them (`unwrapped`).

    Raises `FileNotFoundError` where the file is missing and `ValueError` where it is truncated, corrupted or
    of no known kind.
    """
    return unwrapped(_stored(path), f"weights {path}")


def _stored(path: Path) -> Entries:
    """Return the tensors of a file under the names that it gives them."""
    if not path.is_file():
        raise FileNotFoundError(f"weights {path} are missing")
    if path.name.endswith(".index.json"):
        return _list_index(path)
    if path.suffix == ".safetensors":
        return _list_safetensors(path)
    if path.suffix in (".pt", ".pth", ".bin"):
        return _list_pickle(path)
    raise ValueError(f"{path} is no weight file: expected .safetensors, .safetensors.index.json, .pt or .pth")


def files_of(path: Path) -> list[Path]:
    """Return the files that `list_tensors(path)` reads data from."""
    return sorted({entry.path for entry in list_tensors(path).values()})


def read(entry: TensorEntry) -> Tensor:
    """Return one tensor, freshly allocated; raise `ValueError` where the file ends too early."""
    elements = 1 + sum((n - 1) * s for n, s in zip(entry.shape, entry.stride, strict=True))
    data = torch.empty(elements if math.prod(entry.shape) else 0, dtype=entry.dtype)
    view = memoryview(data.view(torch.uint8).numpy())  # type: ignore[arg-type]
    with open(entry.path, "rb") as file:
        file.seek(entry.offset)
        got = file.readinto(view)
    if got != len(view):
        raise ValueError(f"weights {entry.path} are truncated: {got} of {len(view)} bytes at {entry.offset}")
    return data.as_strided(entry.shape, entry.stride)


def sha256_of_files(paths: Iterable[Path]) -> str:
    """Return one hexadecimal SHA-256 over the contents of files, in the given order."""
    digest = hashlib.sha256()
    for path in paths:
        with open(path, "rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def without_unit_axes(entry: TensorEntry, shape: tuple[int, ...]) -> TensorEntry:
    """Return the same tensor in a shape that differs only by axes of length 1."""
    strides = [s for n, s in zip(entry.shape, entry.stride, strict=True) if n != 1]
    kept = [n for n in entry.shape if n != 1]
    assert kept == [n for n in shape if n != 1], f"{entry.shape} and {shape} differ by more than unit axes"
    left = iter(strides)
    return entry._replace(shape=shape, stride=tuple(1 if n == 1 else next(left) for n in shape))


def load_tensorwise(
    module: nn.Module,
    tensors: Mapping[str, TensorEntry],
    *,
    source: str,
    device: str,
    dtype: torch.dtype,
    change: Callable[[str, Tensor], Tensor] | None = None,
    settle: Callable[[str, Tensor], Tensor] | None = None,
) -> None:
    """Give a module built on the meta device its weights one by one, in `dtype` on `device`; strict.

    change: `(name, tensor) -> tensor` applied to each before the cast; settle: the same afterwards, where the
    tensor will stay. Every missing, unexpected and
    misshapen name is listed in one error before anything is read; then values that are not finite are
    refused. Raises `ValueError`.
    """
    slots = {name: (owner, key) for name, owner, key in _slots(module)}
    expected = module.state_dict()
    report_misfit(
        source,
        unexpected=[name for name in tensors if name not in expected],
        missing=[name for name in expected if name not in tensors],
        misshapen=[
            f"{name} {tuple(tensors[name].shape)} instead of {tuple(expected[name].shape)}"
            for name in expected
            if name in tensors and tuple(tensors[name].shape) != tuple(expected[name].shape)
        ],
    )
    for name, entry in tensors.items():
        value = _checked(read(entry), name, source)
        value = value if change is None else change(name, value)
        value = _finite(value.to(dtype), name, source).to(device)
        assign(slots[name], value if settle is None else settle(name, value))
        del value  # else it would stay while the next one is read
    left = [name for name, tensor in _all_tensors(module) if tensor.is_meta]
    assert not left, f"{left} have no stored value"


def assign(slot: tuple[nn.Module, str], value: Tensor) -> None:
    """Replace the parameter or buffer `key` of a module by `value`."""
    owner, key = slot
    if key in owner._parameters:
        owner._parameters[key] = nn.Parameter(value, requires_grad=False)
    else:
        owner._buffers[key] = value


def _checked(value: Tensor, name: str, source: str) -> Tensor:
    if value.dtype not in FLOATS:
        raise ValueError(
            f"{source}: tensor {name} is {value.dtype}, expected a floating-point dtype of 16 to 64 bits "
            "(weights are quantised while they are loaded, see precision=)"
        )
    return _finite(value, name, source)


def _finite(value: Tensor, name: str, source: str) -> Tensor:
    if not bool(torch.isfinite(value).all()):
        raise ValueError(f"{source}: tensor {name} holds values that are not finite in {value.dtype}")
    return value


def _slots(module: nn.Module) -> Iterable[tuple[str, nn.Module, str]]:
    for prefix, owner in module.named_modules():
        for key in (*owner._parameters, *owner._buffers):
            yield (f"{prefix}.{key}" if prefix else key), owner, key


def _all_tensors(module: nn.Module) -> Iterable[tuple[str, Tensor]]:
    yield from module.named_parameters()
    yield from module.named_buffers()


def _list_safetensors(path: Path) -> Entries:
    size = path.stat().st_size
    with open(path, "rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else _MAX_HEADER + 1
        if length > min(_MAX_HEADER, size - 8):
            raise ValueError(f"weights {path} are truncated or no safetensors file ({size} bytes)")
        header_bytes = file.read(length)
    try:
        header: dict[str, Any] = json.loads(header_bytes)
        header.pop("__metadata__", None)
        entries = {
            name: _safetensors_entry(path, 8 + length, name, item, size) for name, item in header.items()
        }
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"weights {path} have a corrupted header: {error!r:.120}") from error
    except (KeyError, TypeError, AttributeError, OverflowError) as error:
        raise ValueError(f"weights {path} have a corrupted header: {error!r:.120}") from error
    return entries


def _safetensors_entry(path: Path, base: int, name: str, item: dict[str, Any], size: int) -> TensorEntry:
    if item["dtype"] not in _DTYPES:
        raise ValueError(
            f"weights {path}: tensor {name} has the unknown dtype {item['dtype']!r}; expected floats "
            "of 16 to 64 bits (weights are quantised while they are loaded, see precision=)"
        )
    dtype, shape = _DTYPES[item["dtype"]], tuple(item["shape"])
    begin, end = item["data_offsets"][:2]
    if begin < 0 or min(shape, default=0) < 0 or end - begin != math.prod(shape) * dtype.itemsize:
        raise ValueError(
            f"weights {path} are corrupted: tensor {name} of shape {shape} has bytes {begin} to {end}"
        )
    if base + end > size:
        raise ValueError(f"weights {path} are truncated: {size} bytes, tensor {name} ends at {base + end}")
    return TensorEntry(path, base + begin, dtype, shape, _contiguous(shape))


def _list_index(path: Path) -> Entries:
    try:
        weight_map: dict[str, str] = dict(read_json(path)["weight_map"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not an index of safetensors files: {error!r}") from error
    names = sorted({str(name) for name in weight_map.values()})
    odd = [name for name in names if Path(name).name != name or not name.endswith(".safetensors")]
    if odd:
        raise ValueError(f"{path} names {some(odd)}; the parts of an index are .safetensors files beside it")
    parts = {name: _stored(path.parent / name) for name in names}
    lost = sorted(name for name, part in weight_map.items() if name not in parts[part])
    if lost:
        raise ValueError(f"{path} names tensors that its files do not hold: {some(lost)}")
    return {name: parts[part][name] for name, part in weight_map.items()}


def _list_pickle(path: Path) -> Entries:
    """List the tensors of a file that `torch.save` wrote, inside at most one of `WRAPPERS`.

    Under fake tensors torch's loader reads the zip's directory and the pickle, leaves the data in the file
    and notes where it lies.
    """
    try:
        with FakeTensorMode():
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"weights {path} hold more than tensors and plain values (or are corrupted); such a pickle is "
            "never executed"
        ) from error
    except (RuntimeError, EOFError, LookupError, TypeError, AttributeError, OSError) as error:
        raise ValueError(f"weights {path} are truncated or corrupted: {error!r:.120}") from error
    if not isinstance(content, dict):
        raise ValueError(f"weights {path} hold a {type(content).__name__}, expected a dictionary of tensors")
    wrapper = next((name for name in WRAPPERS if isinstance(content.get(name), dict)), None)
    weights = content if wrapper is None else content[wrapper]
    return {name: _pickle_entry(path, name, value) for name, value in weights.items()}


def _pickle_entry(path: Path, name: Any, value: Any) -> TensorEntry:
    if not isinstance(name, str) or not isinstance(value, Tensor):
        raise ValueError(f"weights {path}: {name!r} is a {type(value).__name__}, expected a named tensor")
    if value.layout is not torch.strided or value.is_quantized:
        raise ValueError(f"weights {path}: {name!r} is sparse or quantised, expected a plain tensor")
    base = value.untyped_storage()._checkpoint_offset  # type: ignore[attr-defined]  # set by torch.load
    if base is None:
        raise ValueError(
            f"weights {path} are in torch's old format; load and save them again with torch.save"
        )
    offset = base + value.storage_offset() * value.dtype.itemsize
    return TensorEntry(path, offset, value.dtype, tuple(value.shape), tuple(value.stride()))  # type: ignore[arg-type]


def _contiguous(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(math.prod(shape[i + 1 :]) for i in range(len(shape)))
