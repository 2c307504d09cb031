"""Options shared by the tests."""

from __future__ import annotations

import dataclasses
import gc
import os
import resource
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
import torch

from wm_env.model.config import tiny
from wm_env.model.dit import DiT
from wm_env.model.embedded import EmbeddedConfig
from wm_env.model.refiner.tiny import TinyRefiner, TinyRefinerConfig
from wm_env.model.rollout_state import SamplerConfig
from wm_env.model.storage.checkpoint import save_checkpoint
from wm_env.model.vae.tiny import TinyVAE, TinyVAEConfig

if not torch.cuda.is_available():  # without a GPU, Triton kernels run in its interpreter; read at its import
    os.environ["TRITON_INTERPRET"] = "1"


def pytest_configure() -> None:
    """One thread: at the sizes of the tests a second one only spins, for minutes on a busy machine.

    And SIGINT as a terminal has it: a shell lets its background jobs ignore it, and their children too.
    """
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish() -> None:
    """Let no later collection of garbage look at what was imported: torch alone makes one take 0.2 s."""
    gc.collect()
    gc.freeze()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--golden",
        metavar="DIR",
        help="folder of golden fixtures for tests/parity; every file in it must be used and none skipped "
        "(default: ../shared/golden beside the repository, skipped where absent)",
    )
    parser.addoption(
        "--parity-report",
        metavar="FILE",
        help="write the errors that tests/parity measured to FILE (Markdown) and to a CSV file beside it",
    )


@pytest.fixture
def disk_with() -> Callable[[int], AbstractContextManager[None]]:
    """Return a block in which no file grows beyond a number of bytes, in this process and its children.

    The write after that raises `OSError`, as one on a full disk does.
    """

    @contextmanager
    def limited(size: int) -> Iterator[None]:
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    return limited


def _save_random_world(folder: Path, memory: bool) -> str:
    """Write a world of random weights with every part of the embedded ones, narrow; return its folder."""
    torch.manual_seed(0)
    config = EmbeddedConfig(
        dit=dataclasses.replace(tiny(5 * 8**2 if memory else 0), hidden=32, heads=2, depth=4),
        vae=TinyVAEConfig(),
        refiner=TinyRefinerConfig(width=8, blocks=1) if memory else None,
        sampler=SamplerConfig(),
        trained_steps=16,
    )
    parts: dict[str, torch.nn.Module] = {"dit": DiT(config.dit), "vae": TinyVAE(config.vae)}
    if config.refiner is not None:
        parts["refiner"] = TinyRefiner(config.refiner)
    generator = torch.Generator().manual_seed(1)
    tensors = {
        f"{part}.{name}": value + 0.02 * torch.randn(value.shape, generator=generator)
        for part, module in parts.items()
        for name, value in module.state_dict().items()
    }
    save_checkpoint(folder / "random.safetensors", tensors, {"world": config.to_dict()})
    return str(folder)


@pytest.fixture(scope="session")
def pure_world(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Folder of a random world on the plain path."""
    return _save_random_world(tmp_path_factory.mktemp("pure"), memory=False)


@pytest.fixture(scope="session")
def memory_world(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Folder of a random world with 3D memory and refiner."""
    return _save_random_world(tmp_path_factory.mktemp("memory"), memory=True)
