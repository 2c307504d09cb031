"""`SanaWMEnv`: a video world model as a Gymnasium environment, one slot of the core."""

from __future__ import annotations

import time
from collections import deque
from pathlib import Path
from typing import Any, Unpack

import gymnasium as gym
import numpy as np
import torch
from gymnasium.error import ClosedEnvironmentError, ResetNeeded
from gymnasium.vector import AutoresetMode

from wm_env.config import EnvSettings, configured
from wm_env.contexts import ClipContext, shown_frames
from wm_env.core import (
    State,
    check_reset_options,
    check_shown,
    initial,
    observation,
    shown,
    transition,
)
from wm_env.episodes import draw_episode, reset_options
from wm_env.infos import cut_short, infos, tensors_of_info
from wm_env.model.data.posed_clip import PosedClip
from wm_env.model.isolation import undisturbed
from wm_env.model.names import unknown
from wm_env.model.world import World
from wm_env.modes import RENDER_MODES, as_prompt, frame_rate
from wm_env.outputs import handed
from wm_env.profiling import Tally, TimedWorld, check_threads, cpu_threads
from wm_env.snapshots import Moment, Snapshot, pack, unpack
from wm_env.vector import SanaWMVectorEnv

KEYWORDS = ("render_mode", "threads", "max_episode_steps")  # beside the settings; the last is for `gym.make`
MAX_KEPT_FRAMES = 4096  # rgb_array_list: an episode may be endless, memory is not


class SanaWMEnv(gym.Env[Any, Any]):
    """Step through a world that a SANA-WM-family model imagines, or through its true twin.

    One step is one chunk of `frames_per_step` pixel frames (K) at 16 frames per second; the action of a step
    drives exactly the frames that the step returns.

    ## Action space (`action_type=`)
    | value               | space              | meaning                                          |
    |---------------------|--------------------|--------------------------------------------------|
    | `"keys"` (default)  | `Discrete(9)`      | none, w, s, a, d, i, k, j, l: see below          |
    | `"multikeys"`       | `MultiBinary(8)`   | the same keys held together, in that order       |
    | `"camera"`          | `Box(-1,1,(6,))`   | right, down, forward, pitch, yaw, roll velocity  |
    | `"camera_sequence"` | `Box(-1,1,(K,6))`  | one such row per pixel frame                     |

    w forward, s back, a yaw left, d yaw right, i pitch up, k pitch down, j strafe left, l strafe right.

    ## Observation space (`obs_type=`)
    | value               | space                     | meaning                           |
    |---------------------|---------------------------|-----------------------------------|
    | `"rgb"` (default)   | uint8 `(h, w, 3)`         | newest frame, at `obs_size`       |
    | `"rgb_sequence"`    | uint8 `(K, h, w, 3)`      | all pixel frames of the step      |
    | `"rgbd"`            | float32 `(h, w, 4)`       | newest frame in [0, 1], metres    |
    | `"latent"`          | float32 `(C, h', w')`     | the world's latent, clipped to 32 |

    A goal task makes it one flat `Dict`. `info`: `c2w` and `c2w_frames` (relative to the start),
    `intrinsics`, `chunk_index`, `frame_index`, `distance_to_goal`, `is_success`, `spl`, `collision` where
    there is a scene, and `depth`, `trust`, `trust_place` and `trust_map` if asked for.

    ## Reward, start, end
    The reward is the task's (`wm_env.tasks`; default `explore`: newly seen floor in m2). An episode starts at
    the picture of a scene seed, or at the user's own image and prompt. The task (or `collision="terminate"`)
    ends it; Gymnasium's TimeLimit truncates, and trust below `min_trust` (`info["truncated_because"]`).

    ## Arguments
    `render_mode` (None, `"rgb_array"`, `"rgb_array_list"`), `threads` (CPU threads while the environment
    works, default 1; None leaves torch's own number) and everything in `wm_env.config.EnvConfig`.

    ## Version history
    * v0: first release
    """

    metadata: dict[str, Any] = {"render_modes": RENDER_MODES, "render_fps": 16}  # noqa: RUF012 (Gymnasium's own)

    @undisturbed()
    def __init__(
        self, *, render_mode: str | None = None, threads: int | None = 1, **settings: Unpack[EnvSettings]
    ) -> None:
        if render_mode is not None and render_mode not in RENDER_MODES:
            raise ValueError(unknown("render_mode", render_mode, (None, *RENDER_MODES)))
        self.render_mode, self._threads = render_mode, check_threads(threads)
        self.config = configured(settings, KEYWORDS)
        self._timed = TimedWorld(self.config.load_world())
        self._world = self._timed.inner
        self._rules = self.config.rules(self._timed)
        self._defaults = self.config.reset_options(self._world.spec)
        self.action_space = self._rules.actions.space()
        self.observation_space = self._rules.views.space(self._rules.task.spaces(self._world.spec.frame_size))
        self.metadata = {**type(self).metadata, "render_fps": frame_rate(self._world.spec, render_mode)}
        self._state: State | None = None
        self._prompt = ""
        self._closed = False
        self._film: deque[np.ndarray] = deque(maxlen=MAX_KEPT_FRAMES)
        self._steps = Tally()

    @undisturbed()
    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Start an episode; options: scene, split, image, prompt, intrinsics, noise_seed."""
        self._check_open()
        spec = self._world.spec
        asked = reset_options(self._defaults, options, spec)
        check_reset_options(self._rules, asked)
        generator, used = self._np_random, self._np_random_seed
        numbers = None if generator is None else generator.bit_generator.state
        super().reset(seed=int(seed) if isinstance(seed, np.integer) else seed)
        try:
            with cpu_threads(self._threads):
                episode = draw_episode(self.np_random, asked, spec, self.config.temperature)
                state = initial(self._rules, [episode])
        except BaseException:  # a refusal changes nothing, nor does an interruption
            self._np_random, self._np_random_seed = generator, used
            if generator is not None and numbers is not None:
                generator.bit_generator.state = numbers
            raise
        self._enter(state, episode.prompt)
        return self._seen()

    @undisturbed()
    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Move for one chunk; see the class docstring. Truncates on its own below `min_trust` alone."""
        state = self._current()
        self._check_running(state)
        command = self._rules.actions.command([action], 1)
        started = time.perf_counter()
        with cpu_threads(self._threads):
            self._state, outcome = transition(self._rules, state, command)
        self._keep_film(self._state)
        observed, info = self._seen()
        cut = cut_short(self._rules, self._state)
        self._steps.add(started)
        if self.config.output == "torch":
            device = self._state.frames.device
            told = (outcome.reward[0], outcome.terminated[0], torch.from_numpy(cut)[0])
            return observed, *(handed("torch", x, device) for x in told), info  # type: ignore[return-value]
        return observed, float(outcome.reward[0]), bool(outcome.terminated[0]), bool(cut[0]), info

    @undisturbed()
    def render(self) -> Any:
        """Return the newest frame at full size; `rgb_array_list`: all pixel frames since the last call."""
        if self.render_mode is None:
            gym.logger.warn(
                "render() was called without a render_mode; pass render_mode='rgb_array' to gym.make"
            )
            return None
        state = self._current()
        if self.render_mode == "rgb_array":
            return state.frames[0, -1].cpu().numpy().copy()
        frames = [frame.copy() for frame in self._film]
        self._film.clear()
        return frames

    def close(self) -> None:
        """Forget the episode; any later reset or step raises. May be called twice."""
        self._state = None
        self._film.clear()
        self._closed = True

    # State as a value -------------------------------------------------------------------------------------

    @undisturbed()
    def snapshot(self) -> Snapshot:
        """Return this moment as an immutable value that shares its tensors."""
        moment = Moment(self._current(), self._prompt, self.np_random, self._np_random_seed)
        return pack(self._rules, moment)

    @undisturbed()
    def restore(self, snapshot: Snapshot) -> None:
        """Return to a moment of an environment of equal configuration; the next step repeats what it was."""
        self._check_open()
        moment = unpack(self._rules, snapshot, self._state)
        self._np_random, self._np_random_seed = moment.generator, moment.seed
        self._enter(moment.state, moment.prompt)

    @undisturbed()
    def branch(
        self,
        num_envs: int,
        noise: str = "independent",
        *,
        max_episode_steps: int | None = None,
        autoreset_mode: str | AutoresetMode = AutoresetMode.NEXT_STEP,
        render_mode: str | None = None,
        threads: int | None = None,
    ) -> SanaWMVectorEnv:
        """Return a vector environment of `num_envs` futures of this moment.

        noise="independent": each future draws its own noise, so they differ by the model's own uncertainty.
        noise="shared": equal actions give equal futures. The rest as in `SanaWMVectorEnv`.
        """
        if noise not in ("independent", "shared"):
            raise ValueError(unknown("noise", noise, ("independent", "shared")))
        moment = Moment(self._current(), self._prompt, self.np_random, self._np_random_seed)
        envs = SanaWMVectorEnv(
            num_envs,
            max_episode_steps=max_episode_steps,
            autoreset_mode=autoreset_mode,
            render_mode=render_mode,
            threads=threads,
            **self.config.keywords(),
        )
        envs.adopt(moment, independent_noise=noise == "independent")
        return envs

    @undisturbed()
    def observe(self, clip: PosedClip | str | Path) -> tuple[Any, dict[str, Any]]:
        """Commit true frames to the running episode and return observation and info, as `reset` does.

        clip: a `PosedClip` or the path of one, poses relative to the episode's start
        (`PosedClip.relative_to`), by the episode's camera. It is brought to the world's frame rate and size;
        leading frames that fill no chunk are dropped. The camera is at the last pose then, at rest. Steps,
        noise, prompt and time limit go on; nothing is rewarded, and the next reward counts from the new pose.
        The twin moves there and shows its own frames.

        Raises `ValueError` in one sentence for a clip that cannot be used and a world that takes none,
        `ResetNeeded` before the first reset and after an end; the episode is then as it was.
        """
        state = self._current()
        self._check_running(state)
        check_shown(self._rules)
        seen = shown_frames(clip, self._world.spec, state.intrinsics[0].tolist())
        with cpu_threads(self._threads):
            self._state = shown(self._rules, state, [seen])
        self._keep_film(self._state)
        return self._seen()

    @undisturbed()
    def set_prompt(self, prompt: str) -> None:
        """Tell the world a new prompt; it takes effect from the next chunk."""
        state = self._current()
        told = as_prompt(prompt)
        self._state = state._replace(world=self._rules.world.set_prompt(state.world, [told]))
        self._prompt = told

    # Facts ------------------------------------------------------------------------------------------------

    @property
    def world(self) -> World:
        """The world that is stepped."""
        return self._world

    @property
    def state(self) -> State:
        """The core state (one slot), for scripted agents and recorders; never write into it."""
        return self._current()

    @property
    def in_progress(self) -> bool:
        """Whether an episode has been started (or restored) and the environment is open."""
        return self._state is not None

    @property
    def prompt(self) -> str:
        """The prompt in force."""
        return self._prompt

    @property
    def start_clip(self) -> PosedClip | None:
        """The clip of `context=`, at the world's rate and size and relative to its last frame, or None."""
        given = self._defaults.context
        return given.clip(self._world.spec.fps) if isinstance(given, ClipContext) else None

    @property
    def frames_per_step(self) -> int:
        """K, pixel frames per step."""
        return self._world.spec.frames_per_step

    @property
    def steps_per_second(self) -> float:
        """Env steps in one second of video."""
        return self._world.spec.fps / self._world.spec.frames_per_step

    @property
    def trained_steps(self) -> int:
        """Steps covered by the model's training; beyond it quality is extrapolation."""
        return self._world.spec.trained_steps

    def look(self) -> Any:
        """Return the observation of this moment once more, without moving: after `restore`, for instance."""
        return self._seen()[0]

    def get_keys_to_action(self) -> dict[str, Any]:
        """Return the keyboard map for `gymnasium.utils.play.play`."""
        return self._rules.actions.keys_to_action()

    def profile(self) -> dict[str, float]:
        """Return counts, seconds and bytes since construction; they never enter `info`."""
        return self._timed.report(self._steps, self._state)

    # ------------------------------------------------------------------------------------------------------

    def _seen(self) -> tuple[Any, dict[str, Any]]:
        state = self._current()
        batched = observation(self._rules, state)
        info = infos(self._rules, state)[0]
        info |= {name: values[0] for name, values in tensors_of_info(self._rules, state).items()}
        if isinstance(batched, dict):
            return {name: values[0] for name, values in batched.items()}, info
        return batched[0], info

    def _enter(self, state: State, prompt: str) -> None:
        self._state, self._prompt = state, prompt
        self._film.clear()
        if self.render_mode == "rgb_array_list":
            self._film.append(state.frames[0, -1].cpu().numpy())

    def _keep_film(self, state: State) -> None:
        if self.render_mode == "rgb_array_list":
            self._film.extend(state.frames[0].cpu().numpy())

    def _check_open(self) -> None:
        if self._closed:
            raise ClosedEnvironmentError("this environment is closed; make a new one")

    def _check_running(self, state: State) -> None:
        if bool(state.terminated[0]):
            raise ResetNeeded("the episode has ended; call reset() before the next step()")

    def _current(self) -> State:
        self._check_open()
        if self._state is None:
            raise ResetNeeded("call reset() first: no episode is in progress")
        return self._state
