"""Trust in `info`, truncation by it, and what is refused, alike in every interface."""

from __future__ import annotations

import json
import math
import warnings
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode
from trusting import with_calibration

import wm_env
from wm_env.cli import main
from wm_env.config import EnvConfig
from wm_env.env import SanaWMEnv
from wm_env.model.embedded import EMBEDDED, load_embedded
from wm_env.model.trust_calibration import SUFFIX, calibration_path, find_calibration, load_calibration
from wm_env.parallel import parallel_env
from wm_env.play.session import PlaySettings, Session
from wm_env.recording import Layout, compose
from wm_env.sb3 import SanaWMVecEnv
from wm_env.vector import SanaWMVectorEnv
from wm_env.wrappers import TrustPenalty


@pytest.fixture(scope="module")
def world(memory_world: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    return with_calibration(memory_world, tmp_path_factory.mktemp("trusted") / "world")


def trust_after(steps: int) -> float:
    """Return what the calibration of the tests says: sigmoid(2 - 2 log(1 + n)), true before the first."""
    return 1.0 if steps == 0 else round(1 / (1 + math.exp(-(2 - 2 * math.log1p(steps)))), 4)


def test_a_start_is_true_and_trust_is_what_the_calibration_says(world: str) -> None:
    env = SanaWMEnv(world=world, trust=True, scene=3)
    _, info = env.reset(seed=0)
    assert info["trust"] == info["trust_place"] == 1.0 and "trust_map" not in info
    for step in (1, 2, 3):
        _, _, _, truncated, info = env.step(4)
        assert info["trust"] == pytest.approx(trust_after(step), abs=1e-4)
        assert truncated is False and "truncated_because" not in info
    assert "trust" not in SanaWMEnv(world=world, scene=3).reset(seed=0)[1]


def test_frames_rewards_and_ends_are_those_without(world: str) -> None:
    plain, trusted = SanaWMEnv(world=world, scene=3), SanaWMEnv(world=world, scene=3, trust="map")
    for env in (plain, trusted):
        env.reset(seed=0)
    for action in (1, 4, 4):
        a, b = plain.step(action), trusted.step(action)
        assert np.array_equal(a[0], b[0]) and a[1:4] == b[1:4]


def test_the_map_is_the_trust_of_every_pixel_by_its_cell(world: str) -> None:
    env = SanaWMEnv(world=world, trust="map", scene=3)
    _, info = env.reset(seed=0)
    assert info["trust_map"].dtype == np.float32 and (info["trust_map"] == 1).all()
    info = env.step(4)[4]
    shown = info["trust_map"]
    assert shown.shape == (64, 64) and 0 <= shown.min() < shown.max() <= 1
    cells = shown.reshape(8, 8, 8, 8)
    assert (cells == cells[:, :1, :, :1]).all()
    shown[:] = 0  # the caller's own
    assert env.step(4)[4]["trust_map"].max() > 0


def test_an_episode_ends_where_trust_falls_below_the_floor(world: str) -> None:
    env = gym.make("SanaWM-v0", world=world, min_trust=0.4, scene=3)
    env.reset(seed=0)
    ends = [env.step(4) for _ in range(3)]
    wanted = [trust_after(step) < 0.4 for step in (1, 2, 3)]
    assert wanted == [False, False, True]
    assert [bool(end[3]) for end in ends] == wanted
    assert [end[4].get("truncated_because") for end in ends] == [None, None, "trust"]


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
@pytest.mark.slow
def test_slots_are_truncated_and_reset_alike(world: str, mode: AutoresetMode) -> None:
    envs = SanaWMVectorEnv(2, world=world, min_trust=0.4, trust="map", scene=3, autoreset_mode=mode)
    _, info = envs.reset(seed=0)
    assert info["trust"].tolist() == [1.0, 1.0] and info["trust_map"].shape == (2, 64, 64)
    told = [envs.step(np.array([4, 1])) for _ in range(4)]
    assert [one[3].tolist() for one in told[:3]] == [[False] * 2, [False] * 2, [True] * 2]
    end, after = told[2][4], told[3][4]
    if mode is AutoresetMode.SAME_STEP:
        assert end["final_info"]["truncated_because"].tolist() == ["trust"] * 2
        assert "truncated_because" not in end and end["trust"].tolist() == [1.0, 1.0]
        assert after["trust"].tolist() == pytest.approx([trust_after(1)] * 2, abs=1e-4)
    else:
        assert end["truncated_because"].tolist() == ["trust"] * 2
        assert after["trust"].tolist() == [1.0, 1.0] and not told[3][3].any()


def test_a_slot_is_trusted_as_the_episode_alone(world: str) -> None:
    envs = SanaWMVectorEnv(2, world=world, trust="map", scene=3)
    alone = SanaWMEnv(world=world, trust="map", scene=3)
    envs.reset(seed=[0, 1])
    alone.reset(seed=1)
    for action in (1, 4):
        batched, single = envs.step(np.array([4, action]))[4], alone.step(action)[4]
        assert batched["trust"][1] == pytest.approx(single["trust"], abs=1e-4)
        np.testing.assert_allclose(batched["trust_map"][1], single["trust_map"], atol=1e-4)


@pytest.mark.slow
def test_the_faces_of_others_have_it_too(world: str) -> None:
    sb3 = SanaWMVecEnv(2, world=world, min_trust=0.4, scene=3)
    sb3.reset()
    told = [sb3.step(np.array([4, 4])) for _ in range(3)]
    assert [info["trust"] for info in told[0][3]] == pytest.approx([trust_after(1)] * 2, abs=1e-4)
    assert told[2][2].tolist() == [True, True]
    assert [info["truncated_because"] for info in told[2][3]] == ["trust", "trust"]
    assert all(info["TimeLimit.truncated"] for info in told[2][3])
    env = parallel_env(world=world, min_trust=0.4, scene=3)
    env.reset(seed=0)
    cuts = [env.step({"mover": 1, "looker": 0}) for _ in range(3)]
    assert [cut[3]["mover"] for cut in cuts] == [False, False, True] and env.agents == []
    assert cuts[2][4]["looker"]["truncated_because"] == "trust"


def test_tensors_have_the_map_as_a_tensor(world: str) -> None:
    envs = SanaWMVectorEnv(2, world=world, trust="map", scene=3, output="torch")
    envs.reset(seed=0)
    info = envs.step(torch.tensor([1, 4]))[4]
    assert isinstance(info["trust_map"], torch.Tensor) and info["trust_map"].shape == (2, 64, 64)
    assert isinstance(info["trust"], np.ndarray)
    one = SanaWMEnv(world=world, min_trust=0.9, trust="map", scene=3, output="torch")
    one.reset(seed=0)
    *_, truncated, info = one.step(4)
    assert bool(truncated) and isinstance(truncated, torch.Tensor)  # type: ignore[unreachable]
    assert isinstance(info["trust_map"], torch.Tensor)


def test_a_snapshot_brings_trust_back_and_a_branch_has_it(world: str) -> None:
    env = SanaWMEnv(world=world, trust="map", scene=3)
    env.reset(seed=0)
    env.step(4)
    moment = env.snapshot()
    first = env.step(1)[4]
    env.step(1)
    env.restore(moment)
    again = env.step(1)[4]
    assert again["trust"] == first["trust"] and np.array_equal(again["trust_map"], first["trust_map"])
    env.restore(moment)
    future = env.branch(2, noise="shared").step(np.array([1, 1]))[4]
    assert future["trust"].tolist() == [first["trust"]] * 2


def test_what_was_shown_is_true_and_trust_counts_from_there(world: str) -> None:
    env = SanaWMEnv(world=world, trust=True, scene=3)
    env.reset(seed=0)
    for _ in range(3):
        env.step(4)
    camera = SanaWMEnv(world="twin", scene=3, obs_type="rgb_sequence")
    camera.reset(seed=0)
    told = [camera.step(4) for _ in range(2)]
    clip = wm_env.PosedClip(
        np.concatenate([one[0] for one in told]),
        np.concatenate([one[4]["c2w_frames"] for one in told]),
        told[0][4]["intrinsics"],
        fps=16,
    )
    assert env.observe(clip)[1]["trust"] == 1.0
    assert env.step(4)[4]["trust"] == pytest.approx(trust_after(1), abs=1e-4)


@pytest.mark.slow
def test_a_context_is_loaded_once_and_its_directions_are_known(
    world: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    env = SanaWMEnv(world=world, trust=True, scene=3, context="turn")
    env.reset(seed=0)
    bare = SanaWMEnv(world=world, trust=True, scene=3)
    bare.reset(seed=0)
    looked = [int(one.state.trust.seen.looked.sum()) for one in (bare, env)]  # type: ignore[union-attr]
    assert looked[1] > 2 * looked[0]


def test_the_penalty_takes_what_is_not_trusted_off_the_reward(world: str) -> None:
    plain = SanaWMEnv(world=world, trust=True, scene=3)
    env = TrustPenalty(SanaWMEnv(world=world, trust=True, scene=3), weight=0.5)
    for one in (plain, env):
        one.reset(seed=0)  # type: ignore[attr-defined]
    reward, info = plain.step(1)[1], plain.step(1)[4]
    first, second = env.step(1), env.step(1)
    assert first[1] == pytest.approx(reward - 0.5 * (1 - trust_after(1)), abs=1e-4)
    assert second[4]["trust_penalty"] == pytest.approx(0.5 * (1 - info["trust"]))
    with pytest.raises(ValueError, match=r"weight=-1 must be a number from 0"):
        TrustPenalty(plain, weight=-1)
    with pytest.raises(ValueError, match="make it with trust=True"):
        TrustPenalty(SanaWMEnv(world=world, scene=3))


def test_one_warning_says_how_unlike_a_picture_is(memory_world: str, tmp_path: Path) -> None:
    home = with_calibration(memory_world, tmp_path / "strict", start_limit=0.001)
    picture = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    with pytest.warns(UserWarning, match=r"misses it by \d+\.\d grey levels.*less than 0\.0") as told:
        SanaWMVectorEnv(2, world=home, image=picture).reset(seed=0)
    assert len(told) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        SanaWMEnv(world=home, image=picture).reset(seed=0)  # that picture is known by now
        SanaWMEnv(world=home, scene=3).reset(seed=0)  # a scene of the training's kind is not asked
        calm = with_calibration(memory_world, tmp_path / "calm", start_limit=1e5)
        SanaWMEnv(world=calm, image=picture).reset(seed=0)


def test_what_cannot_be_trusted_is_refused_with_what_to_do(
    world: str, memory_world: str, pure_world: str, tmp_path: Path
) -> None:
    with pytest.raises(
        FileNotFoundError, match=r"no calibration of trust; make one with `wm-env trust calibra"
    ):
        SanaWMEnv(world=memory_world, trust=True)
    with pytest.raises(ValueError, match=r"is a renderer, what it shows is true"):
        SanaWMEnv(world="twin", trust=True)
    other = Path(world) / f"random{SUFFIX}"
    with pytest.raises(ValueError, match=r"is of weights .* has weights"):
        SanaWMEnv(world=pure_world, trust=True, calibration=other)
    with pytest.raises(ValueError, match=r"with options \{\}, not \{'ablate': 'dit'\}"):
        SanaWMEnv(world=world, trust=True, ablate="dit")
    for floor in (-0.1, 1.1, math.nan, "0.3", True):
        with pytest.raises(ValueError, match=r"min_trust=.* must be a probability from 0 to 1"):
            EnvConfig(min_trust=floor)  # type: ignore[arg-type]
    for asked in ("maps", 1, None):
        with pytest.raises(ValueError, match=r"trust=.* must be True, False or 'map'"):
            EnvConfig(trust=asked)  # type: ignore[arg-type]
    with pytest.raises(FileNotFoundError, match=r"calibration file .* does not exist"):
        SanaWMEnv(world=world, trust=True, calibration=tmp_path / "none.json")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"format": 2}, "format is 2; expected 1"),
        ({"extra": 1}, "'extra' is unknown"),
        ({"weights_sha256": "xyz"}, "expected a SHA-256"),
        ({"start_limit": "x"}, "start_limit is 'x'"),
        ({"appearance": {}}, "appearance: bound is missing"),
        ({"appearance": None}, "appearance is None; expected an object"),
    ],
)
def test_a_calibration_that_cannot_be_is_refused_by_entry(
    world: str, tmp_path: Path, change: dict[str, Any], told: str
) -> None:
    values = json.loads((Path(world) / f"random{SUFFIX}").read_text())
    bad = tmp_path / "bad.json"
    bad.write_text(json.dumps({**values, **change}))
    with pytest.raises(ValueError, match=told):
        load_calibration(bad)


def test_a_model_with_a_number_that_is_none_is_refused(world: str, tmp_path: Path) -> None:
    values = json.loads((Path(world) / f"random{SUFFIX}").read_text())
    values["appearance"]["std"] = [0.0]
    (tmp_path / "bad.json").write_text(json.dumps(values))
    with pytest.raises(ValueError, match=r"appearance: std is \[0.0\]; expected 1 numbers"):
        load_calibration(tmp_path / "bad.json")


def test_the_page_and_films_show_trust(world: str, tmp_path: Path) -> None:
    session = Session(PlaySettings(environment={"world": world, "trust": True}, out=tmp_path, seed=0))
    told = [session.view().facts["trust"], session.advance().facts["trust"]]
    assert told == [1.0, pytest.approx(trust_after(1), abs=1e-4)]
    view, layout = np.zeros((64, 64, 3), np.uint8), Layout(labels=("a",))
    plain, full, low = (compose([view], layout, "", [], None, trust) for trust in (None, 1.0, 0.2))
    green, red = (int((one[:16, :, channel] > 150).sum()) for one, channel in ((full, 1), (low, 0)))
    assert green > 200 and red > 0 and not np.array_equal(plain, full)
    assert np.array_equal(plain[16:], full[16:])
    assert Session(PlaySettings(environment={"world": world}, out=tmp_path)).view().facts["trust"] is None


def test_a_film_is_recorded_with_the_trust_in_it(
    world: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, result = tmp_path / "walk.gif", tmp_path / "walk.json"
    asked = ["record", "--world", world, "--out", str(out), "--steps", "2", "--policy", "forward"]
    with pytest.raises(SystemExit) as end:
        main([*asked, "--trust", "--json", str(result)])
    assert end.value.code == 0
    told = json.loads(result.read_text())["trust"]
    assert told == pytest.approx([trust_after(step) for step in range(3)], abs=1e-4)
    with pytest.raises(SystemExit) as end:
        main([*asked, "--trust", "--format", "folder"])
    assert end.value.code == 2 and "--trust" in capsys.readouterr().err


@pytest.mark.weights
@pytest.mark.parametrize("name", EMBEDDED)
def test_the_shipped_worlds_say_their_trust(name: str) -> None:
    env = SanaWMEnv(world=name, trust="map", scene=3)
    env.reset(seed=0)
    told = [env.step(4)[4] for _ in range(2)]
    assert all(0 <= info["trust"] <= 1 and 0 <= info["trust_place"] <= 1 for info in told)
    assert all(0 <= info["trust_map"].min() <= info["trust_map"].max() <= 1 for info in told)


@pytest.mark.weights
@pytest.mark.parametrize("name", EMBEDDED)
def test_a_shipped_calibration_is_of_the_shipped_weights(name: str) -> None:
    found = find_calibration(name, load_embedded(name).spec)
    assert found.place is not None and found.cells is not None and found.surprise is not None
    path = calibration_path(name)
    assert path is not None and path.parent.name == "weights"
