"""Tasks by name, and the protocol for one's own."""

from __future__ import annotations

from typing import Any

from wm_env.model.names import lacking, unknown
from wm_env.tasks import protocol
from wm_env.tasks.explore import Explore
from wm_env.tasks.follow import Follow
from wm_env.tasks.navigation import ImageNav, ObjectNav, PointNav
from wm_env.tasks.protocol import Task, TaskContext, TaskOutcome

__all__ = [
    "TASKS",
    "Explore",
    "Follow",
    "ImageNav",
    "ObjectNav",
    "PointNav",
    "Task",
    "TaskContext",
    "TaskOutcome",
    "make_task",
]

_MAKERS = {
    "explore": Explore,
    "pointnav": PointNav,
    "objectnav": ObjectNav,
    "imagenav": ImageNav,
    "follow": Follow,
}
TASKS = tuple(_MAKERS)


def make_task(task: str | Task) -> Task:
    """Return the task of a name, or the given `Task` object itself."""
    if isinstance(task, str) and task in _MAKERS:
        return _MAKERS[task]()
    if not isinstance(task, str | type) and isinstance(task, Task):
        return task
    if not isinstance(task, str):
        raise ValueError(lacking("task", task, Task, "a name or an object that is a wm_env.tasks.Task"))
    raise ValueError(unknown("task", task, TASKS, "or an object that is a Task"))


def __getattr__(name: str) -> Any:
    return getattr(protocol, name)
