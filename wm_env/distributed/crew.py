"""The workers of a `RayVectorEnv`: asked together, replaced when they die, put back when one refuses.

The driver keeps of every worker the newest snapshot that has arrived and the calls that have changed it
since. A new actor that is given both stands where the old one stood.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from wm_env.distributed.cluster import ray
from wm_env.distributed.worker import Worker

SHARE = 0.05  # of a worker's time that its snapshots may take
MOST_STEPS = 256  # between two snapshots
Call = tuple[str, tuple[Any, ...]]


class Member:
    """A worker as the driver knows it.

    log: calls that changed its environment since `kept`, the bytes of its newest snapshot (None: since it
    was made). pending: a snapshot under way and the length of the log when it was asked for. every: steps
    between snapshots. failures: deaths in a row.
    """

    def __init__(self, number: int) -> None:
        self.number, self.every = number, 1
        self.actor: Any = None
        self.log: list[Call] = []
        self.kept: bytes | None = None
        self.pending: tuple[Any, int] | None = None
        self.failures = 0
        self.last = ""


class Crew:
    """`workers` actors of `slots` slots each.

    options: what Ray reserves for one. settings: of its environment.
    every: steps between two snapshots, None to choose by their cost. most_failures: deaths in a row of one
    worker. start_seconds: how long one may take to load its world.
    """

    def __init__(
        self,
        workers: int,
        slots: int,
        *,
        options: Mapping[str, Any],
        settings: Mapping[str, Any],
        every: int | None,
        most_failures: int,
        start_seconds: float,
    ) -> None:
        self.members = [Member(number) for number in range(workers)]
        self._slots, self._options, self._settings = slots, dict(options), dict(settings)
        self._every, self._most_failures, self._start_seconds = every, most_failures, start_seconds
        self._step_seconds = 0.0  # running mean over the steps of all

    def make(self) -> list[dict[str, Any]]:
        """Make all actors and their environments at once; return what each says of its own."""
        refs = []
        for member in self.members:
            member.actor = self._actor(member)
            refs.append(member.actor.make.remote(self._settings))
        facts = []
        for member, ref in zip(self.members, refs, strict=True):
            try:
                facts.append(self.get(member, ref, self._start_seconds))
            except ray().exceptions.RayActorError:
                facts.append(self._revive(member))
        return facts

    def _actor(self, member: Member) -> Any:
        remote = ray().remote(Worker)
        return remote.options(**self._options).remote(member.number, self._slots)

    def change(self, method: str, arguments: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Return what every worker answers to a call that changes it; all have made it, or none."""
        started = time.perf_counter()
        refs = [
            getattr(member.actor, method).remote(*args)
            for member, args in zip(self.members, arguments, strict=True)
        ]
        answers, changed, refused = [], [], None
        for member, ref, args in zip(self.members, refs, arguments, strict=True):
            try:
                answers.append(
                    self.finished(
                        member,
                        ref,
                        lambda m=member, a=args: getattr(m.actor, method).remote(*a),  # type: ignore[misc]
                    )
                )
                changed.append(member)
            except Exception as error:
                refused = refused or error
        if refused is not None:
            for member in changed:
                self.get(member, member.actor.make.remote(self._settings))
                self._go_on(member)
            raise refused
        if method == "step":
            spent = time.perf_counter() - started
            known = self._step_seconds
            self._step_seconds = spent if known == 0 else 0.9 * known + 0.1 * spent
        for member, args in zip(self.members, arguments, strict=True):
            self.keep(member, (method, args))
        return answers

    def ask(self, name: str, *args: Any, **kwargs: Any) -> list[Any]:
        """Return what every worker's environment answers to a method that changes nothing."""
        refs = [member.actor.ask.remote(name, *args, **kwargs) for member in self.members]
        return [
            self.finished(
                member,
                ref,
                lambda m=member: m.actor.ask.remote(name, *args, **kwargs),  # type: ignore[misc]
            )
            for member, ref in zip(self.members, refs, strict=True)
        ]

    def finished(self, member: Member, ref: Any, again: Callable[[], Any]) -> Any:
        """Return a worker's answer; a worker that has died is replaced and asked again."""
        while True:
            try:
                answer = self.get(member, ref)
            except ray().exceptions.RayActorError as error:
                member.last = str(error).strip().split("\n")[0]
                self._revive(member)
                ref = again()
            else:
                member.failures = 0
                return answer

    def get(self, member: Member, ref: Any, seconds: float | None = None) -> Any:
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

    def _revive(self, member: Member) -> dict[str, Any]:
        """Replace a worker that has died: its newest snapshot, then what it was told since."""
        while True:
            member.failures += 1
            if member.failures > self._most_failures:
                raise RuntimeError(
                    f"worker {member.number} died {member.failures} times in a row; at last: {member.last}"
                )
            member.pending = None
            member.actor = self._actor(member)
            try:
                facts = self.get(member, member.actor.make.remote(self._settings), self._start_seconds)
                self._go_on(member)
            except ray().exceptions.RayActorError as error:
                member.last = str(error).strip().split("\n")[0]
            else:
                return facts

    def _go_on(self, member: Member) -> None:
        """Put a worker whose environment is new where its snapshot and its log say that it stands."""
        if member.kept is not None:
            self.get(member, member.actor.restore.remote(member.kept))
        for method, args in member.log:
            self.get(member, getattr(member.actor, method).remote(*args))

    def keep(self, member: Member, call: Call) -> None:
        """Note what a worker has done, and see to its snapshots."""
        member.log.append(call)
        self._take(member)
        walked = sum(len(args[0]) if method == "steps" else 1 for method, args in member.log)
        if member.pending is None and (member.kept is None or walked >= member.every):
            member.pending = (member.actor.snapshot.remote(), len(member.log))

    def _take(self, member: Member) -> None:
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
        elif self._step_seconds > 0:
            member.every = min(MOST_STEPS, max(1, math.ceil(seconds / (SHARE * self._step_seconds))))

    def close(self) -> None:
        """End all actors."""
        for member in self.members:
            if member.actor is not None:
                ray().kill(member.actor)
                member.actor = None
