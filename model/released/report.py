"""What a folder of released weights holds and whether it fits, without loading it."""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Any

from wm_env.model.config import DiTConfig, sana_wm
from wm_env.model.released.download import check_download
from wm_env.model.released.stage1 import check_stage1, config_of, released_entries
from wm_env.model.released.variants import RELEASED
from wm_env.model.storage.folder import Component, ReleasedFolder, Stage1File, look_into


def describe(folder: Path, *, verify: bool = False, default: DiTConfig | None = None) -> dict[str, Any]:
    """Return the contents of a folder as plain values.

    verify: also compare every file with the digests of its download. default: the transformer's sizes where
    the layout states none, the released ones if None.
    """
    found = look_into(folder)
    parts = {
        "autoencoder": found.vaes,
        "text encoder (Gemma-2)": found.gemma2,
        "refiner": found.refiners,
        "refiner text (Gemma-3)": found.gemma3,
        "refiner connectors": found.connectors,
    }
    return {
        "path": str(folder),
        "stage1": [_stage1(found, file, default or sana_wm()) for file in found.stage1],
        "parts": {name: [_part(found, c) for c in components] for name, components in parts.items()},
        "loras": [str(path.relative_to(folder)) for path in found.loras],
        "preamble_words": None if found.preamble is None else len(found.preamble.split()),
        "missing": _missing(found),
        "damaged": check_download(folder) if verify else None,
    }


def lines(description: dict[str, Any]) -> list[str]:
    """Return a description as text for a terminal."""
    out = [str(description["path"])]
    for file in description["stage1"]:
        verdict = "fits" if file["misfit"] is None else f"does not fit: {file['misfit']}"
        amount = (
            f"{file['tensors']} tensors, {file['values'] / 1e9:.3f} B values, {file['bytes'] / 1e9:.2f} GB"
        )
        out.append(
            f"  stage 1: {file['file']}, {file['variant'] or 'no known variant'}, "
            f"{', '.join(file['dtypes'])}, {amount}; {verdict}"
        )
        out += [f"    warning: {warning}" for warning in file["warnings"]]
    for name, components in description["parts"].items():
        out += [f"  {name}: {part['folder']}, {part['bytes'] / 1e9:.2f} GB" for part in components]
    out += [f"  LoRA: {path}" for path in description["loras"]]
    if description["missing"]:
        out.append(f"  not here: {', '.join(description['missing'])}")
    if description["damaged"] is not None:
        out += [f"  damaged: {name}" for name in description["damaged"]] or [
            "  all downloaded files are whole"
        ]
    return out


def _stage1(found: ReleasedFolder, file: Stage1File, default: DiTConfig) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "file": str(file.path.relative_to(found.path)),
        "variant": file.variant,
        "worlds": [name for name, variant in RELEASED.items() if variant == file.variant],
        "layout": "diffusers" if file.is_diffusers else file.path.suffix.removeprefix("."),
        "tensors": 0,
        "values": 0,
        "bytes": 0,
        "dtypes": [],
        "warnings": [],
        "misfit": None,
    }
    try:
        entries = released_entries(file)
        facts["tensors"] = len(entries)
        facts["bytes"] = sum(part.stat().st_size for part in {entry.path for entry in entries.values()})
        facts["values"] = sum(math.prod(entry.shape) for entry in entries.values())
        facts["dtypes"] = sorted({str(entry.dtype).removeprefix("torch.") for entry in entries.values()})
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            check_stage1(file, config_of(file, default))
        facts["warnings"] = [str(warning.message) for warning in caught]
    except (ValueError, OSError) as error:
        facts["misfit"] = str(error)
    return facts


def _part(found: ReleasedFolder, component: Component) -> dict[str, Any]:
    files = [path for pattern in ("*.safetensors", "*.bin") for path in component.path.glob(pattern)]
    return {
        "folder": str(component.path.relative_to(found.path)),
        "bytes": sum(path.stat().st_size for path in files),
    }


def _missing(found: ReleasedFolder) -> list[str]:
    """Return what is needed to step without refiner and is not there."""
    needed = {
        "stage-1 weights": found.stage1,
        "LTX-2 autoencoder": found.vaes,
        "Gemma-2 text encoder": found.gemma2,
        "YAML with text_encoder.chi_prompt": found.preamble,
    }
    return [name for name, value in needed.items() if not value]
