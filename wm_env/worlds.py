"""From a name, a folder or an object to a `World`: one small class a family of worlds.

    load_world("tiny", dtype="bfloat16")          a preset or a checkpoint folder, and options of its family

A family knows its presets, which folders are its own, and its options, a frozen dataclass that refuses what
it does not know. Worlds are loaded once per process and options. Pickled, with an environment or alone, such
a world is its name, its options and the digest of its weights: it is loaded again where it arrives.
"""

from __future__ import annotations

import copyreg
import functools
import re
import weakref
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Protocol

from wm_env.model.embedded import DTYPES, EMBEDDED, REFINERS, embedded_vae, load_embedded
from wm_env.model.isolation import undisturbed
from wm_env.model.names import did_you_mean, lacking, unknown
from wm_env.model.placement import check_device
from wm_env.model.released.presets import (
    RELEASED,
    STEPPABLE,
    ReleasedSettings,
    load_released_world,
    released_name,
)
from wm_env.model.rollout import LearnedWorld
from wm_env.model.rollout_state import ABLATIONS, Ablation
from wm_env.model.scenes.detail import check_detail
from wm_env.model.storage.atomic import expanded
from wm_env.model.world import World, WorldSpec
from wm_env.twin import TwinWorld, twin_like

PRESETS = (*EMBEDDED, "twin", *STEPPABLE)
_VARIANT = re.compile(r"(?P<name>[^\[\]]+)\[(?P<option>[^\[\]]+)\]")  # how 0.1 wrote an option into a name


class Family(Protocol):
    """Worlds of one kind. what: its name in errors; options: dataclass of what they may be asked for."""

    what: str
    options: type

    def named(self, world: str) -> bool:
        """Return whether `world` is one of its presets."""
        ...

    def holds(self, folder: Path) -> bool:
        """Return whether a folder is a checkpoint of this family."""
        ...

    def load(self, world: str, options: Any, device: str, stamp: int) -> World:
        """Return the world; `stamp` (newest file time) makes a rewritten folder load afresh."""
        ...


@dataclass(frozen=True, kw_only=True)
class TinyOptions:
    """Options of the embedded worlds and of folders like them.

    dtype: "float32", or "bfloat16" for its products, faster in batches where the CPU has it.
    refiner: "default" for the world's own, "none", or "tiny" for a world that must have one.
    ablate: None, or a part to remove: "dit", "gdn_state" or "memory".
    """

    dtype: str = "float32"
    refiner: str = "default"
    ablate: Ablation | None = None

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise ValueError(unknown("dtype", self.dtype, DTYPES))
        if self.refiner not in REFINERS:
            raise ValueError(unknown("refiner of a tiny world", self.refiner, REFINERS))
        if self.ablate is not None and self.ablate not in ABLATIONS:
            raise ValueError(unknown("ablate", self.ablate, (None, *ABLATIONS)))


class TinyFamily:
    what: str = "a tiny world"
    options: type = TinyOptions

    def named(self, world: str) -> bool:
        return world in EMBEDDED

    def holds(self, folder: Path) -> bool:
        return any(folder.glob("*.safetensors"))

    def load(self, world: str, options: TinyOptions, device: str, stamp: int) -> World:
        return _tiny(world, options, device, stamp)


@dataclass(frozen=True, kw_only=True)
class TwinOptions:
    """Options of the ground-truth renderer.

    latents: whether it has latents to observe, those of the embedded `tiny` world.
    detail: strength in [0, 1] of a fine texture on all surfaces, by which features can be tracked.
    """

    latents: bool = False
    detail: float = 0.0

    def __post_init__(self) -> None:
        check_detail(self.detail)


class TwinFamily:
    what: str = "the twin"
    options: type = TwinOptions

    def named(self, world: str) -> bool:
        return world == "twin"

    def holds(self, folder: Path) -> bool:
        return False

    def load(self, world: str, options: TwinOptions, device: str, stamp: int) -> World:
        return _twin(device, options)


class ReleasedFamily:
    what: str = "a released world"
    options: type = ReleasedSettings

    def named(self, world: str) -> bool:
        return world in RELEASED

    def holds(self, folder: Path) -> bool:
        return released_name(folder) is not None

    def load(self, world: str, options: ReleasedSettings, device: str, stamp: int) -> World:
        if world not in RELEASED:
            folder = Path(world)
            name = released_name(folder)
            assert name is not None  # `holds` has found it
            return _released(name, device, replace(options, weights=str(folder.resolve())))
        return _released(world, device, options)


FAMILIES: tuple[Family, ...] = (TinyFamily(), TwinFamily(), ReleasedFamily())


@undisturbed()
def load_world(name: str | Path, *, device: str = "cpu", **options: Any) -> World:
    """Return the world of a preset or a checkpoint folder, loaded once per process and options.

    name: one of `PRESETS`, or a folder that `wm-env train`, `wm-env download` or `export_world` made. device:
    a torch device name. options: those of its family, `TinyOptions`, `TwinOptions` or `ReleasedSettings`.
    Raises `ValueError` for an unknown name, device or option, `FileNotFoundError` for missing weights, before
    any weight is read.
    """
    check_device(device)
    world = str(expanded(name)) if str(name).startswith("~") else str(name)
    _refuse_variant(world)
    family = _family_of(world)
    chosen = family.options(**_known(world, family, options))
    if family.named(world):
        loaded = family.load(world, chosen, device, 0)
    else:
        world = str(Path(world).resolve())
        stamp = max((file.stat().st_mtime_ns for file in Path(world).iterdir()), default=0)
        loaded = family.load(world, chosen, device, stamp)
    _remember(loaded, world, device, dict(options))
    return loaded


@undisturbed()
def resolve_world(world: Any, *, device: str = "cpu", **options: Any) -> World:
    """Return `load_world` of a name or folder, or a `World` object as it is, which takes no options."""
    if isinstance(world, str | Path):
        return load_world(world, device=device, **options)
    check_device(device)
    if isinstance(world, type) or not isinstance(world, World):
        what = f"a preset ({', '.join(PRESETS)}), a checkpoint folder or an object that is a wm_env.World"
        raise ValueError(lacking("world", world, World, what))
    if not isinstance(world.spec, WorldSpec):
        raise ValueError(f"world.spec is a {type(world.spec).__name__}; expected a wm_env.WorldSpec")
    if options:
        raise ValueError(
            f"a World object is used as it is and takes no options; got {', '.join(sorted(options))} "
            "(they go with a preset or a folder)"
        )
    return world


def option_names(world: str | Path) -> tuple[str, ...]:
    """Return the names of the options that a preset or folder takes."""
    return tuple(field.name for field in fields(_family_of(str(world)).options))


@undisturbed()
def twin_of(world: World, device: str = "cpu") -> TwinWorld:
    """Return the twin beside a world: its frame size, chunk length and speeds, and its latents if any."""
    codec = world.vae if isinstance(world, LearnedWorld) else None
    return twin_like(world.spec, device, codec)


def _family_of(world: str) -> Family:
    for family in FAMILIES:
        if family.named(world):
            return family
    folder = Path(world)
    if folder.is_dir():
        # without any weights it is a tiny folder, whose loader says what is missing
        return next((family for family in FAMILIES if family.holds(folder)), FAMILIES[0])
    raise ValueError(
        f"unknown world {world!r}: neither a preset ({', '.join(PRESETS)}) nor a checkpoint folder"
        f"{did_you_mean(world, PRESETS)}"
    )


def _known(world: str, family: Family, options: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return `options`, or raise `ValueError` where the family takes none of such a name."""
    takes = [field.name for field in fields(family.options)]
    odd = sorted(set(options) - set(takes))
    if odd:
        raise ValueError(
            f"world {world!r} is {family.what} and takes {', '.join(takes)}; got {', '.join(odd)}"
            f"{did_you_mean(odd[0], takes)}"
        )
    return options


def _refuse_variant(world: str) -> None:
    """Raise `ValueError` for a name with an option inside, as 0.1 took it, and say what to write."""
    match = _VARIANT.fullmatch(world)
    if match is None or Path(world).exists():
        return
    key, _, value = match["option"].rpartition("=")
    raise ValueError(
        f"options are no longer part of a world's name: write world={match['name']!r} with "
        f"{key or 'dtype'}={value!r} instead of {world!r}"
    )


_origins: weakref.WeakKeyDictionary[World, tuple[str, str, dict[str, Any]]] = weakref.WeakKeyDictionary()


def _remember(world: World, name: str, device: str, options: dict[str, Any]) -> None:
    """Keep where a world came from, so that pickling it sends that and not its weights."""
    copyreg.pickle(type(world), _reduced)  # type: ignore[arg-type]
    _origins[world] = (name, device, options)


def _reduced(world: World) -> Any:
    """Return how a world is pickled: as what `load_world` was asked for, or else as objects are."""
    if world not in _origins:
        return object.__reduce_ex__(world, 4)
    return _loaded_again, (*_origins[world], world.spec.weights_sha256)


def _loaded_again(name: str, device: str, options: dict[str, Any], sha256: str | None) -> World:
    """Return the world of a pickle; raise `ValueError` where the weights are others here."""
    world = load_world(name, device=device, **options)
    if world.spec.weights_sha256 != sha256:
        raise ValueError(
            f"world {name!r} has other weights here ({str(world.spec.weights_sha256)[:12]}) than where it "
            f"was pickled ({str(sha256)[:12]}); install the same"
        )
    return world


@functools.lru_cache(maxsize=8)
def _tiny(world: str, options: TinyOptions, device: str, stamp: int) -> World:
    return load_embedded(
        world, device=device, ablate=options.ablate, dtype=options.dtype, refiner=options.refiner
    )


@functools.lru_cache(maxsize=8)
def _twin(device: str, options: TwinOptions) -> World:
    codec = embedded_vae("tiny")[0].to(device) if options.latents else None
    return TwinWorld(device=device, codec=codec, detail=options.detail)


@functools.lru_cache(maxsize=2)  # tens of GB each
def _released(name: str, device: str, settings: ReleasedSettings) -> World:
    if name not in STEPPABLE:
        raise ValueError(
            f"world {name!r} needs the whole camera path in advance and cannot be stepped; "
            f"use `wm-env record --world {name} --trajectory FILE`"
        )
    return load_released_world(name, settings, device=device)
