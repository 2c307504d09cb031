"""Time every implementation of the frame-wise gated delta rule against the least time the device allows.

    python -m wm_env.kernels.bench --json results.json

Needs torch only (triton and flash-linear-attention are used where installed); runs from a bare checkout. On a
CPU it takes the embedded world's shapes and one thread, on CUDA the released model's.

What must move and be computed is in `problems.py`, the clock in `timing.py`. Bandwidth and rate are measured
first, in the same process, by a large copy and a large product of the same dtype.

Legend: B batch, H heads, T latent frames, N tokens per frame, D head dim.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
from collections.abc import Callable
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from wm_env.kernels.frame_gdn import GDNMemory, frame_gdn
from wm_env.kernels.inputs import GDNInputs, gdn_inputs, run_gdn, worst_error
from wm_env.kernels.problems import Problem, problem_bytes, problem_operations, problems
from wm_env.kernels.timing import Call, Peaks, extra_memory, peaks, time_calls


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
        options.json.write_text(json.dumps(results, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
