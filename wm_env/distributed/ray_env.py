"""`RayVectorEnv`: one Gymnasium vector environment over many Ray actors, each with one batched environment.

A state is a value, so a worker that dies loses nothing: the driver keeps a snapshot of every worker and what
it was told since, gives both to a new actor, and what follows is what would have followed (bit for bit on a
CPU, at equal thread counts).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
from gymnasium.error import ClosedEnvironmentError, ResetNeeded
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from wm_env.distributed.cluster import enter, need, ray
from wm_env.distributed.crew import Crew, Member
from wm_env.distributed.gathering import gather, gather_infos
from wm_env.distributed.identity import package_sha256
from wm_env.distributed.worker import Fragment, Policy
from wm_env.model.embedded import EMBEDDED, world_path
from wm_env.model.storage.checkpoint import load_card
from wm_env.model.storage.facts import as_integer, shown, whole
from wm_env.slots import check_none_ended, mask_of_slots, prompts_of_slots, seeds_of_slots
from wm_env.snapshots import Snapshot
from wm_env.vector import MOST_ENVS


class RayVectorEnv(VectorEnv[Any, Any, np.ndarray]):
    """`workers` x `envs_per_worker` slots of the environment that `SanaWMEnv` documents, over Ray actors.

    ## Arguments
    `workers`, `envs_per_worker`: actors, and slots of each one's batched environment. `address`: of a Ray
    cluster (`"auto"`, `"host:port"`, `"ray://host:port"`); None starts Ray on this machine, or takes the one
    that this process is connected to. `gpus_per_worker`: share of a GPU of each (None: 1 where `device` is
    CUDA's, else 0); `cpus_per_worker`. `snapshot_every`: steps between two snapshots of a worker (None: as
    many as keep their cost at 5% of its time). `max_failures`: deaths of a worker in a row after which its
    error is raised. `start_seconds`: how long a worker may take to load its world. Everything else goes to
    `SanaWMVectorEnv`, `autoreset_mode` and `max_episode_steps` too; its frames come to the driver as arrays.

    ## Same as the local one
    Slot i is slot `i % envs_per_worker` of worker `i // envs_per_worker`. Seeds, masks, autoreset modes,
    infos and final observations are those of a `SanaWMVectorEnv` of as many slots, and so are the frames.

    ## Raises
    `ModuleNotFoundError` without Ray; `ValueError` for more GPUs or CPUs than there are, or for workers
    with another package or other weights than the driver; `ConnectionError` for an address that does not
    answer; what a worker raises, as it raised it; `RuntimeError` where a worker died too often.
    """

    def __init__(
        self,
        workers: int = 2,
        envs_per_worker: int = 1,
        *,
        address: str | None = None,
        gpus_per_worker: float | None = None,
        cpus_per_worker: float = 1.0,
        snapshot_every: int | None = None,
        max_failures: int = 3,
        start_seconds: float = 300.0,
        **settings: Any,
    ) -> None:
        self.workers = _count("workers", workers)
        self.envs_per_worker = _count("envs_per_worker", envs_per_worker)
        every = None if snapshot_every is None else _count("snapshot_every", snapshot_every)
        failures = _count("max_failures", max_failures)
        if settings.get("output", "numpy") != "numpy":
            raise ValueError(
                "output='torch': frames of other processes come as NumPy arrays; leave output out"
            )
        cuda = str(settings.get("device", "cpu")).startswith("cuda")
        gpus = float(cuda) if gpus_per_worker is None else float(gpus_per_worker)
        self._started_ray = enter(address, self.workers)
        self._crew: Crew | None = None
        try:
            need(self.workers, gpus, cpus_per_worker)
            self._crew = Crew(
                self.workers,
                self.envs_per_worker,
                options={"num_gpus": gpus, "num_cpus": cpus_per_worker},
                settings=settings,
                every=every,
                most_failures=failures,
                start_seconds=start_seconds,
            )
            facts = self._crew.make()
            same_program(facts, settings.get("world", "tiny"))
        except BaseException:
            self.close()
            raise
        first = facts[0]
        self.num_envs = self.workers * self.envs_per_worker
        self.metadata = first["metadata"]
        self.autoreset_mode: AutoresetMode = self.metadata["autoreset_mode"]
        self.max_episode_steps: int | None = first["max_episode_steps"]
        self.frames_per_step: int = first["frames_per_step"]
        self.render_mode = settings.get("render_mode")
        self.single_action_space = first["single_action_space"]
        self.single_observation_space = first["single_observation_space"]
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self._actions = first["actions"]
        self._seeded = np.zeros(self.num_envs, bool)
        self._ended = np.zeros(self.num_envs, bool)
        self._begun = False

    # The interface of a vector environment -----------------------------------------------------------------

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Start episodes in all slots, or in those of `options["reset_mask"]`, as the local one does."""
        self._check_open()
        options = dict(options or {})
        mask = mask_of_slots(options.pop("reset_mask", None), self.num_envs, self._begun)
        seeds = self._seeds(seed, mask)
        if options:
            self.crew.get(self.crew.members[0], self.crew.members[0].actor.check_reset.remote(options))
        parts = [(self._part(seeds, w), self._reset_options(options, mask, w)) for w in range(self.workers)]
        answers = self.crew.change("reset", parts)
        self._begun = True
        self._seeded |= mask
        self._ended &= ~mask
        return gather([seen for seen, _ in answers]), self._infos([info for _, info in answers])

    def step(self, actions: Any) -> tuple[Any, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Move every slot for one chunk; the steps of all workers overlap."""
        self._check_begun()
        check_none_ended(self._ended, self.autoreset_mode)
        self._actions.command(actions, self.num_envs)  # raises before any worker moves
        rows = np.asarray(actions)
        answers = self.crew.change("step", [(self._part(rows, w),) for w in range(self.workers)])
        seen, rewards, terminated, truncated, infos = zip(*answers, strict=True)
        ends = np.concatenate(terminated), np.concatenate(truncated)
        self._ended = ends[0] | ends[1]
        return gather(seen), np.concatenate(rewards), *ends, self._infos(infos)

    def collect(self, steps: int, policy: Policy, *, seed: int = 0) -> Iterator[Fragment]:
        """Yield `steps` steps of every worker under a policy, the quickest worker first.

        policy: `(observations, generator) -> actions` of a worker's slots. It runs beside the world and is
        sent there by cloudpickle, so that a slow worker holds up itself alone. seed: its generator is that of
        (seed, worker). A worker that dies is replaced and its fragment begun again, with equal results.
        """
        self._check_begun()
        count = _count("steps", steps)
        asked: dict[int, Callable[[], Any]] = {}
        for member in self.crew.members:
            own = int(np.random.SeedSequence([seed, member.number]).generate_state(1)[0])
            asked[member.number] = partial(_collect, member, count, policy, own)
        refs = {again(): number for number, again in asked.items()}

        def arrived(ref: Any) -> Fragment:
            member = self.crew.members[refs.pop(ref)]
            fragment: Fragment = self.crew.finished(member, ref, asked[member.number])
            self.crew.keep(member, ("steps", (fragment.actions,)))
            self._ended[fragment.slots] = fragment.terminated[-1] | fragment.truncated[-1]
            return fragment

        try:
            while refs:
                (ready,), _ = ray().wait(list(refs), num_returns=1)
                yield arrived(ready)
        finally:
            for ref in list(refs):  # the caller stopped early: what was walked counts all the same
                arrived(ref)

    def render(self) -> tuple[Any, ...] | None:
        """Return each slot's newest frame, or the pixel frames of its last step."""
        if self.render_mode is None:
            return None
        self._check_begun()
        return tuple(frame for part in self.crew.ask("render") for frame in part)

    def set_prompt(self, prompts: str | Sequence[str | None]) -> None:
        """Tell every slot (or each its own; None keeps it) a new prompt, from the next chunk on."""
        self._check_begun()
        told = prompts_of_slots(prompts, self.num_envs)
        self.crew.change("ask", [("set_prompt", self._part(told, w)) for w in range(self.workers)])

    def snapshot(self, slot: int) -> Snapshot:
        """Return the moment of one slot; it restores into any environment of equal configuration."""
        self._check_begun()
        if not whole(as_integer(slot), 0, self.num_envs - 1):
            raise IndexError(f"slot={shown(slot)} must be an integer in 0 .. {self.num_envs - 1}")
        member, own = self.crew.members[slot // self.envs_per_worker], slot % self.envs_per_worker
        found: Snapshot = self.crew.get(member, member.actor.ask.remote("snapshot", own))
        return found

    def call(self, name: str, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        """Return what every slot answers, as `SanaWMVectorEnv.call` does."""
        self._check_open()
        if name == "set_prompt":
            prompt = args[0] if args else kwargs.get("prompt")
            self.set_prompt([prompt] * self.num_envs)
            return (None,) * self.num_envs
        return tuple(value for part in self.crew.ask("call", name, *args, **kwargs) for value in part)

    def get_attr(self, name: str) -> tuple[Any, ...]:
        """Return a fact of every slot."""
        return self.call(name)

    def close_extras(self, **kwargs: Any) -> None:
        """End all workers, and Ray where this environment has started it."""
        if self._crew is not None:
            self._crew.close()
        if self._started_ray:
            ray().shutdown()
            self._started_ray = False

    @property
    def crew(self) -> Crew:
        """The workers."""
        assert self._crew is not None  # it is made before anything else
        return self._crew

    def pids(self) -> list[int]:
        """Return the process of every worker."""
        return [self.crew.get(member, member.actor.pid.remote()) for member in self.crew.members]

    def _part(self, values: Any, worker: int) -> Any:
        return values[worker * self.envs_per_worker : (worker + 1) * self.envs_per_worker]

    def _reset_options(self, options: dict[str, Any], mask: np.ndarray, worker: int) -> dict[str, Any]:
        own = self._part(mask, worker)
        return options if own.all() else {**options, "reset_mask": own}

    def _infos(self, parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
        return gather_infos(parts, [self.envs_per_worker] * self.workers)

    def _seeds(self, seed: Any, mask: np.ndarray) -> list[int | None]:
        """Return a seed for every slot; one without any so far is given one, so that it can be told again."""
        seeds = seeds_of_slots(seed, self.num_envs)
        for slot in np.flatnonzero(mask):
            if seeds[slot] is None and not self._seeded[slot]:
                seeds[slot] = int(seeding.np_random(None)[1]) % 2**63
            elif seeds[slot] is not None:
                seeding.np_random(seeds[slot])  # raises before any worker moves
        return seeds

    def _check_open(self) -> None:
        if self.closed:
            raise ClosedEnvironmentError("this environment is closed; make a new one")

    def _check_begun(self) -> None:
        self._check_open()
        if not self._begun:
            raise ResetNeeded("call reset() first: no episode is in progress")


def same_program(facts: Sequence[dict[str, Any]], world: Any) -> None:
    """Raise `ValueError` where a worker has other sources or weights than the driver."""
    weights = facts[0]["weights_sha256"]
    if isinstance(world, str) and world in EMBEDDED:
        weights = load_card(world_path(world))["sha256"]
    for number, one in enumerate(facts):
        wanted = {"package": package_sha256(), "weights": weights}
        found = {"package": one["package_sha256"], "weights": one["weights_sha256"]}
        for what, digest in wanted.items():
            if found[what] != digest:
                raise ValueError(
                    f"worker {number} has another {what} than the driver ({str(found[what])[:12]}, here "
                    f"{str(digest)[:12]}); install the same on every machine"
                )


def _collect(member: Member, count: int, policy: Policy, seed: int) -> Any:
    return member.actor.collect.remote(count, policy, seed)


def _count(name: str, value: Any) -> int:
    number = as_integer(value)
    if not whole(number, 1, MOST_ENVS):
        raise ValueError(f"{name}={shown(value)} must be an integer in 1 .. {MOST_ENVS}")
    return int(number)  # type: ignore[arg-type]
