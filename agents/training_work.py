"""How much work a PPO run is, for its progress bar: env steps, learning from them, evaluations, a film.

One measure for all of them, so that one rate tells how long the rest takes:

    an env step that is collected    c          learning from it                        1 - c
    an env step of an evaluation     c          an env step of the film, one slot only  2 c

so a step of training counts one, once it is learned from, and an evaluation is a fraction of it. c is the
share of the time that collecting took so far; 1/2 during the first rollout.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

from wm_env.agents.evaluate import steps_left
from wm_env.progress import Bar

FIRST_SHARE, FILMED = 0.5, 2.0  # c before it is known; batches of 16 are half as dear a slot as single ones
Report = Callable[[int, float, str], None]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a run is made of.

    learned: env steps at the beginning, steps: at the end. slots: stepped together. rollout: env steps of all
    slots between updates. every: env steps between evaluations. scored: worlds scored at the end. episodes:
    of an evaluation, each at most `limit` steps long.
    """

    learned: int
    steps: int
    slots: int
    rollout: int
    every: int
    scored: int
    episodes: int
    limit: int

    @property
    def collected(self) -> int:
        """Env steps at the end: rollouts are whole."""
        return self.learned + math.ceil(max(0, self.steps - self.learned) / self.rollout) * self.rollout

    def evaluation(self, ends: float) -> float:
        """Return the env steps expected of an evaluation. ends: episodes that end early, per env step."""
        slots = min(self.slots, self.episodes)
        return slots * steps_left(ends, [0] * slots, self.episodes - slots, self.limit, slots)

    def evaluations_after(self, evaluated: int, collected: int) -> int:
        """Return how many are to come before the end; the last was at step `evaluated`."""
        apart = self.slots * math.ceil(self.every / self.slots)  # asked for after every step of all slots
        wait = self.slots * max(1, math.ceil((evaluated + self.every - collected) / self.slots))
        left = self.collected - collected - wait
        return 0 if left < 0 else 1 + left // apart


class TrainingBar:
    """The progress bar of a run, from its first step to its film."""

    def __init__(
        self, plan: Plan, bar: Callable[..., Bar] = Bar, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._plan, self._clock = plan, clock
        self._collected, self._learned = plan.learned, float(plan.learned)
        self._evaluated, self._apart, self._scores_left = plan.learned, 0.0, plan.scored
        self._evaluation, self._what = plan.evaluation(0.0), ""
        self._before = self._now = (0, 0)  # episodes ended early, env steps: of a rollout
        self._share, self._collecting, self._learning, self._last = FIRST_SHARE, 0.0, 0.0, clock()
        self.bar = bar(self._total(), "training", done=plan.learned, clock=clock)

    def settle(self) -> None:
        """Note that all that is collected is learned from."""
        self.learn(1.0)
        if self._learning:
            self._share = self._collecting / (self._collecting + self._learning)
        self._before, self._now = self._now, (0, 0)

    def collect(self, steps: int, ended: int) -> None:
        """Note that `steps` env steps are collected in all, and `ended` more episodes ended early."""
        early, among = self._now
        self._now = early + ended, among + steps - self._collected
        self._collected = steps
        self._collecting += self._since()
        early, among = self._before[0] + self._now[0], self._before[1] + self._now[1]
        self._evaluation = self._plan.evaluation(early / max(1, among))
        self._move()

    def learn(self, share: float) -> None:
        """Note that this share of the gradient steps on the newest rollout is made."""
        spent = self._since()
        if self._learned < self._collected:
            since = self._collected - self._plan.learned
            begun = self._plan.learned + (since - 1) // self._plan.rollout * self._plan.rollout
            self._learned = begun + min(1.0, share) * (self._collected - begun)
            self._learning += spent
        self._what = f"{round(self._learned)} of {self._plan.steps} learned"
        self._move()

    def evaluation(self, what: str, final: bool) -> Report:
        """Return what an evaluation that begins now is to report to."""
        if final:
            self._scores_left -= 1
        else:
            self._evaluated = self._collected
        before = self._apart

        def report(made: int, total: float, told: str) -> None:
            self._since()
            self._apart = before + self._share * made
            self._what = f"{what}, {told}"
            self._move(self._share * (total - made))

        return report

    def film(self, step: int) -> None:
        """Note that the film has its first `step` steps."""
        self.bar.to(self._done() + self._share * FILMED * step, what="filming")

    def close(self) -> None:
        """Leave the bar as it is; the run has ended or was stopped."""
        self.bar.close()

    def finish(self) -> None:
        """Show that nothing is left: episodes may have been shorter than their limits."""
        self.bar.total = self.bar.n
        self.bar.set_postfix_str("", refresh=False)
        self.bar.close()

    def _since(self) -> float:
        """Return the seconds since this was last asked."""
        before, self._last = self._last, self._clock()
        return self._last - before

    def _done(self) -> float:
        ahead = self._collected - self._learned  # collected, and not yet learned from
        return self._learned + self._share * ahead + self._apart

    def _total(self, running: float = 0.0) -> float:
        plan = self._plan
        left = plan.evaluations_after(self._evaluated, self._collected) + self._scores_left
        apart = self._share * (left * self._evaluation + FILMED * plan.limit)
        return plan.collected + self._apart + running + apart

    def _move(self, running: float = 0.0) -> None:
        self.bar.to(self._done(), self._total(running), self._what)
