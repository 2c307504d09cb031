"""A snapshot of a file owns its bytes and knows what it is."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

import wm_env
from wm_env.snapshots import Snapshot

KEY = "wm_env.snapshot"


@pytest.fixture
def env() -> Any:
    env = gym.make("SanaWM-Twin-v0", task="pointnav").unwrapped
    env.reset(seed=1)
    env.step(1)
    return env


def rewritten(path: Path, change: Any, tensors: Any = lambda tensors: None) -> Path:
    """Write the snapshot at `path` anew with its description and its tensors changed by two functions."""
    with safe_open(path, "pt") as file:
        content = json.loads(file.metadata()[KEY])
        held = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    change(content)
    tensors(held)
    out = path.with_name("changed.safetensors")
    save_file(held, out, {KEY: json.dumps(content)})
    return out


def test_a_restored_episode_does_not_care_what_becomes_of_its_file(env: Any, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    env.snapshot().save(path)
    expected = [env.step(k)[0]["image"] for k in (1, 3)]
    env.restore(wm_env.load_snapshot(path))
    with open(path, "r+b") as file:
        file.write(b"\xff" * path.stat().st_size)
    os.truncate(path, 0)
    for k, frame in zip((1, 3), expected, strict=True):
        np.testing.assert_array_equal(env.step(k)[0]["image"], frame)


@pytest.mark.parametrize("part", range(8))
def test_a_flipped_bit_anywhere_is_seen(env: Any, tmp_path: Path, part: int) -> None:
    path = tmp_path / "a.safetensors"
    env.snapshot().save(path)
    whole = path.read_bytes()
    for at in range(part * len(whole) // 8, (part + 1) * len(whole) // 8, max(1, len(whole) // 97)):
        data = bytearray(whole)
        data[at] ^= 1 << (at % 8)
        path.write_bytes(data)
        with pytest.raises(ValueError, match=r"a\.safetensors"):
            wm_env.load_snapshot(path)


def test_values_that_are_not_finite_are_refused_and_a_distance_may_be_infinite(
    env: Any, tmp_path: Path
) -> None:
    moment = env.snapshot()
    assert bool(moment.tensors["task.metres"].isinf().any())  # not every place can be reached
    moment.save(tmp_path / "a.safetensors")
    wm_env.load_snapshot(tmp_path / "a.safetensors")
    for name, value in (("c2w", np.inf), ("c2w", np.nan), ("task.metres", np.nan)):
        tensors = {**moment.tensors, name: torch.full_like(moment.tensors[name], value)}
        dataclasses.replace(moment, tensors=tensors).save(tmp_path / "b.safetensors")
        with pytest.raises(ValueError, match=f"{name} holds values that are not finite"):
            wm_env.load_snapshot(tmp_path / "b.safetensors")


FACTS: list[tuple[str, Any, str]] = [
    ("steps", -1, "steps is -1"),
    ("steps", 2**63, "steps is 9223372036854775808"),
    ("steps", True, "steps is True"),
    ("steps", 2, "steps is 2; expected 1"),
    ("prompt", None, "prompt is None"),
    ("seed", -3, "seed is -3"),
    ("seed", 1.5, "seed is 1.5"),
    ("generator", [], "generator is"),
    ("generator", {"bit_generator": "MT19937"}, "generator: bit_generator is 'MT19937'"),
]


@pytest.mark.parametrize(("name", "value", "says"), FACTS)
def test_a_fact_that_cannot_be_is_named(env: Any, name: str, value: Any, says: str) -> None:
    moment = env.snapshot()
    before = env.state
    for facts in ({**moment.facts, name: value}, {k: v for k, v in moment.facts.items() if k != name}):
        with pytest.raises(ValueError, match=says if name in facts else f"{name} is missing"):
            env.restore(dataclasses.replace(moment, facts=facts))
    assert env.state is before


@pytest.mark.parametrize("path", [("inc",), ("state",)])
@pytest.mark.parametrize("value", [-1, 2**128, 1e40, None, "5"])
def test_a_generator_that_cannot_be_is_refused(env: Any, path: tuple[str, ...], value: Any) -> None:
    moment = env.snapshot()
    generator = json.loads(json.dumps(moment.facts["generator"]))
    generator["state"][path[0]] = value
    with pytest.raises(ValueError, match=f"generator: {path[0]} is"):
        env.restore(dataclasses.replace(moment, facts={**moment.facts, "generator": generator}))


DESCRIPTIONS: list[tuple[Any, str]] = [
    (lambda c: c.clear(), "format is missing"),
    (lambda c: c.update(format=99), "format is 99"),
    (lambda c: c.update(format=None), "format is None"),
    (lambda c: c.update(facts=[]), "facts is"),
    (lambda c: c.pop("config"), "config is missing"),
    (lambda c: c["config"].clear(), "world is missing"),
    (lambda c: c.pop("sha256"), "SHA-256"),
    (lambda c: c.update(format=1), "SHA-256"),  # a file that has a digest keeps to it
    (lambda c: c["facts"].update(steps=float("nan")), "not a finite number"),
]


@pytest.mark.parametrize(("change", "says"), DESCRIPTIONS)
def test_a_description_that_cannot_be_is_refused(env: Any, tmp_path: Path, change: Any, says: str) -> None:
    env.snapshot().save(tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match=says):
        wm_env.load_snapshot(rewritten(tmp_path / "a.safetensors", change))


def test_a_description_nested_too_deep_is_refused(env: Any, tmp_path: Path) -> None:
    moment = env.snapshot()
    save_file(
        {n: t.clone() for n, t in moment.tensors.items()},
        tmp_path / "a.safetensors",
        {KEY: '{"a":' * 100_000},
    )
    with pytest.raises(ValueError, match=r"nested too deep|JSON"):
        wm_env.load_snapshot(tmp_path / "a.safetensors")


def test_a_file_of_the_format_before_digests_is_read_with_a_warning(env: Any, tmp_path: Path) -> None:
    env.snapshot().save(tmp_path / "a.safetensors")

    def older(content: dict[str, Any]) -> None:
        content.pop("sha256")
        content["format"] = 1

    expected = env.step(1)[0]["image"]
    with pytest.warns(UserWarning, match="format 1, which has no SHA-256"):
        moment = wm_env.load_snapshot(rewritten(tmp_path / "a.safetensors", older))
    env.restore(moment)
    np.testing.assert_array_equal(env.step(1)[0]["image"], expected)


def test_a_digest_depends_on_every_name_type_shape_and_value_and_on_no_order() -> None:
    from wm_env.model.storage.facts import content_sha256

    def digest(facts: Mapping[str, Any], **tensors: torch.Tensor) -> str:
        return content_sha256(tensors, facts)

    a, b = torch.arange(6.0), torch.tensor([True, False])
    same = digest({"x": 1, "y": 2}, a=a, b=b)
    assert same == digest({"y": 2, "x": 1}, b=b, a=a)
    others = [
        digest({"x": 1}, a=a, b=b),
        digest({"x": 1, "y": 2}, a=a.reshape(2, 3), b=b),
        digest({"x": 1, "y": 2}, a=a.view(torch.int32), b=b),
        digest({"x": 1, "y": 2}, c=a, b=b),
        digest({"x": 1, "y": 2}, a=a.roll(1), b=b),
    ]
    assert len({same, *others}) == 6


def test_a_snapshot_of_facts_that_json_cannot_hold_is_not_written(env: Any, tmp_path: Path) -> None:
    moment = env.snapshot()
    odd = Snapshot(
        config=moment.config, facts={**moment.facts, "steps": float("nan")}, tensors=moment.tensors
    )
    with pytest.raises(ValueError, match=r"(?i)nan|JSON"):
        odd.save(tmp_path / "a.safetensors")
    assert not list(tmp_path.iterdir())
