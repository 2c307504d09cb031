"""Time every implementation of the frame-wise gated delta rule against the least time the device allows.

    python -m wm_env.kernels.bench --json results.json

Needs torch only (triton and flash-linear-attention are used where installed); runs from a bare checkout. On a
CPU it takes the embedded world's shapes and one thread, on CUDA the released model's.

The floor of a problem is max(bytes / bandwidth, operations / rate): every input read once, every output
written once, the multiply-adds of the cheapest known form. Bandwidth and rate are measured first, in the same
process, by a large copy and a large product of the same dtype. Implementations take turns and medians are
reported, so that a slow moment of the machine hits all of them. On the CPU the clock is the processor time
of the process, which a busy neighbour lengthens little. On CUDA it is the time between two events: before
each call the device is given work that evicts its cache and lasts until the host has issued the call, so that
the time is the device's; the host's own time is reported beside it, and so is the first call, which compiles.

Legend: B batch, H heads, T latent frames, N tokens per frame, D head dim.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F

from wm_env.kernels.frame_gdn import GDNMemory, frame_gdn
from wm_env.kernels.inputs import GDNInputs, gdn_inputs, run_gdn, worst_error

Call = Callable[[], object]
LEAD_VALUES = 2**27  # 512 MiB of float32, several times the largest cache


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One shape and task: one chunk, after a state with `stream`, or with `causal` every frame a chunk."""

    name: str
    batch: int
    heads: int
    frames: int
    tokens: int
    dim: int
    dtype: str
    stream: bool = False
    causal: bool = False
    backward: bool = False
    normalised: bool = True

    @property
    def title(self) -> str:
        return f"{self.name}, B{self.batch} T{self.frames} {self.dtype}"

    @property
    def chunk_starts(self) -> tuple[int, ...]:
        return tuple(range(self.frames)) if self.causal else (0,)


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


def problem_bytes(p: Problem) -> int:
    """Return the bytes that must move: inputs once, outputs once (gradients alike, and inputs again)."""
    frames = p.batch * p.heads * p.frames
    size = 2 if p.dtype == "bfloat16" else 4
    tensor, gates = frames * p.tokens * p.dim * size, 4 * frames * (p.tokens + 1)
    inputs = 5 if p.normalised else 3
    memory = 4 * p.batch * p.heads * p.dim * (p.dim + p.normalised) * (1 + p.stream)
    forward = (inputs + 1) * tensor + gates + memory
    backward = (2 * inputs + 2) * tensor + 2 * gates + memory  # inputs, out and d_out in, gradients out
    return forward + (backward if p.backward else 0)


def problem_operations(p: Problem) -> int:
    """Return the operations (two per multiply-add) of the cheapest known form.

    Per frame and head: P, A and read in N D^2 each, one D^3 per scan direction; or, for a single frame, the
    residual form without P. The normaliser adds its own P (or two products with a vector).
    """
    n, d = p.tokens, p.dim
    product, step = 2 * n * d * d, 2 * d * d * d
    directions = 1 if p.causal or p.frames == 1 else 2
    if p.frames == 1:
        forward = 3 * product + p.normalised * 6 * n * d
    else:
        forward = (
            3 * product + directions * step + p.normalised * (product + 4 * n * d + 2 * directions * d * d)
        )
    backward = 5 * product + 2 * directions * step + p.normalised * (16 * n * d + 4 * d * d)
    return p.batch * p.heads * p.frames * (forward + (backward if p.backward else 0))


def problems(device: str, quick: bool) -> list[Problem]:
    if quick:
        small: dict[str, Any] = {
            "batch": 1,
            "heads": 2,
            "frames": 2,
            "tokens": 4,
            "dim": 16,
            "dtype": "float32",
        }
        return [
            Problem(name="forward", **small),
            Problem(name="fwd+bwd", backward=True, **small),
        ]
    if device == "cpu":
        tiny: dict[str, Any] = {"heads": 6, "tokens": 64, "dim": 32}
        step: dict[str, Any] = {"frames": 1, "dtype": "float32", "stream": True}
        clip: dict[str, Any] = {"batch": 4, "frames": 17}
        found = []
        for batch in (1, 16):
            found.append(Problem(name="streaming step", batch=batch, **step, **tiny))
            found.append(
                Problem(name="streaming step, camera", batch=batch, normalised=False, **step, **tiny)
            )
        for dtype in ("float32", "bfloat16"):
            found.append(Problem(name="clip, one chunk", dtype=dtype, **clip, **tiny))
            found.append(
                Problem(name="clip, causal, fwd+bwd", dtype=dtype, causal=True, backward=True, **clip, **tiny)
            )
        return found
    released: dict[str, Any] = {"heads": 20, "tokens": 880, "dim": 112, "dtype": "bfloat16"}
    found = []
    for batch in (1, 8):
        found.append(Problem(name="streaming chunk", batch=batch, frames=3, stream=True, **released))
        found += [Problem(name="forward", batch=batch, frames=frames, **released) for frames in (3, 21, 121)]
        longest = 121 if batch == 1 else 43
        found += [
            Problem(name="fwd+bwd", batch=batch, frames=frames, backward=True, **released)
            for frames in (3, 21, longest)
        ]
    return found


def calls(p: Problem, device: str) -> dict[str, Call]:
    """Return what is timed for a problem, by name; each runs the whole task once."""
    x = _inputs(p, device)
    found = {name: _gdn_call(p, x, name) for name in _implementations(p, device)}
    if device == "cuda" and find_spec("fla") is not None:
        found["fla, token by token (another rule)"] = _fla_call(p, x)
    found["softmax attention (SDPA)"] = _sdpa_call(p, x)
    return found


def compiled_calls(p: Problem, device: str) -> dict[str, Call]:
    """Return `chunk` under torch.compile, by name; compiling unrolls the frames and takes long."""
    return {"chunk compiled": _gdn_call(p, _inputs(p, device), "chunk", torch.compile(frame_gdn))}


def _inputs(p: Problem, device: str) -> GDNInputs:
    """Return inputs in the model's memory layout, (B,T,N,H,D); three frames of values, repeated."""
    x = gdn_inputs(
        seed=0, heads=p.heads, frames=min(p.frames, 3), tokens=p.tokens, key_dim=p.dim, value_dim=p.dim,
        normalised=p.normalised, with_state=p.stream, dtype=getattr(torch, p.dtype), device=device,
    )  # fmt: skip
    frames = torch.arange(p.frames, device=device) % 3

    def grow(name: str, t: torch.Tensor) -> torch.Tensor:
        t = t.expand(p.batch, *t.shape[1:])
        if name not in ("S", "z"):
            t = t[:, :, frames]
        if t.ndim == 5:
            t = t.permute(0, 2, 3, 1, 4).contiguous().permute(0, 3, 1, 2, 4)
        return t.contiguous() if name in ("S", "z") else t

    return GDNInputs._make(
        (None if t is None else grow(name, t).requires_grad_(p.backward) for name, t in x._asdict().items())
    )


def _implementations(p: Problem, device: str) -> list[str]:
    names = ["naive"] if p.batch * p.frames <= 200 else []  # it keeps float32 copies of everything
    return [*names, "chunk", "triton"] if device == "cuda" and find_spec("triton") else [*names, "chunk"]


def _gdn_call(p: Problem, x: GDNInputs, impl: str, function: Callable = frame_gdn) -> Call:
    state = None if x.S is None else GDNMemory(x.S, x.z)
    tensors = [t for t in x if t is not None]

    def run() -> object:
        out, memory = function(
            q=x.q, k=x.k, v=x.v, beta=x.beta, g=x.g, q_norm=x.q_norm, k_norm=x.k_norm, state=state,
            chunk_starts=p.chunk_starts, impl=impl,
        )  # fmt: skip
        return torch.autograd.grad(out, tensors, out) if p.backward else (out, memory)

    return run


def _sdpa_call(p: Problem, x: GDNInputs) -> Call:
    def run() -> object:
        q, k, v = (t.flatten(2, 3) for t in (x.q, x.k, x.v))  # (B,H,T*N,D)
        out = F.scaled_dot_product_attention(q, k, v)
        return torch.autograd.grad(out, (x.q, x.k, x.v), out) if p.backward else out

    return run


def _fla_call(p: Problem, x: GDNInputs) -> Call:
    from fla.ops.gated_delta_rule import chunk_gated_delta_rule  # optional: only timed where installed

    beta = x.beta.detach().permute(0, 2, 3, 1).flatten(1, 2)  # (B,T*N,H)
    g = (x.g.detach() / p.tokens).transpose(1, 2).repeat_interleave(p.tokens, 1)  # (B,T*N,H)

    def run() -> object:
        q, k, v = (t.permute(0, 2, 3, 1, 4).flatten(1, 2) for t in (x.q, x.k, x.v))  # (B,T*N,H,D)
        out, _ = chunk_gated_delta_rule(q=q, k=k, v=v, beta=beta, g=g, scale=1.0)
        return torch.autograd.grad(out, (x.q, x.k, x.v), out) if p.backward else out

    return run


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


def errors(device: str) -> dict[str, float]:
    """Return the worst relative error of each implementation on a small problem, gradients included."""
    found = {}
    for dtype in (torch.float32, torch.bfloat16):
        x = gdn_inputs(seed=1, frames=5, tokens=70, key_dim=112, value_dim=112, dtype=dtype, device=device)
        exact = GDNInputs._make(None if t is None else t.double() for t in x)
        expected = run_gdn(exact, "naive", chunk_starts=(0, 3), gradients=True)
        for impl in ("chunk", "triton") if device == "cuda" and find_spec("triton") else ("chunk",):
            _, error = worst_error(run_gdn(x, impl, chunk_starts=(0, 3), gradients=True), expected)
            found[f"{impl} {str(dtype).removeprefix('torch.')}"] = error
    return found


def rows(
    p: Problem, named: dict[str, Call], peak: Peaks, device: str, repeats: int, seconds: float = math.inf
) -> list[dict[str, Any]]:
    """Return one row per implementation: its time, the floor and what it reached, or its error."""
    moved, operations = problem_bytes(p), problem_operations(p)
    floor = max(moved / peak.bytes_per_second, operations / peak.operations_per_second)
    found = []
    for name, timing in time_calls(named, device, repeats, seconds).items():
        row = asdict(p) | {"impl": name, "floor_ms": floor * 1e3}
        if isinstance(timing, str):
            found.append(row | {"ms": None, "error": timing})
            continue
        measured = {
            "ms": timing.seconds * 1e3,
            "times_floor": timing.seconds / floor,
            "gb_per_s": moved / timing.seconds / 1e9,
            "tflop_per_s": operations / timing.seconds / 1e12,
            "host_ms": timing.host * 1e3,
            "first_call_s": timing.first,
            "runs": timing.runs,
            "extra_mb": extra_memory(named[name]) if device == "cuda" else None,
        }
        found.append(row | measured)
    return found


def run(device: str, repeats: int, quick: bool) -> dict:
    found = []
    known: dict[str, Peaks] = {}
    for p in problems(device, quick):
        if p.dtype not in known:
            known[p.dtype] = peaks(p.dtype, device, quick)
        for row in rows(p, calls(p, device), known[p.dtype], device, repeats):
            found.append(row)
            print(describe(row), flush=True)
    name = torch.cuda.get_device_name() if device == "cuda" else platform.processor() or platform.machine()
    return {
        "device": name,
        "clock": "CUDA events" if device == "cuda" else "processor time, one thread",
        "load": round(os.getloadavg()[0], 1),
        "torch": torch.__version__,
        "peaks": {dtype: asdict(peak) for dtype, peak in known.items()},
        "errors": errors(device),
        "rows": found,
    }


def describe(row: dict) -> str:
    """Return one line of a Markdown table."""
    shape = f"B{row['batch']} H{row['heads']} T{row['frames']} N{row['tokens']} D{row['dim']} {row['dtype']}"
    if row["ms"] is None:
        return f"| {row['name']} | {shape} | {row['impl']} | {row['error']} |"
    return (
        f"| {row['name']} | {shape} | {row['impl']} | {row['ms']:.3f} | {row['floor_ms']:.3f} "
        f"| {row['times_floor']:.1f} | {row['gb_per_s']:.1f} | {row['tflop_per_s']:.3f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Time the frame-wise GDN kernels against their floor.")
    parser.add_argument("--json", type=Path, help="write all results to this file")
    parser.add_argument(
        "--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu"
    )
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--quick", action="store_true", help="toy sizes, to see that everything runs")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print("| task | shape | implementation | ms | floor ms | x floor | GB/s | TFLOP/s |")
    print("|---|---|---|---:|---:|---:|---:|---:|")
    results = run(options.device, options.repeats, options.quick)
    print(f"largest relative errors: {results['errors']}")
    if options.json is not None:
        options.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
