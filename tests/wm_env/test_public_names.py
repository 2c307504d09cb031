"""What `wm_env` offers by name, and what it says of names that are gone."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import subprocess
import sys
import typing
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

import wm_env
from wm_env.config import EnvSettings
from wm_env.env import SanaWMEnv
from wm_env.model.training.table import preset
from wm_env.moved import MOVED
from wm_env.parallel import parallel_env
from wm_env.sb3 import SanaWMVecEnv
from wm_env.snapshots import Snapshot
from wm_env.vector import SanaWMVectorEnv
from wm_env.worlds import FAMILIES, load_world, option_names

SOURCE = Path(wm_env.__file__).read_text()


def test_dir_and_star_show_the_public_names_and_every_one_has_a_docstring() -> None:
    assert dir(wm_env) == sorted(wm_env.__all__)
    for name in wm_env.__all__:
        assert inspect.getdoc(getattr(wm_env, name)), f"{name} has no docstring"
    assert all(name in (wm_env.__doc__ or "") for name in wm_env.__all__ if name != "Snapshot")


def test_editors_see_the_names_that_are_loaded_lazily() -> None:
    (block,) = [
        node
        for node in ast.parse(SOURCE).body
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
    ]
    seen = {
        alias.asname: statement.module
        for statement in block.body
        if isinstance(statement, ast.ImportFrom)
        for alias in statement.names
    }
    assert seen == wm_env._HOMES and sorted(seen) == sorted(wm_env.__all__)


def test_an_unknown_name_is_answered_with_those_there_are() -> None:
    with pytest.raises(AttributeError, match=r"'load_snapshots'; it has .*load_snapshot"):
        wm_env.load_snapshots  # noqa: B018


def test_the_imports_are_those_of_the_module_alone() -> None:
    code = "import sys, wm_env; print(sorted(m for m in sys.modules if m.split('.')[0] == 'torch'))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert out.stdout.strip() == "[]"


@pytest.mark.parametrize("old", MOVED)
def test_importing_a_module_of_the_last_version_says_where_it_is(old: str) -> None:
    new = MOVED[old].split(" ")[0]
    assert importlib.import_module(new)
    with pytest.raises(ModuleNotFoundError, match=f"{old} is now {new}"):
        importlib.import_module(old)


def test_a_moment_of_a_wrapped_environment_is_kept_restored_and_branched(memory_world: str) -> None:
    env = gym.make("SanaWM-v0", world=memory_world, max_episode_steps=5)
    env.reset(seed=0)
    env.step(1)
    moment = wm_env.snapshot(env)
    assert isinstance(moment, Snapshot) and moment.steps == 1
    after = env.step(4)[0]
    for _ in range(3):
        *_, truncated, _ = env.step(1)
    assert truncated
    wm_env.restore(env, moment)
    again, *_, truncated, _ = env.step(4)
    assert np.array_equal(after, again) and not truncated, "time is rewound too"
    wm_env.restore(env, moment)
    futures = wm_env.branch(env, 2, noise="shared")
    both, *_ = futures.step([4, 4])
    # batch size is part of exactness: two equal futures are equal to each other, and near the single one
    assert np.array_equal(both[0], both[1])
    assert np.abs(both[0].astype(int) - after).mean() < 1


@pytest.mark.parametrize("call", [wm_env.snapshot, lambda env: wm_env.branch(env, 2)])
def test_other_environments_have_no_snapshots(call: Any) -> None:
    with pytest.raises(TypeError, match="has no snapshots"):
        call(gym.make("CartPole-v1"))


def test_restoring_what_is_no_snapshot_is_refused_before_anything_changes(memory_world: str) -> None:
    env = gym.make("SanaWM-v0", world=memory_world)
    with pytest.raises(TypeError, match=r"takes a Snapshot, .*not a str"):
        wm_env.restore(env, "moment.safetensors")  # type: ignore[arg-type]
    assert not env.unwrapped.in_progress


def test_a_snapshot_of_the_last_version_goes_on(pure_world: str, tmp_path: Path) -> None:
    """It wrote options into the world's name: "random[bfloat16]"."""
    env = gym.make("SanaWM-v0", world=pure_world, dtype="bfloat16")
    env.reset(seed=0)
    now = wm_env.snapshot(env)
    assert now.config["world"] == "random" and now.config["options"] == {"dtype": "bfloat16"}
    config = {key: value for key, value in now.config.items() if key != "options"}
    old = dataclasses.replace(now, config={**config, "world": "random[bfloat16]"})
    old.save(tmp_path / "old.safetensors")
    expected = env.step(1)[0]
    wm_env.restore(env, wm_env.load_snapshot(tmp_path / "old.safetensors"))
    assert np.array_equal(env.step(1)[0], expected)
    with pytest.raises(ValueError, match="options"):
        wm_env.restore(
            gym.make("SanaWM-v0", world=pure_world), wm_env.load_snapshot(tmp_path / "old.safetensors")
        )


@pytest.mark.parametrize(
    "make",
    [
        lambda **settings: gym.make("SanaWM-v0", **settings),
        lambda **settings: gym.make_vec("SanaWM-v0", num_envs=2, **settings),
        lambda **settings: SanaWMVecEnv(2, **settings),
        lambda **settings: parallel_env("multi_camera", **settings),
        lambda **settings: parallel_env(**settings),
    ],
    ids=["make", "make_vec", "sb3", "multi_camera", "shared_camera"],
)
def test_a_wrong_keyword_is_answered_with_the_nearest_and_all_there_are(make: Any) -> None:
    with pytest.raises(
        TypeError, match=r"unknown setting obs_mode; did you mean .*obs_type.*[?] Settings"
    ) as told:
        make(obs_mode="rgb", world="no such world: nothing is loaded before")
    assert all(field.name in str(told.value) for field in dataclasses.fields(wm_env.EnvConfig))
    with pytest.raises(TypeError, match=r"did you mean max_episode_steps[?]"):
        make(max_steps=3)


@pytest.mark.parametrize(
    "takes", [SanaWMEnv.__init__, SanaWMVectorEnv.__init__, SanaWMVecEnv.__init__, parallel_env]
)
def test_editors_see_every_setting_of_an_environment(takes: Any) -> None:
    hint = typing.get_type_hints(takes)["settings"]
    assert typing.get_origin(hint) is typing.Unpack and typing.get_args(hint) == (EnvSettings,)


def test_the_settings_that_editors_see_are_those_of_the_config() -> None:
    assert typing.get_type_hints(EnvSettings) == typing.get_type_hints(wm_env.EnvConfig)


@pytest.mark.parametrize(
    ("settings", "meant"),
    [
        ({"world": "tinny"}, "tiny"),
        ({"task": "objectNav"}, "objectnav"),
        ({"action_type": "key"}, "keys"),
        ({"obs_type": "RGB"}, "rgb"),
        ({"split": "valid"}, "val"),
        ({"context": "turns"}, "turn"),
        ({"collision": "blocked"}, "block"),
        ({"world": "tiny", "dtype": "float16"}, "bfloat16"),
    ],
)
def test_a_misspelled_value_is_answered_with_the_nearest(settings: dict[str, Any], meant: str) -> None:
    with pytest.raises(ValueError, match=rf"did you mean {meant}\?"):
        gym.make("SanaWM-v0", **{"world": "twin", **settings})


@pytest.mark.parametrize(
    ("world", "options", "says"),
    [
        ("tiny", {"offload": ("text",)}, "is a tiny world and takes dtype, refiner, ablate; got offload"),
        ("twin", {"dtype": "bfloat16"}, "is the twin and takes latents, detail; got dtype"),
        ("sana-wm-streaming", {"ablate": "dit"}, "is a released world and takes weights, .*; got ablate"),
        ("tiny[ablate=dit]", {}, "write world='tiny' with ablate='dit'"),
        ("tiny-pure[bfloat16]", {}, "write world='tiny-pure' with dtype='bfloat16'"),
        ("tinny", {}, "neither a preset"),
    ],
)
def test_what_a_world_does_not_take_is_said_before_any_weight_is_read(
    world: str, options: dict[str, Any], says: str
) -> None:
    with pytest.raises(ValueError, match=says):
        load_world(world, **options)


def test_equal_options_share_a_world_and_are_told_by_its_spec(memory_world: str) -> None:
    plain, bare = load_world(memory_world), load_world(memory_world, refiner="none")
    assert load_world(memory_world, refiner="none") is bare is not plain
    assert (plain.spec.name, plain.spec.label) == ("random", "random")
    assert (bare.spec.name, bare.spec.label) == ("random", "random[refiner=none]")
    with pytest.raises(ValueError, match="takes no options; got dtype"):
        gym.make("SanaWM-v0", world=plain, dtype="bfloat16")


def test_every_world_option_can_be_asked_for_through_gym_make() -> None:
    settings = {field.name for field in dataclasses.fields(wm_env.EnvConfig)}
    asked = {name for family in FAMILIES for name in (f.name for f in dataclasses.fields(family.options))}
    own = {"latents", "detail"}  # of the twin: obs_type="latent" asks for the first, a `World` has the second
    assert asked - own <= settings
    assert option_names("twin") == ("latents", "detail")


@pytest.mark.slow
def test_the_page_of_public_names_is_made_from_their_docstrings() -> None:
    script = Path(__file__).resolve().parents[2] / "docs" / "api.py"
    made = subprocess.run(
        [sys.executable, str(script), "--check"], capture_output=True, text=True, timeout=120
    )
    assert made.returncode == 0, made.stdout + made.stderr


@pytest.mark.parametrize("module", ["wm_env.tasks", "wm_env.tasks.protocol"])
def test_a_renamed_name_of_a_task_says_its_new_one(module: str) -> None:
    with pytest.raises(ImportError, match=r"Verdict of wm_env\.tasks is now TaskOutcome"):
        exec(f"from {module} import Verdict")
    with pytest.raises(AttributeError, match="no attribute 'Verdikt'"):
        _ = importlib.import_module(module).Verdikt


def test_a_renamed_preset_says_its_new_name() -> None:
    with pytest.raises(ValueError, match="preset tiny-vivid of self-forcing is now tiny-appearance"):
        preset("self-forcing", "tiny-vivid")
