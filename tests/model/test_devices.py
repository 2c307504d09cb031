"""A device that cannot be used is one sentence, whatever its name and whoever is asked for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from wm_env.cli import BAD_INPUT, main
from wm_env.env import SanaWMEnv
from wm_env.model.embedded import load_embedded
from wm_env.model.placement import check_device
from wm_env.twin import TwinWorld
from wm_env.vector import SanaWMVectorEnv
from wm_env.worlds import load_world

NEVER = (
    "mps",
    "mps:0",
    "meta",
    "xla",
    "hip",
    "vulkan",
    "privateuseone",
    "gpu",
    "cpu:1",
    "cuda:99",
    "",
    "cuda:-1",
)
NEVER += ("cuda:x", "CPU", " cpu", "cpu " * 1000)
NO_NAMES: tuple[Any, ...] = (None, 0, 1.5, b"cpu", ["cpu"])


@pytest.mark.parametrize("device", NEVER, ids=range(len(NEVER)))
def test_a_device_that_cannot_be_is_refused_in_one_sentence(device: str) -> None:
    with pytest.raises(ValueError, match="device=") as error:
        check_device(device)
    assert len(str(error.value)) < 200 and "\n" not in str(error.value)


@pytest.mark.parametrize("device", NO_NAMES, ids=repr)
def test_what_is_no_name_of_a_device_is_refused(device: Any) -> None:
    with pytest.raises(ValueError, match="expected a name such as 'cpu'"):
        check_device(device)


@pytest.mark.parametrize("kind", ["cuda", "xpu"])
def test_a_gpu_is_taken_up_to_the_number_that_there_are(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module = getattr(torch, kind)
    monkeypatch.setattr(module, "is_available", lambda: True)
    monkeypatch.setattr(module, "device_count", lambda: 2)
    for name in (kind, f"{kind}:0", f"{kind}:1"):
        check_device(name)
    with pytest.raises(ValueError, match="finds 2 of them, the last is 1"):
        check_device(f"{kind}:2")
    monkeypatch.setattr(module, "is_available", lambda: False)
    with pytest.raises(ValueError, match=f"torch finds no {kind.upper()} device; use device='cpu'"):
        check_device(kind)


def test_the_cpu_is_there_by_each_of_its_names() -> None:
    for name in ("cpu", "cpu:0", torch.device("cpu")):
        check_device(name)


MAKERS: list[Callable[[str], Any]] = [
    lambda device: SanaWMEnv(world="twin", device=device),
    lambda device: SanaWMVectorEnv(2, world="tiny-pure", device=device),
    lambda device: load_world("twin", device=device),
    lambda device: TwinWorld(device=device),
    lambda device: load_embedded("tiny-pure", device=device),
]


@pytest.mark.parametrize("make", MAKERS, ids=range(len(MAKERS)))
@pytest.mark.parametrize("device", ["mps", "meta", "cuda:99"])
def test_everything_that_takes_a_device_refuses_alike(make: Callable[[str], Any], device: str) -> None:
    with pytest.raises(ValueError, match=f"device='{device}'"):
        make(device)


def test_policies_refuse_alike() -> None:
    policies = pytest.importorskip("wm_env.agents.policies", reason="needs the extra rl")
    with pytest.raises(ValueError, match="device='mps'"):
        policies.load_policy("objectnav", "mps")


@pytest.mark.parametrize("words", ["record --out a.mp4", "bench drift --world twin --out a", "info", "play"])
def test_commands_refuse_in_one_line(words: str, capsys: Any) -> None:
    for device in ("mps", "meta", "xpu:7"):
        with pytest.raises(SystemExit) as ended:
            main([*words.split(), "--device", device])
        said = capsys.readouterr().err.strip()
        assert ended.value.code == BAD_INPUT and f"device='{device}'" in said and "\n" not in said
