"""How long calls take, and what the device reaches: a clock, turns and medians.

Implementations take turns and medians are reported, so that a slow moment of the machine hits all of them. On
the CPU the clock is the processor time of the process, which a busy neighbour lengthens little. On CUDA it is
the time between two events: before each call the device is given work that evicts its cache and lasts until
the host has issued the call, so that the time is the device's; the host's own time is reported beside it, and
so is the first call, which compiles.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch

Call = Callable[[], object]
LEAD_VALUES = 2**27  # 512 MiB of float32, several times the largest cache


class Timing(NamedTuple):
    """Medians over `runs` calls after two others, in seconds.

    seconds: a call on the device's clock. host: until the host has issued it. first: the very first call, by
    the wall, with compilation.
    """

    seconds: float
    host: float
    first: float
    runs: int


@dataclass(frozen=True, kw_only=True)
class Peaks:
    """What this device reached on a large copy and a large product."""

    bytes_per_second: float
    operations_per_second: float


class Lead:
    """Work that occupies the GPU for a while and leaves nothing of other tensors in its cache."""

    def __init__(self) -> None:
        self.buffer = torch.empty(LEAD_VALUES, device="cuda")
        self.buffer.fill_(0.5)
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        self.buffer.fill_(0.5)
        end.record()
        end.synchronize()
        self.seconds = max(begin.elapsed_time(end) / 1e3, 1e-5)

    def __call__(self, seconds: float) -> None:
        """Give the GPU at least so much to do, up to a tenth of a second."""
        for _ in range(1 + math.ceil(min(seconds, 0.1) / self.seconds)):
            self.buffer.fill_(0.5)


def measure(call: Call, lead: Lead | None, host: float) -> tuple[float, float]:
    """Return the seconds of one run and those that the host needed to issue it.

    lead: None on the CPU, where both are the processor's time. host: what issuing took before.
    """
    if lead is None:
        start = time.process_time()
        call()
        spent = time.process_time() - start
        return spent, spent
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize()
    lead(1.5 * host)
    begin.record()
    start = time.perf_counter()
    call()
    issued = time.perf_counter() - start
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / 1e3, issued


def time_calls(
    named: dict[str, Call], device: str, repeats: int, seconds: float = math.inf
) -> dict[str, Timing | str]:
    """Return the timing of every call by name, or in one line why it failed.

    The calls take turns: one round that compiles, one that warms up, then `repeats` rounds, or at least one
    of them and as many more as fit into `seconds` of wall-clock time.
    """
    lead = Lead() if device == "cuda" else None
    started = time.perf_counter()
    found: dict[str, Timing | str] = {}
    first: dict[str, float] = {}
    host: dict[str, list[float]] = {name: [] for name in named}
    spent: dict[str, list[float]] = {name: [] for name in named}
    for round_number in range(repeats + 2):
        if round_number > 2 and time.perf_counter() - started > seconds:
            break
        for name, call in named.items():
            if name in found:
                continue
            try:
                began = time.perf_counter()
                taken, issued = measure(call, lead, host[name][-1] if host[name] else 0.0)
            except Exception as error:  # one implementation's fault must not cost the times of the others
                found[name] = one_line(error)
                continue
            if round_number == 0:
                first[name] = time.perf_counter() - began
            else:
                host[name].append(issued)
            if round_number >= 2:
                spent[name].append(taken)
    return {
        name: found.get(name)
        or Timing(
            statistics.median(spent[name]), statistics.median(host[name]), first[name], len(spent[name])
        )
        for name in named
    }


def one_line(error: BaseException) -> str:
    """Return the kind and the first line of an error."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__


def extra_memory(call: Call) -> float:
    """Return the megabytes of GPU memory that one run needs beside its inputs."""
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call()
    return (torch.cuda.max_memory_allocated() - before) / 2**20


def peaks(dtype: str, device: str, quick: bool) -> Peaks:
    """Return what the device reaches on random numbers (constants can be faster than any real data)."""
    side = 64 if quick else 8192 if device == "cuda" else 1024
    a = torch.randn(side, side, device=device).to(getattr(torch, dtype))
    source = torch.randn(1024 if quick else 2**28 if device == "cuda" else 2**24, device=device)
    target = torch.empty_like(source)
    found = time_calls({"copy": lambda: target.copy_(source), "product": lambda: a @ a}, device, 5)
    copy, product = found["copy"], found["product"]
    if not isinstance(copy, Timing) or not isinstance(product, Timing):
        raise RuntimeError(f"the ceilings of {device} could not be measured: {found}")
    return Peaks(
        bytes_per_second=2 * source.nbytes / max(copy.seconds, 1e-9),
        operations_per_second=2 * side**3 / max(product.seconds, 1e-9),
    )
