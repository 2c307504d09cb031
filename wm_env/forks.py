"""A forked process computes with one thread: torch's OpenMP threads do not survive a fork.

GNU OpenMP, which torch's wheels for Linux bring along, keeps its threads in a pool. A forked child inherits
the pool but not the threads, and waits for them for ever in its first operation that is shared out. torch
gives its own forked data-loading workers one thread (torch/utils/data/_utils/worker.py). So does
`import wm_env`: a child that is forked while torch is loaded has one thread from its first moment on, and
asking for more raises. Processes that are spawned, or forked by a fork server, load torch anew and are free.

No torch is imported here: `import wm_env` stays cheap.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from multiprocessing.process import BaseProcess

_torch_was_forked = False


def watch_forks() -> None:
    """Give this process, if it was forked with torch loaded, and all that it forks from now on one thread."""
    if not hasattr(os, "register_at_fork"):
        return  # Windows cannot fork
    os.register_at_fork(after_in_child=_enter_child)
    if is_forked_worker(multiprocessing.current_process()):
        _enter_child()  # the parent had not imported wm_env, but may well have used torch


def check_fork(threads: int) -> None:
    """Raise `RuntimeError` where `threads` is more than a forked process may use."""
    if threads > 1 and _torch_was_forked:
        raise RuntimeError(
            f"threads={threads} would hang in a forked process (OpenMP's threads do not survive a fork): "
            "use start method 'spawn' or 'forkserver' (Gymnasium: context=, SB3: start_method=) or threads=1"
        )


def is_forked_worker(process: BaseProcess) -> bool:
    """Return whether multiprocessing forked this process. `ForkProcess` is missing where there is no fork."""
    return isinstance(process, multiprocessing.get_context("fork").Process)


def _enter_child() -> None:
    global _torch_was_forked
    torch = sys.modules.get("torch")
    if torch is not None:
        _torch_was_forked = True
        torch.set_num_threads(1)
