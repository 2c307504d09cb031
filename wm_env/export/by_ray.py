"""Episodes recorded by Ray actors: one that dies is replaced, and its episode is begun again.

An episode appears in its folder whole or not at all, so none is lost and none is there twice. The folder has
to be the same place for all machines.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from wm_env.distributed.cluster import enter, need, ray

MOST_DEATHS = 3  # of actors over one episode


class Recorder:
    """What an actor is: a process that records what it is told."""

    def record(self, record: Callable[[int], Path], index: int) -> Path:
        """Record one episode; return its folder."""
        torch.set_num_threads(1)
        return record(index)


def recorded_by_ray(
    record: Callable[[int], Path], indices: list[int], workers: int, address: str, device: str
) -> Iterator[Path]:
    """Yield the folder of every episode as it is finished, by `workers` actors.

    record: `index -> folder`, picklable; an environment is its own process's affair. address: "local" for Ray
    on this machine, or that of a cluster. device: of the world; a CUDA one takes a GPU an actor. Raises what
    an episode raised, and `OSError` for one over which actors died three times.
    """
    started = enter(None if address == "local" else address, workers)
    idle: list[Any] = []
    busy: dict[Any, tuple[Any, int]] = {}
    try:
        gpus = float(device.startswith("cuda"))
        need(workers, gpus, 1.0)
        made = ray().remote(Recorder).options(num_cpus=1, num_gpus=gpus)
        idle = [made.remote() for _ in range(min(workers, len(indices)))]
        waiting, deaths = deque(indices), dict.fromkeys(indices, 0)
        while waiting or busy:
            while idle and waiting:
                actor, index = idle.pop(), waiting.popleft()
                busy[actor.record.remote(record, index)] = (actor, index)
            (ready,), _ = ray().wait(list(busy), num_returns=1)
            actor, index = busy.pop(ready)
            try:
                folder: Path = ray().get(ready)
            except ray().exceptions.RayActorError as error:
                deaths[index] += 1
                if deaths[index] >= MOST_DEATHS:
                    raise OSError(
                        f"{MOST_DEATHS} recording processes died over episode {index}; the same command "
                        "goes on"
                    ) from error
                waiting.appendleft(index)
                idle.append(made.remote())
            except ray().exceptions.RayTaskError as error:
                raise (error.cause if isinstance(error.cause, Exception) else error) from None
            else:
                idle.append(actor)
                yield folder
    finally:
        if started:
            ray().shutdown()  # ends the actors, those at work too
        else:
            for actor in [*idle, *(actor for actor, _ in busy.values())]:
                ray().kill(actor)
