"""Time every implementation of the frame-wise gated delta rule against the least time the device allows.

    python -m wm_env.kernels.bench --json results.json

Needs torch only (triton and flash-linear-attention are used where installed); runs from a bare checkout. On a
CPU it takes the embedded world's shapes and one thread, on CUDA the released model's.

The floor of a problem is max(bytes / bandwidth, operations / rate): every input read once, every output
written once, the multiply-adds of the cheapest known form. Bandwidth and rate are measured first, in the same
process, by a large copy and a large product of the same dtype. Implementations take turns and medians are
reported, so that a slow moment of the machine hits all of them. On the CPU the clock is the processor time
of the process, which a busy neighbour lengthens little; on CUDA it is the time between two events.

Legend: B batch, H heads, T latent frames, N tokens per frame, D head dim.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from wm_env.kernels.frame_gdn import GDNMemory, frame_gdn
from wm_env.kernels.inputs import GDNInputs, gdn_inputs, run_gdn, worst_error

Call = Callable[[], object]


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
    def chunk_starts(self) -> tuple[int, ...]:
        return tuple(range(self.frames)) if self.causal else (0,)


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
    if device == "cuda":
        if p.backward and p.frames <= 21:  # compiling unrolls the frames
            found["chunk compiled"] = _gdn_call(p, x, "chunk", torch.compile(frame_gdn))
        if find_spec("fla") is not None:
            found["fla, token by token (another rule)"] = _fla_call(p, x)
    found["softmax attention (SDPA)"] = _sdpa_call(p, x)
    return found


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


def measure(call: Call, device: str) -> float:
    """Return the seconds of one run."""
    if device == "cuda":
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        call()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) / 1e3
    start = time.process_time()
    call()
    return time.process_time() - start


def medians(named: dict[str, Call], device: str, repeats: int) -> dict[str, float]:
    """Return median seconds by name; the calls take turns after two warm-up rounds."""
    times: dict[str, list[float]] = {name: [] for name in named}
    for round_number in range(repeats + 2):
        for name, call in named.items():
            seconds = measure(call, device)
            if round_number >= 2:
                times[name].append(seconds)
    return {name: statistics.median(values) for name, values in times.items()}


def extra_memory(call: Call) -> float:
    """Return the megabytes of GPU memory that one run needs beside its inputs."""
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call()
    return (torch.cuda.max_memory_allocated() - before) / 2**20


def peaks(dtype: str, device: str, quick: bool) -> Peaks:
    side = 64 if quick else 8192 if device == "cuda" else 1024
    a = torch.randn(side, side, device=device).to(getattr(torch, dtype))
    source = torch.zeros(1024 if quick else 2**28 if device == "cuda" else 2**24, device=device)
    target = torch.empty_like(source)
    found = medians({"copy": lambda: target.copy_(source), "product": lambda: a @ a}, device, 5)
    return Peaks(
        bytes_per_second=2 * source.nbytes / max(found["copy"], 1e-9),
        operations_per_second=2 * side**3 / max(found["product"], 1e-9),
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


def run(device: str, repeats: int, quick: bool) -> dict:
    rows = []
    known: dict[str, Peaks] = {}
    for p in problems(device, quick):
        if p.dtype not in known:
            known[p.dtype] = peaks(p.dtype, device, quick)
        peak = known[p.dtype]
        moved, operations = problem_bytes(p), problem_operations(p)
        floor = max(moved / peak.bytes_per_second, operations / peak.operations_per_second)
        named = calls(p, device)
        for name, seconds in medians(named, device, repeats).items():
            measured = {
                "impl": name,
                "ms": seconds * 1e3,
                "floor_ms": floor * 1e3,
                "times_floor": seconds / floor,
                "gb_per_s": moved / seconds / 1e9,
                "tflop_per_s": operations / seconds / 1e12,
                "extra_mb": extra_memory(named[name]) if device == "cuda" else None,
            }
            rows.append(asdict(p) | measured)
            print(describe(rows[-1]), flush=True)
    name = torch.cuda.get_device_name() if device == "cuda" else platform.processor() or platform.machine()
    return {
        "device": name,
        "clock": "CUDA events" if device == "cuda" else "processor time, one thread",
        "torch": torch.__version__,
        "peaks": {dtype: asdict(peak) for dtype, peak in known.items()},
        "errors": errors(device),
        "rows": rows,
    }


def describe(row: dict) -> str:
    """Return one line of a Markdown table."""
    shape = f"B{row['batch']} H{row['heads']} T{row['frames']} N{row['tokens']} D{row['dim']} {row['dtype']}"
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
