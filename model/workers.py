"""Worker processes that never outlive their parent and end at once when it is interrupted.

Every worker watches a pipe that only its parent holds open. The pipe closes when the parent closes it, or
when the parent is gone, by SIGKILL too; then the worker ends, whatever it was doing.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any, ParamSpec, TypeVar

import torch

from wm_env.model.interrupts import without_interrupts

P = ParamSpec("P")
R = TypeVar("R")


class Workers:
    """`count` spawned processes with one torch thread each.

    As a `with` block it waits for what is in work, or ends the processes at once where an exception, such as
    `Interrupted`, leaves the block.
    """

    def __init__(self, count: int) -> None:
        if count < 1:
            raise ValueError(f"count={count} must be at least 1")
        context = multiprocessing.get_context("spawn")
        watched, self._alive = context.Pipe(duplex=False)
        self._watched = watched
        self._pool = ProcessPoolExecutor(count, context, initializer=_begin, initargs=(watched,))

    def submit(self, call: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        """Return the future result of a call; a process is started where none is idle."""
        with without_interrupts():
            return self._pool.submit(call, *args, **kwargs)

    def map(self, call: Callable[[Any], R], values: Iterable[Any]) -> list[R]:
        """Return the results of `call` for every value, in order."""
        return [future.result() for future in [self.submit(call, value) for value in values]]

    def close(self) -> None:
        """End the processes at once; what they have in work is lost. May be called twice."""
        self._alive.close()
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._watched.close()

    def __enter__(self) -> Workers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._pool.shutdown(wait=True)
        finally:
            self.close()


def _begin(watched: Connection) -> None:
    """Set up a worker process."""
    threading.Thread(target=_end_with, args=(watched,), daemon=True).start()
    torch.set_num_threads(1)


def _end_with(watched: Connection) -> None:
    """Wait until the pipe is closed, then end this process without tidying up."""
    watched.poll(None)  # nothing is ever written: only the end of the pipe can come
    os._exit(1)
