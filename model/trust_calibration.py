"""A calibration on disk: what turns the signals of one world's steps into probabilities. JSON, no pickle.

    NAME.safetensors      weights
    NAME.trust.json       this file, bound to them by their SHA-256

Written by `wm-env trust calibrate`, read strictly: a calibration of other weights or options is refused, and
so is every entry that cannot be.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wm_env.model.embedded import EMBEDDED, world_path
from wm_env.model.storage.atomic import expanded, write_text
from wm_env.model.storage.facts import check_fact, content_sha256, number, read_json, shown, whole
from wm_env.model.surprise_null import SurpriseNull
from wm_env.model.trust_model import LARGEST, TrustModel
from wm_env.model.world import WorldSpec

FORMAT = 1
SUFFIX = ".trust.json"
PRECISION = "dtype"  # the option of a world that a calibration does not depend on
_SHA256 = 64


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """What a world's signals mean.

    world, options, weights_sha256: whose signals. made: how it came about, for people. appearance: the
    probability that the newest frame's RMS error is within a bound (grey levels). place: that its depth is,
    mean |log| (None where no truth had depth). cells: the first for a cell of 8 x 8 pixels (None where a
    world has no signals of cells). start_limit: autoencoder error (grey levels) that 99 of 100 starts of the
    training scenes stay below; None without. surprise: the null of denoising errors; None without.
    """

    world: str
    options: Mapping[str, str]
    weights_sha256: str
    made: Mapping[str, Any]
    appearance: TrustModel
    place: TrustModel | None = None
    cells: TrustModel | None = None
    start_limit: float | None = None
    surprise: SurpriseNull | None = None

    def to_json(self) -> dict[str, Any]:
        """Return what goes into JSON."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        parts = {
            name: value.to_json() if isinstance(value, TrustModel | SurpriseNull) else value
            for name, value in values.items()
        }
        return {"format": FORMAT, **parts, "options": dict(self.options), "made": dict(self.made)}

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Calibration:
        """Return the calibration that `to_json` wrote; `ValueError` names the first entry that cannot be."""
        known = ["format", *(field.name for field in dataclasses.fields(cls))]
        odd = sorted(set(found) - set(known))
        if odd:
            raise ValueError(f"{odd[0]!r} is unknown; known are {', '.join(known)}")
        check_fact(found, "format", lambda x: whole(x, FORMAT, FORMAT), f"{FORMAT}, what this reads")
        check_fact(found, "world", lambda x: isinstance(x, str), "the name of a world")
        check_fact(found, "weights_sha256", _is_digest, "a SHA-256, 64 hexadecimal digits")
        check_fact(found, "options", _texts, "an object of texts")
        check_fact(found, "made", lambda x: isinstance(x, dict), "an object")
        check_fact(found, "start_limit", lambda x: x is None or number(x, 0, LARGEST), "a number or null")
        return cls(
            world=found["world"],
            options=dict(found["options"]),
            weights_sha256=found["weights_sha256"],
            made=dict(found["made"]),
            appearance=_part(found, "appearance", TrustModel.from_json),
            place=_part_or_none(found, "place", TrustModel.from_json),
            cells=_part_or_none(found, "cells", TrustModel.from_json),
            start_limit=found["start_limit"],
            surprise=_part_or_none(found, "surprise", SurpriseNull.from_json),
        )

    def digest(self) -> str:
        """Return the SHA-256 of all numbers, whenever and wherever they were made."""
        numbers = {name: value for name, value in self.to_json().items() if name != "made"}
        return content_sha256({}, numbers)

    def save(self, path: str | Path, *, overwrite: bool = True) -> None:
        """Write the file, whole or not at all."""
        text = json.dumps(self.to_json(), indent=1, allow_nan=False) + "\n"
        write_text(expanded(path), text, overwrite=overwrite)

    def check_world(self, spec: WorldSpec, source: str) -> None:
        """Raise `ValueError` where this is the calibration of other weights, or of other options."""
        if self.weights_sha256 != spec.weights_sha256:
            own = "no weights" if spec.weights_sha256 is None else f"weights {spec.weights_sha256[:12]}..."
            raise ValueError(
                f"the calibration {source} is of weights {self.weights_sha256[:12]}..., but world "
                f"{spec.name!r} has {own}; make one with {command(spec.name)}"
            )
        mine, theirs = ({**one, PRECISION: ""} for one in (self.options, spec.options))
        if mine != theirs:
            raise ValueError(
                f"the calibration {source} is of {spec.name} with options {dict(self.options)}, not "
                f"{dict(spec.options)}; leave them out, or give calibration= of a file made with them"
            )


def command(world: str) -> str:
    """Return the command that makes a calibration."""
    return f"`wm-env trust calibrate --world {world} --out NAME{SUFFIX}`"


def load_calibration(path: str | Path) -> Calibration:
    """Return the calibration that a file holds; `ValueError` or `FileNotFoundError` in one sentence."""
    source = expanded(path)
    if not source.is_file():
        raise FileNotFoundError(f"the calibration file {shown(str(path), 400)} does not exist")
    try:
        return Calibration.from_json(read_json(source))
    except ValueError as error:
        raise ValueError(f"{str(path)!r} is not a usable calibration: {error}") from error


def calibration_path(world: str | Path) -> Path | None:
    """Return where the calibration of an embedded preset or of a checkpoint folder is; None of others."""
    if str(world) not in EMBEDDED and not expanded(world).is_dir():
        return None
    try:
        weights = world_path(world)
    except FileNotFoundError:
        return None
    return weights.with_name(weights.stem + SUFFIX)


def check_not_true(spec: WorldSpec) -> None:
    """Raise `ValueError` for a renderer: there is nothing to calibrate."""
    if spec.sees_scene:
        raise ValueError(f"world {spec.name!r} is a renderer, what it shows is true: leave trust out")


def find_calibration(world: Any, spec: WorldSpec, given: str | Path | None = None) -> Calibration:
    """Return the calibration of a world: the file `given`, or the one beside its weights.

    world: preset, folder or `World`, as an environment is given it; spec: of the loaded one. An object with
    the weights of a shipped world has the shipped calibration. Raises `FileNotFoundError` saying how to make
    one, and `ValueError` for one of other weights and for a renderer.
    """
    check_not_true(spec)
    path = _where(world, spec, given)
    if path is None:
        raise FileNotFoundError(
            f"world {spec.name!r} has no calibration of trust; make one with {command(spec.name)} and give "
            "it as calibration=FILE, or put it beside the weights"
        )
    found = load_calibration(path)
    found.check_world(spec, repr(str(path)))
    return found


def known_calibration(world: Any, spec: WorldSpec, given: str | Path | None = None) -> Calibration | None:
    """Return the same, None where there is none that fits."""
    try:
        return find_calibration(world, spec, given)
    except (FileNotFoundError, ValueError):
        return None


def _where(world: Any, spec: WorldSpec, given: str | Path | None) -> Path | None:
    if given is not None:
        return expanded(given)
    named = str(world) if isinstance(world, str | Path) else spec.name if spec.name in EMBEDDED else None
    path = None if named is None else calibration_path(named)
    return path if path is not None and path.is_file() else None


def _is_digest(value: Any) -> bool:
    return isinstance(value, str) and len(value) == _SHA256 and not set(value) - set("0123456789abcdef")


def _texts(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(one, str) for one in value.values())


def _part(found: Mapping[str, Any], name: str, read: Callable[[Mapping[str, Any]], Any]) -> Any:
    inner = check_fact(found, name, lambda x: isinstance(x, dict), "an object")
    try:
        return read(inner)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def _part_or_none(found: Mapping[str, Any], name: str, read: Callable[[Mapping[str, Any]], Any]) -> Any:
    if name in found and found[name] is None:
        return None
    return _part(found, name, read)
