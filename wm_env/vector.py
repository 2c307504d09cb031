"""`SanaWMVectorEnv`: many episodes, one world call per chunk whatever their number.

Slots may stand at different chunks. The whole batch is always stepped together, so the batch size of a world
call never changes and a reset of one slot cannot disturb another.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import torch
from gymnasium.error import ClosedEnvironmentError, ResetNeeded
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from wm_env.config import EnvSettings, configured
from wm_env.contexts import shown_to_slots
from wm_env.core import (
    EpisodeRules,
    State,
    check_reset_options,
    check_shown,
    initial,
    observation,
    shown,
    transition,
)
from wm_env.episodes import ResetOptions, as_options, draw_episode, reset_options
from wm_env.infos import cut_short, infos, tensors_of_info
from wm_env.model.data.posed_clip import PosedClip
from wm_env.model.isolation import undisturbed
from wm_env.model.names import unknown
from wm_env.model.state import put, repeat, select
from wm_env.model.storage import facts
from wm_env.model.world import World
from wm_env.modes import RENDER_MODES, autoreset_mode_of, copied, frame_rate
from wm_env.outputs import handed
from wm_env.profiling import Tally, TimedWorld, check_threads, cpu_threads
from wm_env.slots import SlotCalls, check_none_ended, mask_of_slots, prompts_of_slots, seeds_of_slots
from wm_env.snapshots import Moment, Snapshot, pack, unpack
from wm_env.whole import WholeSnapshots

MOST_ENVS = 65536
KEYWORDS = (
    "num_envs",
    "max_episode_steps",
    "autoreset_mode",
    "render_mode",
    "threads",
)  # beside the settings


class SanaWMVectorEnv(WholeSnapshots, SlotCalls, VectorEnv[Any, Any, np.ndarray]):
    """`num_envs` slots of the environment that `SanaWMEnv` documents, stepped by one batched world call.

    ## Arguments
    `num_envs`; `max_episode_steps` (None: no time limit; `gym.make_vec` passes the registered one);
    `autoreset_mode`: `"next_step"` (default: the action after an end is ignored and the reset observation
    returned), `"same_step"` (`final_obs` and `final_info` in the info) or `"disabled"` (reset by
    `options={"reset_mask": ...}`), or Gymnasium's `AutoresetMode`; `render_mode`; `threads` (CPU threads
    while the environment works; None, the default, leaves torch's own number); and everything in
    `wm_env.config.EnvConfig`.

    ## Slots
    `call(name)` and `get_attr(name)` answer for every slot, as Gymnasium's own vector environments do: the
    names are those of `wm_env.slots`. `autoreset_mode` and `max_episode_steps` are attributes.
    """

    metadata: dict[str, Any] = {  # noqa: RUF012 (Gymnasium's own)
        "render_modes": RENDER_MODES,
        "render_fps": 16,
        "autoreset_mode": AutoresetMode.NEXT_STEP,
    }

    @undisturbed()
    def __init__(
        self,
        num_envs: int = 1,
        *,
        max_episode_steps: int | None = None,
        autoreset_mode: str | AutoresetMode = AutoresetMode.NEXT_STEP,
        render_mode: str | None = None,
        threads: int | None = None,
        **settings: Unpack[EnvSettings],
    ) -> None:
        if not facts.whole(facts.as_integer(num_envs), 1, MOST_ENVS):
            raise ValueError(f"num_envs={facts.shown(num_envs)} must be an integer in 1 .. {MOST_ENVS}")
        num_envs = int(num_envs)
        limit = None if max_episode_steps is None else facts.as_integer(max_episode_steps)
        if max_episode_steps is not None and limit is None:
            raise ValueError(f"max_episode_steps={facts.shown(max_episode_steps)} must be an integer or None")
        if render_mode is not None and render_mode not in RENDER_MODES:
            raise ValueError(unknown("render_mode", render_mode, (None, *RENDER_MODES)))
        self.num_envs = num_envs
        self.render_mode, self._threads = render_mode, check_threads(threads)
        self.config = configured(settings, KEYWORDS)
        self._timed = TimedWorld(self.config.load_world())
        self._world = self._timed.inner
        self._rules = rules = self.config.rules(self._timed)
        self._defaults = self.config.reset_options(self._world.spec)
        self.autoreset_mode = autoreset_mode_of(autoreset_mode)
        fps = frame_rate(self._world.spec, render_mode)
        self.metadata = {**type(self).metadata, "autoreset_mode": self.autoreset_mode, "render_fps": fps}
        self.max_episode_steps = limit if limit is None or limit >= 1 else None  # -1 is gym.make's "no limit"

        self.single_action_space = rules.actions.space()
        self.single_observation_space = rules.views.space(rules.task.spaces(self._world.spec.frame_size))
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.observation_space = batch_space(self.single_observation_space, num_envs)

        self._state: State | None = None
        self._prompts = [""] * num_envs
        self._generators: list[np.random.Generator | None] = [None] * num_envs
        self._seeds: list[int | None] = [None] * num_envs
        self._elapsed = np.zeros(num_envs, np.int64)
        self._ended = np.zeros(num_envs, bool)
        self._steps = Tally()

    @undisturbed()
    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Start episodes in all slots, or in those of `options["reset_mask"]` (bool `(num_envs,)`).

        An integer seed gives slot i the seed + i, as Gymnasium's own vector environments do. The other
        options are those of `SanaWMEnv.reset`, for every slot that is reset.
        """
        self._check_open()
        options = dict(as_options(options))
        mask = mask_of_slots(options.pop("reset_mask", None), self.num_envs, self._state is not None)
        seeds = seeds_of_slots(seed, self.num_envs)
        asked = reset_options(self._defaults, options, self._world.spec)
        check_reset_options(self._rules, asked)
        chosen = {
            int(slot): seeding.np_random(seeds[slot])
            for slot in np.flatnonzero(mask)
            if seeds[slot] is not None or self._generators[slot] is None
        }
        before = [*self._generators], [*self._seeds]
        self._generators = [None if each is None else copied(each) for each in self._generators]
        for slot, (generator, used) in chosen.items():
            self._generators[slot], self._seeds[slot] = generator, used
        try:
            self._start(mask, asked)
        except BaseException:
            self._generators, self._seeds = before  # a refusal changes nothing, nor does an interruption
            raise
        return observation(self._rules, self._current()), self._infos(mask)

    @undisturbed()
    def step(self, actions: Any) -> tuple[Any, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Move every slot for one chunk; ended slots are handled by the autoreset mode."""
        state = self._current()
        check_none_ended(self._ended, self.autoreset_mode)
        command = self._rules.actions.command(actions, self.num_envs)
        started = time.perf_counter()
        restarting = self._ended.copy()  # NEXT_STEP only: the other modes never leave an ended slot here
        with cpu_threads(self._threads):
            self._state, outcome = transition(self._rules, state, command)
        self._elapsed += 1
        rewards = np.where(restarting, 0.0, outcome.reward.numpy())
        terminated = outcome.terminated.numpy() & ~restarting
        truncated = cut_short(self._rules, self._state)
        if self.max_episode_steps is not None:
            truncated |= self._elapsed >= self.max_episode_steps
        truncated &= ~restarting
        if restarting.any():
            self._start(restarting, self._defaults)
        self._ended = terminated | truncated

        info: dict[str, Any] = {}
        if self.autoreset_mode is AutoresetMode.SAME_STEP and self._ended.any():
            info = self._final(self._ended)
            self._start(self._ended, self._defaults)
        info = self._infos(np.ones(self.num_envs, bool), info)
        observed = observation(self._rules, self._current())
        self._steps.add(started)
        if self.config.output == "torch":
            device = self._current().frames.device
            return (observed, *(handed("torch", x, device) for x in (rewards, terminated, truncated)), info)
        return observed, rewards, terminated, truncated, info

    @undisturbed()
    def render(self) -> tuple[Any, ...] | None:
        """Return each slot's newest frame, or the pixel frames of its last step (`rgb_array_list`)."""
        if self.render_mode is None:
            return None
        frames = self._current().frames.cpu().numpy()
        if self.render_mode == "rgb_array":
            return tuple(frame.copy() for frame in frames[:, -1])
        return tuple([frame.copy() for frame in slot] for slot in frames)

    def close_extras(self, **kwargs: Any) -> None:
        self._state = None

    # State as a value -------------------------------------------------------------------------------------

    @undisturbed()
    def snapshot(self, slot: int) -> Snapshot:
        """Return the moment of one slot; it restores into any environment of equal configuration."""
        state = select(self._current(), [slot])
        moment = Moment(state, self._prompts[slot], self._generator(slot), self._seeds[slot])
        return pack(self._rules, moment)

    @undisturbed()
    def restore(self, snapshot: Snapshot) -> None:
        """Put one moment into every slot, with shared noise: equal actions give equal futures."""
        self._check_open()
        like = None if self._state is None else select(self._state, [0])
        self.adopt(unpack(self._rules, snapshot, like), independent_noise=False)

    @undisturbed()
    def adopt(self, moment: Moment, independent_noise: bool) -> None:
        """Make every slot a future of `moment`; independent noise gives each slot a noise seed of its own."""
        state, chunk = repeat(moment.state, self.num_envs), int(moment.state.chunk[0])
        self._generators = [copied(moment.generator) for _ in range(self.num_envs)]
        self._seeds = [moment.seed] * self.num_envs
        if independent_noise:
            origin = int(moment.state.noise_seed[0])
            streams = [np.random.SeedSequence([origin, chunk, slot]) for slot in range(self.num_envs)]
            seeds = [int(stream.generate_state(1)[0]) >> 1 for stream in streams]
            self._generators = [np.random.Generator(np.random.PCG64(stream)) for stream in streams]
            state = state._replace(
                world=self._rules.world.set_noise_seed(state.world, seeds),
                noise_seed=torch.tensor(seeds, dtype=torch.int64),
            )
        self._state = state
        self._prompts = [moment.prompt] * self.num_envs
        self._elapsed = np.full(self.num_envs, chunk, np.int64)
        self._ended = state.terminated.numpy().copy()

    @undisturbed()
    def observe(self, clips: Sequence[PosedClip | str | Path | None]) -> tuple[Any, dict[str, Any]]:
        """Commit true frames to running episodes, a clip or None a slot, as `SanaWMEnv.observe` does.

        Returns the observations of all slots and the infos of those with a clip. Raises as there, naming the
        slot, and `ResetNeeded` where a slot with a clip has ended; all episodes are then as they were.
        """
        state = self._current()
        check_shown(self._rules)
        seen = shown_to_slots(clips, self._world.spec, state.intrinsics.tolist())
        mask = np.array([clip is not None for clip in clips])
        ended = np.flatnonzero(mask & self._ended).tolist()
        if ended:
            raise ResetNeeded(f"slots {ended} have ended; reset them before they are shown a clip")
        with cpu_threads(self._threads):
            self._state = shown(self._rules, state, seen)
        return observation(self._rules, self._current()), self._infos(mask)

    @undisturbed()
    def set_prompt(self, prompts: str | Sequence[str | None]) -> None:
        """Tell every slot (or each its own; None keeps it) a new prompt, from the next chunk on."""
        state = self._current()
        told = prompts_of_slots(prompts, self.num_envs)
        self._state = state._replace(world=self._rules.world.set_prompt(state.world, told))
        self._prompts = [old if new is None else new for old, new in zip(self._prompts, told, strict=True)]

    # Facts ------------------------------------------------------------------------------------------------

    @property
    def world(self) -> World:
        """The world that is stepped."""
        return self._world

    @property
    def state(self) -> State:
        """The core state of all slots; never write into it."""
        return self._current()

    @property
    def rules(self) -> EpisodeRules:
        """The rules of all episodes."""
        return self._rules

    @property
    def prompts(self) -> tuple[str, ...]:
        """The prompts in force."""
        return tuple(self._prompts)

    @property
    def frames_per_step(self) -> int:
        """K, pixel frames per step."""
        return self._world.spec.frames_per_step

    @property
    def steps_per_second(self) -> float:
        """Env steps in one second of video."""
        return self._world.spec.fps / self._world.spec.frames_per_step

    @property  # type: ignore[misc]  # (the slots have one each; nothing to assign)
    def np_random(self) -> Any:
        """The slots' generators."""
        return tuple(self._generator(slot) for slot in range(self.num_envs))

    @property
    def np_random_seed(self) -> Any:
        """The slots' seeds."""
        return tuple(self._seeds)

    def profile(self) -> dict[str, float]:
        """Return counts, seconds and bytes since construction; they never enter `info`."""
        return self._timed.report(self._steps, self._state)

    # ------------------------------------------------------------------------------------------------------

    def _start(self, mask: np.ndarray, asked: ResetOptions) -> None:
        """Begin new episodes in the slots of `mask`; nothing changes where the world refuses."""
        slots = np.flatnonzero(mask).tolist()
        spec = self._world.spec
        with cpu_threads(self._threads):
            episodes = [
                draw_episode(self._generator(slot), asked, spec, self.config.temperature) for slot in slots
            ]
            fresh = initial(self._rules, episodes)
        self._state = fresh if self._state is None or mask.all() else put(self._state, slots, fresh)
        for slot, episode in zip(slots, episodes, strict=True):
            self._prompts[slot] = episode.prompt
        self._elapsed[mask] = 0
        self._ended[mask] = False

    def _infos(self, mask: np.ndarray, info: dict[str, Any] | None = None) -> dict[str, Any]:
        gathered = {} if info is None else info
        for slot, single in enumerate(infos(self._rules, self._current())):
            if mask[slot]:
                gathered = self._add_info(gathered, single, slot)
        return gathered | tensors_of_info(self._rules, self._current())

    def _final(self, ended: np.ndarray) -> dict[str, Any]:
        """Return the last observations and infos of ended episodes (SAME_STEP)."""
        observed = observation(self._rules, self._current())
        info: dict[str, Any] = {}
        tensors = self.config.output == "torch"
        if tensors:  # of all slots, as they are on the device; those of ended ones count
            info = {"final_obs": observed, "_final_obs": ended.copy()}
        for slot, single in enumerate(infos(self._rules, self._current())):
            if not ended[slot]:
                continue
            if tensors:
                info = self._add_info(info, {"final_info": single}, slot)
                continue
            if isinstance(observed, dict):
                last: Any = {name: values[slot].copy() for name, values in observed.items()}
            else:
                last = observed[slot].copy()
            info = self._add_info(info, {"final_obs": last, "final_info": single}, slot)
        return info

    def _generator(self, slot: int) -> np.random.Generator:
        generator = self._generators[slot]
        if generator is None:
            generator, self._seeds[slot] = seeding.np_random(None)
            self._generators[slot] = generator
        return generator

    def _check_open(self) -> None:
        if self.closed:
            raise ClosedEnvironmentError("this environment is closed; make a new one")

    def _current(self) -> State:
        self._check_open()
        if self._state is None:
            raise ResetNeeded("call reset() first: no episode is in progress")
        return self._state
