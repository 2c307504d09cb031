"""Random components of the released pipelines in small sizes, written once per session."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))  # released_parts: importlib mode puts no folder on the path

from released_parts import REFINER, VAE, shaken, write_component, write_stage1, write_text_model


@pytest.fixture(scope="session")
def vae_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A causal LTX-2 autoencoder of random weights."""
    from diffusers import AutoencoderKLLTX2Video

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("vae") / "vae"
    weights = shaken(AutoencoderKLLTX2Video(**VAE), 1)
    weights["latents_std"] = 1 + weights["latents_std"].abs()
    write_component(folder, {"_class_name": "AutoencoderKLLTX2Video", **VAE}, weights)
    return folder


@pytest.fixture(scope="session")
def refiner_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An LTX-2 transformer of random weights, audio side included."""
    from diffusers import LTX2VideoTransformer3DModel

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("refiner") / "transformer"
    weights = shaken(LTX2VideoTransformer3DModel(**REFINER), 2)
    write_component(folder, {"_class_name": "LTX2VideoTransformer3DModel", **REFINER}, weights)
    return folder


@pytest.fixture(scope="session")
def shared_parts(tmp_path_factory: pytest.TempPathFactory, vae_folder: Path, refiner_folder: Path) -> Path:
    """Everything but stage 1: autoencoder, Gemma-2, refiner with Gemma-3 and connectors, YAML."""
    from diffusers.pipelines.ltx2.connectors import LTX2TextConnectors
    from transformers import Gemma2Config, Gemma2Model, Gemma3TextConfig, Gemma3TextModel

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("parts")
    small = {"vocab_size": 40, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8}
    gemma2 = Gemma2Config(hidden_size=12, intermediate_size=16, num_hidden_layers=1, **small)
    write_text_model(folder / "text_encoder", Gemma2Model(gemma2))
    gemma3 = Gemma3TextConfig(hidden_size=24, intermediate_size=16, num_hidden_layers=1, **small)
    write_text_model(folder / "refiner" / "text_encoder", Gemma3TextModel(gemma3))
    connectors = {
        "caption_channels": 24,
        "text_proj_in_factor": 2,
        "video_connector_num_attention_heads": 2,
        "video_connector_attention_head_dim": 12,
        "video_connector_num_layers": 1,
        "audio_connector_num_attention_heads": 2,
        "audio_connector_attention_head_dim": 12,
        "audio_connector_num_layers": 1,
    }
    write_component(
        folder / "refiner" / "connectors",
        {"_class_name": "LTX2TextConnectors", **connectors},
        shaken(LTX2TextConnectors(**connectors), 3),
    )
    shutil.copytree(vae_folder, folder / "vae")
    shutil.copytree(refiner_folder, folder / "refiner" / "transformer")
    (folder / "config.yaml").write_text("text_encoder:\n  chi_prompt:\n  - describe a\n  - 'kitchen :'\n")
    return folder


@pytest.fixture(scope="session")
def pipelines(tmp_path_factory: pytest.TempPathFactory, shared_parts: Path) -> Callable[[str], Path]:
    """Return the folder of a whole random pipeline of a variant."""
    made: dict[str, Path] = {}

    def folder(variant: str) -> Path:
        if variant not in made:
            made[variant] = tmp_path_factory.mktemp("released") / variant
            shutil.copytree(shared_parts, made[variant])
            write_stage1(made[variant] / "transformer", variant)
        return made[variant]

    return folder
