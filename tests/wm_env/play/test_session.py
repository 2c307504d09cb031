"""A play session without a screen: keys move it, moments are kept, films are written."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import numpy as np
import pytest

from wm_env.env import SanaWMEnv
from wm_env.model.kinematics import KEYS
from wm_env.play.futures import CHOICES
from wm_env.play.session import BRANCH_STEPS, PlaySettings, Session
from wm_env.recording import pressed
from wm_env.tasks import TASKS

BATCHED = 1  # of 255: a batch of four sums in another order than a batch of one


@pytest.fixture
def settings(pure_world: str, tmp_path: Path) -> PlaySettings:
    return PlaySettings(environment={"world": pure_world}, out=tmp_path / "films", seed=3)


def ask(session: Session, do: str, **more: Any) -> dict[str, Any]:
    session.handle({"do": do, **more})
    return session.view().facts


def test_held_keys_move_world_and_twin_alike(settings: PlaySettings, pure_world: str) -> None:
    session = Session(settings)
    ask(session, "keys", held="wd")
    views = [session.advance() for _ in range(3)]
    for world, of_view in ((pure_world, lambda v: v.frames), ("twin", lambda v: v.twin)):
        env = SanaWMEnv(world=world, action_type="multikeys")
        env.reset(seed=3)
        for view in views:
            env.step(np.array([key in "wd" for key in KEYS], np.int8))
            assert np.array_equal(of_view(view), env.state.frames[0].numpy())
    assert views[-1].facts["step"] == 3 and views[-1].facts["held"] == "wd"


def test_a_policy_plays_until_it_is_told_not_to(settings: PlaySettings) -> None:
    made: list[int] = []

    def player(seed: int) -> Any:
        made.append(seed)
        return lambda env: pressed("d" if int(env.state.chunk[0]) == 0 else "w")

    session = Session(replace(settings, policy="mine", player=player))
    facts = [session.advance().facts for _ in range(2)]
    assert [each["held"] for each in facts] == ["d", "w"] and facts[0]["policy"] == "mine"
    ask(session, "keys", held="s")
    assert session.advance().facts["held"] == "w"
    assert ask(session, "policy")["message"] == "you play"
    assert session.advance().facts["held"] == "s"
    ask(session, "new_scene")
    assert made == [3, 4], "a fresh player for every episode"
    with pytest.raises(ValueError, match="no policy to play; start with `wm-env play --policy NAME`"):
        ask(Session(settings), "policy")


def test_pause_stops_time_and_a_single_step_moves_it_by_one(settings: PlaySettings) -> None:
    session = Session(settings)
    assert session.running
    assert ask(session, "step")["step"] == 1
    assert not session.running
    assert ask(session, "step")["step"] == 2
    ask(session, "pause")
    assert session.running


def test_reset_repeats_the_scene_and_a_new_scene_is_another(settings: PlaySettings) -> None:
    session = Session(settings)
    start = session.view().frames
    session.advance()
    ask(session, "reset")
    assert np.array_equal(session.view().frames, start)
    assert ask(session, "new_scene")["seed"] == 4
    assert not np.array_equal(session.view().frames, start)


def test_a_kept_moment_comes_back_with_its_future(settings: PlaySettings) -> None:
    session = Session(settings)
    with pytest.raises(ValueError, match="press save first"):
        ask(session, "restore")
    ask(session, "keys", held="w")
    session.advance()
    ask(session, "save")
    first = session.advance()
    session.advance()
    assert ask(session, "restore")["step"] == 1
    again = session.advance()
    assert np.array_equal(first.frames, again.frames) and np.array_equal(first.twin, again.twin)


def test_branching_shows_four_futures_that_differ_by_the_keys_held(settings: PlaySettings) -> None:
    session = Session(settings)
    ask(session, "keys", held="w")
    session.advance()
    facts = ask(session, "branch")
    assert [each["label"] for each in facts["futures"]] == ["forward", "turn left", "turn right", "back"]
    futures = session.view().futures
    assert facts["step"] == 1 and facts["paused"] and futures.shape == (4, 64, 64, 3)
    assert all(not np.array_equal(futures[a], futures[b]) for a, b in combinations(range(4), 2))


@pytest.mark.parametrize("slot", [0, 2])
def test_a_chosen_future_is_where_its_keys_lead(settings: PlaySettings, slot: int) -> None:
    branched, walked = Session(settings), Session(settings)
    ask(branched, "branch")
    facts = ask(branched, "take", slot=slot)
    assert facts["step"] == BRANCH_STEPS and not facts["paused"] and facts["futures"] == []
    ask(walked, "keys", held=CHOICES[slot][1])
    for _ in range(BRANCH_STEPS):
        there = walked.advance()
    here = branched.view()
    assert np.allclose(facts["total"], there.facts["total"])
    assert np.array_equal(here.twin[-1], there.twin[-1])
    assert np.abs(here.frames[-1].astype(int) - there.frames[-1]).max() <= BATCHED
    with pytest.raises(ValueError, match="press branch first"):
        ask(branched, "take", slot=0)


def test_a_future_that_ends_the_episode_is_shown_as_it_ended(tmp_path: Path) -> None:
    env = {"world": "twin", "collision": "terminate"}
    session = Session(PlaySettings(environment=env, out=tmp_path))
    ask(session, "keys", held="w")
    while not session.view().facts["ended"]:
        before = session.view().facts["step"]
        ask(session, "save")
        session.advance()
    ask(session, "restore")
    forward = ask(session, "branch")["futures"][0]
    assert forward == {"label": "forward", "ended": True}
    facts = ask(session, "take", slot=0)
    assert facts["ended"] and facts["step"] == before + 1


@pytest.mark.parametrize("paused", [False, True])
def test_going_to_a_future_leaves_time_as_it_was(settings: PlaySettings, paused: bool) -> None:
    session = Session(settings)
    session.paused = paused
    ask(session, "branch")
    assert ask(session, "branch")["paused"]
    assert ask(session, "take", slot=1)["paused"] == paused


@pytest.mark.slow
def test_a_recording_becomes_a_film_even_when_the_page_is_closed(settings: PlaySettings) -> None:
    session = Session(settings)
    ask(session, "record")
    session.advance()
    first, second = (str((settings.out / f"play-{number:03d}.mp4").resolve()) for number in range(2))
    facts = session.view().facts
    assert facts["film"] == first and facts["recorded"] == ""
    facts = ask(session, "record")
    assert facts["message"] == f"recorded {first}" and facts["recorded"] == first and facts["film"] == second
    assert ask(session, "record")["message"] == f"recording; stop writes {second}"
    session.advance()
    session.close()
    films = sorted(settings.out.iterdir())
    assert [film.name for film in films] == ["play-000.mp4", "play-001.mp4"]
    assert len(iio.imread(films[0])) == 1 + 4


def test_a_full_disk_keeps_the_film_in_memory(settings: PlaySettings, disk_with: Any) -> None:
    session = Session(settings)
    ask(session, "record")
    session.advance()

    for size in (0, 1000):
        with disk_with(size), pytest.raises(OSError, match="cannot write"):
            ask(session, "record")
        assert not list(settings.out.iterdir())
    assert session.view().facts["recording"] == 2
    ask(session, "record")
    assert len(list(settings.out.iterdir())) == 1


def test_an_ended_episode_waits_for_the_player(tmp_path: Path) -> None:
    env = {"world": "twin", "collision": "terminate"}
    session = Session(PlaySettings(environment=env, out=tmp_path))
    ask(session, "keys", held="w")
    for _ in range(60):
        view = session.advance()
    assert view.facts["ended"] and not session.running and view.twin is None
    step = view.facts["step"]
    assert session.advance().facts["step"] == step < 60
    with pytest.raises(ValueError, match="no futures"):
        ask(session, "branch")
    assert not ask(session, "reset")["ended"]


def test_a_prompt_reaches_world_and_twin_and_is_acknowledged(settings: PlaySettings) -> None:
    session = Session(settings)
    before = session.view()
    facts = ask(session, "prompt", text="dim light")
    assert facts["prompt"] == "dim light" and "is told 'dim light' from the next step" in facts["message"]
    after = session.advance()
    assert not np.array_equal(after.twin[-1], before.twin[-1])


def test_a_given_scene_is_the_first_and_new_scenes_count_up_from_it(settings: PlaySettings) -> None:
    scened = replace(settings, environment={**settings.environment, "scene": 41})
    session = Session(scened)
    assert session.view().facts["scene"] == 41
    assert ask(session, "reset")["scene"] == 41
    facts = ask(session, "new_scene")
    assert facts["scene"] == 42 and facts["message"] == "a new scene"


def test_the_twin_takes_no_setting_that_only_a_learned_world_has() -> None:
    environment = {"world": "tiny", "dtype": "bfloat16", "refiner": "none", "ablate": "memory"}
    view = Session(PlaySettings(environment=environment)).advance()
    assert view.twin is not None and view.twin.shape == view.frames.shape


def test_rewards_say_whose_they_are_and_what_they_count(settings: PlaySettings) -> None:
    for task in TASKS:
        facts = Session(replace(settings, environment={**settings.environment, "task": task})).view().facts
        assert facts["task"] == task and facts["reward_is"]


def test_a_page_that_comes_back_holds_no_key_and_is_told_where_it_is(settings: PlaySettings) -> None:
    session = Session(settings)
    ask(session, "keys", held="w")
    session.advance()
    session.greet()
    facts = session.view().facts
    assert facts["held"] == "" and facts["message"] == "back in your walk at step 1"


@pytest.mark.parametrize(
    "message",
    [
        {},
        {"do": "dance"},
        {"do": []},
        {"do": "keys", "held": "x"},
        {"do": "keys"},
        {"do": "take", "slot": 0},
        {"do": "prompt"},
    ],
)
def test_nonsense_is_refused_and_changes_nothing(settings: PlaySettings, message: dict[str, Any]) -> None:
    session = Session(settings)
    with pytest.raises(ValueError, match=r"known are|among|press branch|is a text"):
        session.handle(message)
    assert session.view().facts["step"] == 0


def test_an_image_of_ones_own_is_played_without_the_twin(pure_world: str) -> None:
    picture = np.zeros((64, 64, 3), np.uint8)
    with pytest.raises(ValueError, match="without the twin"):
        PlaySettings(environment={"world": pure_world, "image": picture})
    session = Session(PlaySettings(environment={"world": pure_world, "image": picture}, compare=False))
    assert session.advance().twin is None
