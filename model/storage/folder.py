"""What a folder of released weights holds, found by content rather than by guessed paths.

stage 1       dit/sana_wm_*.safetensors, sana_dit/model.pt, or transformer/ in the diffusers layout
autoencoder   config.json with _class_name AutoencoderKLLTX2Video
refiner       config.json with _class_name LTX2VideoTransformer3DModel (or the SANA-WM one), connectors
text          config.json with model_type gemma2 (stage 1) or gemma3 (refiner)
settings      a YAML file with text_encoder.chi_prompt, the preamble of every prompt
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

Variant = Literal["bidirectional", "chunk-causal", "streaming"]
VARIANTS: tuple[Variant, ...] = get_args(Variant)

STAGE1_CLASS = "SanaWMTransformer3DModel"
VAE_CLASS = "AutoencoderKLLTX2Video"
REFINER_CLASSES = ("LTX2VideoTransformer3DModel", "SanaWMLTX2RefinerTransformer3DModel")
CONNECTORS_CLASS = "LTX2TextConnectors"
_FFN_VARIANTS: dict[str, Variant] = {
    "GLUMBConvTemp": "bidirectional",
    "ChunkGLUMBConvTemp": "chunk-causal",
    "CachedGLUMBConvTemp": "streaming",
}
_DEPTH = 4  # folders below the given one that are looked into
_WEIGHT_NAMES = (
    "diffusion_pytorch_model.safetensors.index.json",
    "diffusion_pytorch_model.safetensors",
    "model.safetensors.index.json",
    "model.safetensors",
)


@dataclass(frozen=True, kw_only=True)
class Component:
    """A folder with a config.json: `path`, and the parsed `config`."""

    path: Path
    config: dict[str, Any] = field(repr=False)

    def weights(self) -> Path:
        """Return its weight file (or index); raise `FileNotFoundError` naming what was looked for."""
        for name in _WEIGHT_NAMES:
            if (self.path / name).is_file():
                return self.path / name
        raise FileNotFoundError(f"{self.path} has a config.json but none of {', '.join(_WEIGHT_NAMES)}")


@dataclass(frozen=True, kw_only=True)
class Stage1File:
    """The transformer's weights: file (or index), variant, and its config where the layout has one."""

    path: Path
    variant: Variant | None
    config: dict[str, Any] | None = field(default=None, repr=False)

    @property
    def is_diffusers(self) -> bool:
        return self.config is not None


@dataclass(frozen=True, kw_only=True)
class ReleasedFolder:
    """Everything found below `path`; lists are in path order, empty where nothing was found."""

    path: Path
    stage1: tuple[Stage1File, ...]
    vaes: tuple[Component, ...]
    refiners: tuple[Component, ...]
    connectors: tuple[Component, ...]
    gemma2: tuple[Component, ...]
    gemma3: tuple[Component, ...]
    loras: tuple[Path, ...]
    preamble: str | None


def look_into(path: Path) -> ReleasedFolder:
    """Return what is below a folder; nothing large is read. Raises `FileNotFoundError` without a folder."""
    if not path.is_dir():
        raise FileNotFoundError(f"there is no folder {path}")
    components = [_component(config) for config in _files(path, "config.json")]
    return ReleasedFolder(
        path=path,
        stage1=tuple(_stage1_files(path, components)),
        vaes=_of_class(components, VAE_CLASS),
        refiners=_of_class(components, *REFINER_CLASSES),
        connectors=_of_class(components, CONNECTORS_CLASS),
        gemma2=tuple(c for c in components if c.config.get("model_type") == "gemma2"),
        gemma3=tuple(c for c in components if str(c.config.get("model_type", "")).startswith("gemma3")),
        loras=tuple(p for p in _files(path, "*.safetensors") if "lora" in p.name.lower()),
        preamble=_preamble(path),
    )


def stage1_files(path: Path) -> tuple[Stage1File, ...]:
    """Return the stage-1 files below a folder alone; empty where there are none."""
    return tuple(_stage1_files(path, [_component(config) for config in _files(path, "config.json")]))


def choose_stage1(found: ReleasedFolder, variant: Variant) -> Stage1File:
    """Return the stage-1 file of a variant; raise where there is none or only another variant's."""
    matching = [file for file in found.stage1 if file.variant == variant]
    if len(matching) == 1:
        return matching[0]
    if matching:
        names = [str(file.path.relative_to(found.path)) for file in matching]
        raise ValueError(f"{found.path} holds several {variant} checkpoints {names}; keep one")
    if not found.stage1:
        raise FileNotFoundError(
            f"{found.path} holds no stage-1 weights: expected {_EXPECTED[variant]}; get them with "
            f"`wm-env download sana-wm-{variant} --to {found.path}`"
        )
    other = [f"{file.path.relative_to(found.path)} ({file.variant or 'unknown'})" for file in found.stage1]
    raise ValueError(
        f"{found.path} holds no {variant} checkpoint but {', '.join(other)}; the variants share their keys "
        f"and are told apart by name: expected {_EXPECTED[variant]}"
    )


def only(components: tuple[Component, ...], what: str, folder: Path) -> Component:
    """Return the only component of a kind; raise naming what is missing or doubled."""
    if len(components) == 1:
        return components[0]
    if not components:
        raise FileNotFoundError(f"{folder} holds no {what}")
    raise ValueError(f"{folder} holds several: {what} in {[str(c.path) for c in components]}; keep one")


_EXPECTED: dict[Variant, str] = {
    "bidirectional": "dit/sana_wm_1600m_720p.safetensors, or transformer/ in the diffusers layout",
    "chunk-causal": "dit/sana_wm_chunk_causal_1600m_720p.safetensors",
    "streaming": "sana_dit/model.pt (or a file with 'streaming' in its name)",
}


def _files(path: Path, pattern: str) -> list[Path]:
    found = (file for depth in range(_DEPTH) for file in path.glob("*/" * depth + pattern))
    hidden = (".", "__MACOSX")  # and what other systems leave beside files
    return sorted(
        file
        for file in found
        if file.is_file() and not any(p.startswith(hidden) for p in file.relative_to(path).parts)
    )


def _component(config: Path) -> Component:
    try:
        content = json.loads(config.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{config} is not JSON: {error}") from error
    return Component(path=config.parent, config=content if isinstance(content, dict) else {})


def _of_class(components: list[Component], *names: str) -> tuple[Component, ...]:
    return tuple(c for c in components if c.config.get("_class_name") in names)


def _stage1_files(path: Path, components: list[Component]) -> list[Stage1File]:
    diffusers = [
        Stage1File(path=c.weights(), variant=_FFN_VARIANTS.get(c.config.get("ffn_type", "")), config=c.config)
        for c in _of_class(components, STAGE1_CLASS)
    ]
    pickles = [
        Stage1File(path=file, variant=_variant_of_name(file) or "streaming")
        for file in _files(path, "model.pt")
    ]
    owned = {c.path for c in components}
    plain = [
        Stage1File(path=file, variant=_variant_of_name(file))
        for pattern in ("sana_wm*.safetensors", "sana_wm*.safetensors.index.json", "sana_wm*.pt")
        for file in _files(path, pattern)
        if file.parent not in owned
    ]
    sharded = {file.path.name.removesuffix(".index.json") for file in plain if file.path.suffix == ".json"}
    shards = [file for file in plain if "-of-" in file.path.stem or file.path.name in sharded]
    return [*diffusers, *pickles, *(file for file in plain if file not in shards)]


def _variant_of_name(file: Path) -> Variant | None:
    """Return the variant a file name states; the plain released stem is the bidirectional model."""
    name = f"{file.parent.name}/{file.name}".lower()
    if "streaming" in name:
        return "streaming"
    if "chunk_causal" in name or "chunk-causal" in name:
        return "chunk-causal"
    return "bidirectional" if "sana_wm_1600m" in name or "bidirectional" in name else None


def _preamble(path: Path) -> str | None:
    """Return text_encoder.chi_prompt of the first YAML file that has one, its lines joined."""
    files = [*_files(path, "*.yaml"), *_files(path, "*.yml")]
    if not files:
        return None
    try:
        import yaml
    except ImportError as error:
        raise ImportError(
            f"reading {files[0]} needs PyYAML; install it with `pip install 'wm-env[released]'`"
        ) from error
    for file in files:
        try:
            content = yaml.safe_load(file.read_text(encoding="utf-8"))
        except (UnicodeDecodeError, yaml.YAMLError) as error:
            raise ValueError(f"{file} is not YAML: {' '.join(str(error).split())}") from error
        section = content.get("text_encoder") if isinstance(content, dict) else None
        lines = section.get("chi_prompt") if isinstance(section, dict) else None
        if lines:
            return lines if isinstance(lines, str) else "\n".join(str(line) for line in lines)
    return None
