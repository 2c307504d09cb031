"""Random components of the released pipelines in small sizes, written once per session."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))  # released_parts: importlib mode puts no folder on the path

from released_parts import REFINER, VAE, shaken, write_component


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
