"""A stand-in for a GPU: torch's device "cuda" is the CPU, its events read the wall clock.

So the code that only a GPU runs (events, memory counts, the order of parts) is executed by the tests of
machines that have none. It says nothing about times, and the Triton kernels run in the interpreter.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from torch.overrides import TorchFunctionMode

from wm_env.kernels import timing
from wm_env.model.released.measure import parts, step
from wm_env.model.released.measure.__main__ import about
from wm_env.model.released.measure.record import Record
from wm_env.model.released.measure.runner import run_parts


class Event:
    """What `torch.cuda.Event` does, on the wall clock."""

    def __init__(self, enable_timing: bool = False) -> None:
        self.at = 0.0

    def record(self) -> None:
        self.at = time.perf_counter()

    def synchronize(self) -> None:
        pass

    def elapsed_time(self, end: Event) -> float:
        return (end.at - self.at) * 1e3


class Generator(torch.Generator):
    """What `torch.Generator("cuda")` is: here one of the CPU."""

    def __new__(cls, device: Any = "cpu") -> Generator:
        return super().__new__(cls, _cpu(device))


class _OnCPU(TorchFunctionMode):
    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is torch.device:  # its name stays what the code under test asks for
            return function(*args, **(kwargs or {}))
        kwargs = {k: _cpu(v) if k == "device" else v for k, v in (kwargs or {}).items()}
        return function(*map(_cpu, args), **kwargs)


def _cpu(value: Any) -> Any:
    if isinstance(value, torch.device) and value.type == "cuda":
        return torch.device("cpu")
    return "cpu" if isinstance(value, str) and value.partition(":")[0] == "cuda" else value


@contextmanager
def simulated_cuda() -> Iterator[None]:
    """Let "cuda" be a device of this process, for the duration."""
    functions = {
        "Event": Event,
        "synchronize": lambda *_: None,
        "empty_cache": lambda: None,
        "is_available": lambda: True,
        "get_device_name": lambda *_: "simulated",
        "get_device_properties": lambda *_: SimpleNamespace(
            name="simulated", total_memory=2**36, multi_processor_count=1
        ),
        "reset_peak_memory_stats": lambda *_: None,
        "memory_allocated": lambda *_: 0,
        "memory_reserved": lambda *_: 0,
        "max_memory_allocated": lambda *_: 2**30,
        "mem_get_info": lambda *_: (2**35, 2**36),
        "get_sync_debug_mode": lambda: 0,
        "set_sync_debug_mode": lambda _: None,
    }
    with (
        mock.patch.multiple(torch.cuda, **functions),
        mock.patch.object(torch, "Generator", Generator),
        _OnCPU(),
    ):
        yield


def main(out: Path) -> None:
    """Run the parts of a GPU at toy sizes, one of each kind, into a file."""
    torch.set_num_threads(1)
    float16 = mock.patch.object(parts.Setting, "low", torch.float16)  # the interpreter cannot do bfloat16
    small = mock.patch.object(timing, "LEAD_VALUES", 2**10)
    plain = mock.patch.object(step, "resolve_impl", lambda *_: "chunk")  # interpreted steps take minutes
    with simulated_cuda(), float16, small, plain:
        every, free = parts.all_parts(parts.Setting("cuda", True))
        kinds = ("ceilings", "stage 1, batch 1", "with refiner, batch 1", "kernels: forward, B1", "waits")
        rules = ("proofs: triton, rules, layout", "proofs: triton, odd, match float16: 1 frames")
        chosen = [part for part in every if part.name.startswith((*kinds, *rules))]
        record = Record(out, about("cuda", True))
        deadline = time.monotonic() + 600
        run_parts(chosen, record, code="c", run="r", budget=600, deadline=deadline, free=free)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
