"""`RayVectorEnv`: one Gymnasium vector environment over many Ray actors, each with one batched environment.

A state is a value, so a worker that dies loses nothing: the driver keeps a snapshot of every worker and what
it was told since, gives both to a new actor, and what follows is what would have followed (bit for bit on a
CPU, at equal thread counts).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from gymnasium.error import ClosedEnvironmentError, ResetNeeded
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from wm_env.distributed.cluster import enter, need, ray
from wm_env.distributed.gathering import gather, gather_infos
from wm_env.distributed.identity import package_sha256
from wm_env.distributed.worker import Fragment, Policy, Worker
from wm_env.model.embedded import EMBEDDED, world_path
from wm_env.model.names import unknown
from wm_env.model.storage.checkpoint import load_card
from wm_env.model.storage.facts import as_integer, shown, whole
from wm_env.snapshots import Snapshot
from wm_env.vector import MOST_ENVS

SHARE = 0.05  # of a worker's time that its snapshots may take
MOST_STEPS = 256  # between two snapshots
Call = tuple[str, tuple[Any, ...]]


class _Member:
    """A worker as the driver knows it.

    log: calls that changed its environment since `kept`, the bytes of its newest snapshot (None: since it
    was made). pending: a snapshot under way and the length of the log when it was asked for. every: steps
    between snapshots. step_seconds: mean of its steps. failures: deaths in a row.
    """

    def __init__(self, number: int, every: int) -> None:
        self.number, self.every = number, every
        self.actor: Any = None
        self.log: list[Call] = []
        self.kept: bytes | None = None
        self.pending: tuple[Any, int] | None = None
        self.step_seconds = 0.0
        self.failures = 0
        self.last = ""


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
        every = MOST_STEPS if snapshot_every is None else _count("snapshot_every", snapshot_every)
        self._every = None if snapshot_every is None else every
        self._most_failures = _count("max_failures", max_failures)
        if settings.get("output", "numpy") != "numpy":
            raise ValueError("output='torch': frames of other processes come as NumPy arrays; leave output out")
        cuda = str(settings.get("device", "cpu")).startswith("cuda")
        gpus = float(cuda) if gpus_per_worker is None else float(gpus_per_worker)
        self._started_ray = enter(address, self.workers)
        self._members: list[_Member] = []
        try:
            need(self.workers, gpus, cpus_per_worker)
            self._options = {"num_gpus": gpus, "num_cpus": cpus_per_worker}
            self._settings, self._start_seconds = settings, start_seconds
            self._members = [_Member(number, 1) for number in range(self.workers)]
            facts = self._make_all()
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
        mask = self._mask(options.pop("reset_mask", None))
        seeds = self._seeds(seed, mask)
        if options:
            self._get(self._members[0], self._members[0].actor.check_reset.remote(options))
        parts = [(self._part(seeds, w), self._reset_options(options, mask, w)) for w in range(self.workers)]
        answers = self._change("reset", parts)
        self._begun = True
        self._seeded |= mask
        self._ended &= ~mask
        return gather([seen for seen, _ in answers]), self._infos([info for _, info in answers])

    def step(self, actions: Any) -> tuple[Any, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Move every slot for one chunk; the steps of all workers overlap."""
        self._check_begun()
        if self.autoreset_mode is AutoresetMode.DISABLED and self._ended.any():
            ended = np.flatnonzero(self._ended).tolist()
            raise ResetNeeded(f"slots {ended} have ended; reset them with options['reset_mask']")
        self._actions.command(actions, self.num_envs)  # raises before any worker moves
        rows = np.asarray(actions)
        started = time.perf_counter()
        answers = self._change("step", [(self._part(rows, w),) for w in range(self.workers)])
        for member in self._members:
            spent = (time.perf_counter() - started) - member.step_seconds
            member.step_seconds += spent if member.step_seconds == 0 else 0.1 * spent
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
        asked = {}
        for member in self._members:
            own = int(np.random.SeedSequence([seed, member.number]).generate_state(1)[0])
            asked[member.number] = (count, policy, own)
        refs = {self._members[n].actor.collect.remote(*args): n for n, args in asked.items()}
        try:
            while refs:
                (ready,), _ = ray().wait(list(refs), num_returns=1)
                member = self._members[refs.pop(ready)]
                fragment = self._finished(member, ready, lambda m=member: m.actor.collect.remote(*asked[m.number]))  # type: ignore[misc]
                self._keep(member, ("steps", (fragment.actions,)), count)
                self._ended[fragment.slots] = fragment.terminated[-1] | fragment.truncated[-1]
                yield fragment
        finally:
            for ref, number in refs.items():  # the caller stopped early: what was walked counts all the same
                member = self._members[number]
                fragment = self._finished(member, ref, lambda m=member: m.actor.collect.remote(*asked[m.number]))  # type: ignore[misc]
                self._keep(member, ("steps", (fragment.actions,)), count)

    def render(self) -> tuple[Any, ...] | None:
        """Return each slot's newest frame, or the pixel frames of its last step."""
        if self.render_mode is None:
            return None
        self._check_begun()
        return tuple(frame for part in self._ask("render") for frame in part)

    def set_prompt(self, prompts: str | Sequence[str | None]) -> None:
        """Tell every slot (or each its own; None keeps it) a new prompt, from the next chunk on."""
        self._check_begun()
        if not isinstance(prompts, str | list | tuple):
            raise ValueError(f"prompts are a {type(prompts).__name__}; expected a text, or one for each env")
        told = [prompts] * self.num_envs if isinstance(prompts, str) else list(prompts)
        if len(told) != self.num_envs:
            raise ValueError(f"{len(told)} prompts were given for {self.num_envs} envs")
        self._change("ask", [("set_prompt", self._part(told, w)) for w in range(self.workers)])

    def snapshot(self, slot: int) -> Snapshot:
        """Return the moment of one slot; it restores into any environment of equal configuration."""
        self._check_begun()
        if not whole(as_integer(slot), 0, self.num_envs - 1):
            raise IndexError(f"slot={shown(slot)} must be an integer in 0 .. {self.num_envs - 1}")
        member, own = self._members[slot // self.envs_per_worker], slot % self.envs_per_worker
        found: Snapshot = self._get(member, member.actor.ask.remote("snapshot", own))
        return found

    def call(self, name: str, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        """Return what every slot answers, as `SanaWMVectorEnv.call` does."""
        self._check_open()
        if name == "set_prompt":
            prompt = args[0] if args else kwargs.get("prompt")
            self.set_prompt([prompt] * self.num_envs)
            return (None,) * self.num_envs
        return tuple(value for part in self._ask("call", name, *args, **kwargs) for value in part)

    def get_attr(self, name: str) -> tuple[Any, ...]:
        """Return a fact of every slot."""
        return self.call(name)

    def close_extras(self, **kwargs: Any) -> None:
        """End all workers, and Ray where this environment has started it."""
        for member in self._members:
            if member.actor is not None:
                ray().kill(member.actor)
                member.actor = None
        if self._started_ray:
            ray().shutdown()
            self._started_ray = False

    def pids(self) -> list[int]:
        """Return the process of every worker."""
        return [self._get(member, member.actor.pid.remote()) for member in self._members]

    # Workers ------------------------------------------------------------------------------------------------

    def _make_all(self) -> list[dict[str, Any]]:
        refs = []
        for member in self._members:
            member.actor = self._actor(member)
            refs.append(member.actor.make.remote(self._settings))
        facts = []
        for member, ref in zip(self._members, refs, strict=True):
            try:
                facts.append(self._get(member, ref, self._start_seconds))
            except ray().exceptions.RayActorError:
                facts.append(self._revive(member))
        self._same_program(facts)
        return facts

    def _actor(self, member: _Member) -> Any:
        remote = ray().remote(_RayWorker)
        return remote.options(**self._options).remote(member.number, self.envs_per_worker)

    def _same_program(self, facts: Sequence[dict[str, Any]]) -> None:
        """Raise `ValueError` where a worker has other sources or weights than the driver."""
        world = self._settings.get("world", "tiny")
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

    def _change(self, method: str, arguments: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Return what every worker answers to a call that changes it; all have made it, or none."""
        refs = [
            getattr(member.actor, method).remote(*args)
            for member, args in zip(self._members, arguments, strict=True)
        ]
        answers, changed, refused = [], [], None
        for member, ref, args in zip(self._members, refs, arguments, strict=True):
            try:
                answers.append(
                    self._finished(
                        member, ref, lambda m=member, a=args: getattr(m.actor, method).remote(*a)  # type: ignore[misc]
                    )
                )
                changed.append(member)
            except Exception as error:
                refused = refused or error
        if refused is not None:
            for member in changed:
                self._go_back(member)
            raise refused
        for member, args in zip(self._members, arguments, strict=True):
            self._keep(member, (method, args))
        return answers

    def _ask(self, name: str, *args: Any, **kwargs: Any) -> list[Any]:
        refs = [member.actor.ask.remote(name, *args, **kwargs) for member in self._members]
        return [
            self._finished(
                member, ref, lambda m=member: m.actor.ask.remote(name, *args, **kwargs)  # type: ignore[misc]
            )
            for member, ref in zip(self._members, refs, strict=True)
        ]

    def _finished(self, member: _Member, ref: Any, again: Callable[[], Any]) -> Any:
        """Return a worker's answer; a worker that has died is replaced and asked again."""
        while True:
            try:
                answer = self._get(member, ref)
            except ray().exceptions.RayActorError as error:
                member.last = str(error).strip().split("\n")[0]
                self._revive(member)
                ref = again()
            else:
                member.failures = 0
                return answer

    def _get(self, member: _Member, ref: Any, seconds: float | None = None) -> Any:
        """Return an answer; what the worker raised is raised as it was."""
        try:
            return ray().get(ref, timeout=seconds)
        except ray().exceptions.GetTimeoutError as error:
            raise RuntimeError(
                f"worker {member.number} was not ready after {seconds:g} s; is the cluster busy? "
                "(start_seconds= waits longer)"
            ) from error
        except ray().exceptions.RayTaskError as error:
            raise (error.cause if isinstance(error.cause, Exception) else error) from None

    def _revive(self, member: _Member) -> dict[str, Any]:
        """Replace a worker that has died: its newest snapshot, then what it was told since."""
        while True:
            member.failures += 1
            if member.failures > self._most_failures:
                raise RuntimeError(
                    f"worker {member.number} died {member.failures} times in a row; the last time: {member.last}"
                )
            member.pending = None
            member.actor = self._actor(member)
            try:
                facts = self._get(member, member.actor.make.remote(self._settings), self._start_seconds)
                self._go_back(member)
            except ray().exceptions.RayActorError as error:
                member.last = str(error).strip().split("\n")[0]
            else:
                return facts

    def _go_back(self, member: _Member) -> None:
        """Put a worker where its snapshot and its log say that it stands."""
        if member.kept is not None:
            self._get(member, member.actor.restore.remote(member.kept))
        elif not member.log:
            self._get(member, member.actor.make.remote(self._settings))
        for method, args in member.log:
            last = getattr(member.actor, method).remote(*args)
            self._get(member, last)

    def _keep(self, member: _Member, call: Call, steps: int = 1) -> None:
        """Note what a worker has done, and see to its snapshots."""
        member.log.append(call)
        self._take(member)
        walked = sum(len(args[0]) if method == "steps" else 1 for method, args in member.log)
        if member.pending is None and (member.kept is None or walked >= member.every):
            member.pending = (member.actor.snapshot.remote(), len(member.log))

    def _take(self, member: _Member) -> None:
        """Take a snapshot that has arrived, and choose by its cost when the next is due."""
        if member.pending is None:
            return
        ref, told = member.pending
        ready, _ = ray().wait([ref], timeout=0)
        if not ready:
            return
        member.pending = None
        try:
            member.kept, seconds = ray().get(ref)
        except ray().exceptions.RayError:
            return  # the worker died over it; its next call says so
        member.log = member.log[told:]
        if self._every is not None:
            member.every = self._every
        elif member.step_seconds > 0:
            member.every = min(MOST_STEPS, max(1, math.ceil(seconds / (SHARE * member.step_seconds))))

    # ----------------------------------------------------------------------------------------------------------

    def _part(self, values: Any, worker: int) -> Any:
        return values[worker * self.envs_per_worker : (worker + 1) * self.envs_per_worker]

    def _reset_options(self, options: dict[str, Any], mask: np.ndarray, worker: int) -> dict[str, Any]:
        own = self._part(mask, worker)
        return options if own.all() else {**options, "reset_mask": own}

    def _infos(self, parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
        return gather_infos(parts, [self.envs_per_worker] * self.workers)

    def _mask(self, mask: Any) -> np.ndarray:
        if mask is None:
            return np.ones(self.num_envs, bool)
        if not isinstance(mask, np.ndarray) or mask.dtype != np.bool_ or mask.shape != (self.num_envs,):
            raise ValueError(f"options['reset_mask'] must be a numpy bool array of shape ({self.num_envs},)")
        if not mask.any():
            raise ValueError("options['reset_mask'] selects no slot")
        if not self._begun and not mask.all():
            raise ResetNeeded("the first reset starts every slot; call reset() without a reset_mask")
        return mask

    def _seeds(self, seed: Any, mask: np.ndarray) -> list[int | None]:
        """Return a seed for every slot; one without any so far is given one, so that it can be told again."""
        if seed is None:
            seeds: list[Any] = [None] * self.num_envs
        elif isinstance(seed, int | np.integer) and not isinstance(seed, bool):
            seeds = [int(seed) + slot for slot in range(self.num_envs)]
        elif isinstance(seed, Sequence | np.ndarray) and not isinstance(seed, str | bytes):
            if len(seed) != self.num_envs:
                raise ValueError(f"{len(seed)} seeds were given for {self.num_envs} envs")
            seeds = [int(one) if isinstance(one, np.integer) else one for one in seed]
        else:
            raise ValueError(f"seed={shown(seed)} is neither an integer nor one for each env")
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


class _RayWorker(Worker):
    """The worker as an actor."""

    def pid(self) -> int:
        """Return its process."""
        import os

        return os.getpid()


def _count(name: str, value: Any) -> int:
    number = as_integer(value)
    if not whole(number, 1, MOST_ENVS):
        raise ValueError(f"{name}={shown(value)} must be an integer in 1 .. {MOST_ENVS}")
    return int(number)  # type: ignore[arg-type]
