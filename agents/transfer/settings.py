"""What is trained and walked to find out what transfers."""

from __future__ import annotations

from dataclasses import dataclass

from wm_env.agents.policies import PPOSettings

TASKS = ("pointnav", "objectnav", "imagenav")  # they have a goal, a success and a scripted expert


@dataclass(frozen=True, kw_only=True)
class TransferSettings:
    """What is trained and walked.

    learner: settings of every training; world, blind, ablate, temperature and seed are varied. seeds: how
    many trainings of each. episodes: of every policy and environment; curve_episodes: of every checkpoint.
    temperatures: at which the policy trained in the learned world is scored there, beside 1.
    train_temperatures: at which further policies are trained. seed: first seed of training and evaluation.
    """

    learner: PPOSettings
    seeds: int = 5
    episodes: int = 100
    curve_episodes: int = 30
    temperatures: tuple[float, ...] = (0.0, 0.5, 1.0, 1.5)
    train_temperatures: tuple[float, ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("seeds", "episodes", "curve_episodes"):
            if self.__dict__[name] < 1:
                raise ValueError(f"{name}={self.__dict__[name]} must be at least 1")
        if self.learner.task not in TASKS:
            raise ValueError(
                f"transfer needs a task with a goal ({', '.join(TASKS)}), not {self.learner.task!r}"
            )
        if self.learner.obs_type != "rgb":
            raise ValueError(
                f"transfer compares policies that see pictures, not obs_type={self.learner.obs_type!r}"
            )
        if self.learner.world == "twin":
            raise ValueError("world 'twin' is the true one already; give the learned world to transfer from")
