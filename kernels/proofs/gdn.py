"""The properties of the frame-wise delta rule; each function takes the kernel it tries."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from wm_env.kernels.frame_gdn import GDNMemory, frame_gdn
from wm_env.kernels.inputs import GDNInputs, gdn_inputs, relative_error, run_gdn, worst_error
from wm_env.kernels.proofs.cases import GDNCase
from wm_env.kernels.proofs.proof import BOUNDS, REASONS, Check, Proof, label_of, unwritten_is_nan

Kernel = Callable[..., tuple[Tensor, GDNMemory]]


def exact(inputs: GDNInputs) -> GDNInputs:
    """Return the inputs in float64."""
    return GDNInputs._make(None if x is None else x.double() for x in inputs)


def match(
    case: GDNCase, dtype: torch.dtype, *, impl: str, device: str, function: Kernel = frame_gdn
) -> list[Proof]:
    """Return proofs that output, memory and all gradients equal the definition, with nothing unwritten."""
    inputs = case.inputs(dtype, device)
    options: dict[str, Any] = {
        "chunk_starts": case.starts,
        "every_chunk": case.every_chunk,
        "gradients": True,
    }
    with unwritten_is_nan():
        results = run_gdn(inputs, impl, function=function, **options)
    name, error = worst_error(results, run_gdn(exact(inputs), "naive", **options))
    wide = torch.promote_types(dtype, torch.float32)
    wrong = results["out"].dtype != dtype or results["S"].dtype != wide
    label = label_of(dtype)
    return [
        Proof(f"match, {label}: {case}: worst is {name}", error, BOUNDS[dtype], REASONS[label]),
        Proof(f"dtypes, {label}: {case}", float(wrong), 0.0, "out as the values, memory float32 at least"),
    ]


def split(dtype: torch.dtype, *, impl: str, device: str, function: Kernel = frame_gdn) -> list[Proof]:
    """Return proofs that a call cut at a chunk end, its memory handed on, equals the whole call."""
    found = []
    for frames, starts, cut in ((4, (0, 3), 3), (6, (0, 1, 4), 1), (6, (0, 1, 4), 4), (2, (0, 1), 1)):
        x = gdn_inputs(seed=4, frames=frames, tokens=7, dtype=dtype, device=device)
        whole = run_gdn(x, impl, chunk_starts=starts, function=function)
        first = run_gdn(
            _frames(x, slice(0, cut)), impl, chunk_starts=[s for s in starts if s < cut], function=function
        )
        rest = _frames(x, slice(cut, frames))._replace(S=first["S"], z=first["z"])
        second = run_gdn(rest, impl, chunk_starts=[s - cut for s in starts if s >= cut], function=function)
        joined = {"out": torch.cat([first["out"], second["out"]], 2), "S": second["S"], "z": second["z"]}
        name, error = worst_error(joined, whole)
        label = label_of(dtype)
        found.append(
            Proof(
                f"split, {label}: {frames} frames cut at {cut}: worst is {name}",
                error,
                BOUNDS[dtype],
                REASONS[label],
            )
        )
    return found


def causal(dtype: torch.dtype, *, impl: str, device: str, function: Kernel = frame_gdn) -> list[Proof]:
    """Return the proof that a change in the last chunk leaves the outputs of earlier chunks as they were."""
    x = gdn_inputs(seed=5, frames=6, dtype=dtype, device=device)
    before = run_gdn(x, impl, chunk_starts=(0, 2, 5), function=function)["out"]
    moved = x._replace(k=x.k.clone(), v=x.v.clone(), g=x.g.clone())
    for tensor in (moved.k, moved.v, moved.g):
        tensor[:, :, 5:] *= 3
    after = run_gdn(moved, impl, chunk_starts=(0, 2, 5), function=function)["out"]
    change = (after[:, :, :5] - before[:, :, :5]).abs().max().item()
    return [
        Proof(f"causal, {label_of(dtype)}: absolute change of earlier outputs", change, 0.0, REASONS["bits"])
    ]


def every_chunk(dtype: torch.dtype, *, impl: str, device: str, function: Kernel = frame_gdn) -> list[Proof]:
    """Return proofs that the memory after each chunk is that of the call which ends with it."""
    x = gdn_inputs(seed=6, frames=5, dtype=dtype, device=device)
    each = run_gdn(x, impl, chunk_starts=(0, 1, 4), every_chunk=True, function=function)
    found = []
    for i, end in enumerate((1, 4, 5)):
        starts = [start for start in (0, 1, 4) if start < end]
        last = run_gdn(_frames(x, slice(0, end)), impl, chunk_starts=starts, function=function)
        got = {"S": each["S"][:, i], "z": each["z"][:, i]}
        name, error = worst_error(got, {"S": last["S"], "z": last["z"]})
        label = label_of(dtype)
        found.append(
            Proof(
                f"every chunk, {label}: after frame {end}: worst is {name}",
                error,
                BOUNDS[dtype],
                REASONS[label],
            )
        )
    return found


def alone(dtype: torch.dtype, *, impl: str, device: str, function: Kernel = frame_gdn) -> list[Proof]:
    """Return proofs that the gradient of one result is right when nothing reaches the other two."""
    x = gdn_inputs(seed=5, frames=2, dtype=dtype, device=device)
    label = label_of(dtype)
    return [
        Proof(
            f"alone, {label}: gradient of {wanted}",
            relative_error(
                _gradient(x, wanted, impl, function), _gradient(exact(x), wanted, "naive", frame_gdn)
            ),
            BOUNDS[dtype],
            REASONS[label],
        )
        for wanted in ("out", "S", "z")
    ]


def strided(dtype: torch.dtype, *, impl: str, device: str, function: Kernel = frame_gdn) -> list[Proof]:
    """Return proofs for inputs as the model holds them: (B,T,N,H,D) views, v a slice of a projection."""
    x = gdn_inputs(seed=3, batch=2, frames=2, tokens=6, key_dim=8, value_dim=8, dtype=dtype, device=device)
    random = torch.Generator().manual_seed(3)
    wide = torch.randn(2, 2, 6, 2, 24, generator=random).to(device, dtype)
    v = wide[..., 8:16].permute(0, 3, 1, 2, 4)  # (B,H,T,N,V)
    plain = run_gdn(x._replace(v=v.contiguous()), impl, gradients=True, function=function)
    views = x._replace(
        **{
            name: getattr(x, name).permute(0, 2, 3, 1, 4).contiguous().permute(0, 3, 1, 2, 4)
            for name in ("q", "k", "q_norm", "k_norm")
        },
        v=v,
        beta=x.beta.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2),
    )
    name, error = worst_error(run_gdn(views, impl, gradients=True, function=function), plain)
    label = label_of(dtype)
    return [Proof(f"strided, {label}: worst is {name}", error, BOUNDS[dtype], REASONS[label])]


def layout(dtype: torch.dtype, *, impl: str, device: str, function: Kernel = frame_gdn) -> list[Proof]:
    """Return the proof that results of tokens-first inputs are tokens-first, so that no copy follows."""
    x = gdn_inputs(seed=3, frames=2, tokens=6, dtype=dtype, device=device)
    first = x._replace(
        **{
            name: getattr(x, name).permute(0, 2, 3, 1, 4).contiguous().permute(0, 3, 1, 2, 4)
            for name in ("q", "k", "v", "q_norm", "k_norm")
        }
    )
    results = run_gdn(first, impl, gradients=True, function=function)
    copied = [name for name in ("out", "d_k") if not results[name].permute(0, 2, 3, 1, 4).is_contiguous()]
    return [
        Proof(
            f"layout, {label_of(dtype)}: results out of their input's layout {copied}",
            float(len(copied)),
            0.0,
            "results are written with the strides of the input they belong to",
        )
    ]


def repeated(
    case: GDNCase, dtype: torch.dtype, *, impl: str, device: str, function: Kernel = frame_gdn
) -> list[Proof]:
    """Return the proof that three equal calls, gradients included, give equal bits."""
    x = case.inputs(dtype, device)
    options: dict[str, Any] = {"chunk_starts": case.starts, "gradients": True, "function": function}
    runs = [run_gdn(x, impl, **options) for _ in range(3)]
    moved = max((run[name] - runs[0][name]).abs().max().item() for run in runs[1:] for name in runs[0])
    return [Proof(f"repeated, {label_of(dtype)}: {case}: absolute change", moved, 0.0, REASONS["bits"])]


def gdn_checks(
    impl: str, *, device: str, low: torch.dtype, cases: Sequence[GDNCase], function: Kernel = frame_gdn
) -> dict[str, Check]:
    """Return the checks of some shapes by name, the low precision first: it is what the model runs in."""
    same: dict[str, Any] = {"impl": impl, "device": device, "function": function}
    return {
        f"match {label_of(dtype)}: {case}": functools.partial(match, case, dtype, **same)
        for case in cases
        for dtype in (low, torch.float32)
    }


def gdn_rules(
    impl: str, *, device: str, low: torch.dtype, case: GDNCase, function: Kernel = frame_gdn
) -> dict[str, Check]:
    """Return the checks of what holds for any shape, by name. case: what is repeated."""
    same: dict[str, Any] = {"impl": impl, "device": device, "function": function}
    rules = {
        "split": split,
        "causal": causal,
        "every chunk": every_chunk,
        "alone": alone,
        "strided": strided,
        **({"layout": layout} if impl == "triton" else {}),
    }
    found: dict[str, Check] = {
        name: functools.partial(rule, torch.float32, **same) for name, rule in rules.items()
    }
    for dtype in (low, torch.float32):
        found[f"repeated {label_of(dtype)}"] = functools.partial(repeated, case, dtype, **same)
    return found


def _frames(x: GDNInputs, part: slice) -> GDNInputs:
    return x._replace(**{n: t[:, :, part] for n, t in x._asdict().items() if n not in ("S", "z")})


def _gradient(x: GDNInputs, wanted: str, impl: str, function: Kernel) -> Tensor:
    """Return the gradients of sum(result^2) with respect to k and k_norm, stacked."""
    assert x.k_norm is not None
    k, k_norm = x.k.clone().requires_grad_(), x.k_norm.clone().requires_grad_()
    out, memory = function(
        q=x.q, k=k, v=x.v, beta=x.beta, g=x.g, state=None, q_norm=x.q_norm, k_norm=k_norm, impl=impl
    )
    result = {"out": out, "S": memory.S, "z": memory.z}[wanted]
    assert result is not None
    grads = torch.autograd.grad(result.square().sum(), (k, k_norm), allow_unused=True, materialize_grads=True)
    return torch.stack(grads)
