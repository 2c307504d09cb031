"""What the kernels must satisfy, as numbers: every proof is an error beside the bound it must not exceed.

The tests run these on a CPU (plain torch, and Triton's interpreter), the measuring command on a GPU:

    match        output, memory and all gradients equal the definition in float64, on odd shapes
    unwritten    the same with every fresh buffer filled with NaN first: what is not written shows
    split        two calls, the second given the memory of the first, equal one call
    causal       what happens in a later chunk does not change an earlier output by one bit
    every chunk  the memory of each chunk is that of the call which ends there
    alone        the gradient of one result is right when the others have none
    strided      views are read where they lie, and results keep the layout of their input
    repeated     the same call three times gives the same bits (an error that moves is a race)

Each function takes the kernel it tries, so that a test can give it a wrong one and see it caught.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from wm_env.kernels.frame_gdn import GDNMemory, frame_gdn
from wm_env.kernels.inputs import GDNInputs, gdn_inputs, relative_error, run_gdn, worst_error
from wm_env.kernels.temporal_conv import (
    frame_mix_conv,
    frame_mix_conv_naive,
    short_conv,
    short_conv_naive,
)
from wm_env.kernels.window_attention import window_attention, window_attention_naive

Kernel = Callable[..., tuple[Tensor, GDNMemory]]

REASONS = {
    "float64": "rounding of sums over a few frames in float64 (1e-16 a term)",
    "float32": "rounding of sums over tokens and frames in float32 (6e-8 a term); products of three TF32 "
    "parts are as good, one TF32 product (5e-4) is not",
    "float16": "float16 keeps 11 bits (5e-4); gradients pass several rounded products",
    "bfloat16": "bfloat16 keeps 8 bits (4e-3); gradients pass several rounded products",
    "bits": "the same work on the same numbers: equal to the last bit",
}
BOUNDS = {
    torch.float64: 1e-11,
    torch.float32: 2e-5,
    torch.float16: 5e-3,
    torch.bfloat16: 4e-2,
}


class Proof(NamedTuple):
    """One property on one problem. error, bound: relative to the largest exact value unless the name says."""

    name: str
    error: float
    bound: float
    reason: str

    @property
    def holds(self) -> bool:
        """Whether the error is within the bound; an error that is not a number never is."""
        return self.error <= self.bound


Check = Callable[[], list[Proof]]


@dataclass(frozen=True, kw_only=True)
class GDNCase:
    """One problem of the frame-wise delta rule."""

    frames: int
    starts: tuple[int, ...] = (0,)
    tokens: int
    key_dim: int
    value_dim: int
    heads: int = 2
    normalised: bool = True
    with_state: bool = True
    every_chunk: bool = False

    def __str__(self) -> str:
        marks = [
            f"{self.frames} frames in {len(self.starts)} chunks of {self.tokens} tokens",
            f"{self.heads} heads {self.key_dim}x{self.value_dim}",
            *(["no normaliser"] if not self.normalised else []),
            *(["no state"] if not self.with_state else []),
            *(["every chunk"] if self.every_chunk else []),
        ]
        return ", ".join(marks)

    def inputs(self, dtype: torch.dtype, device: str, seed: int = 1) -> GDNInputs:
        return gdn_inputs(
            seed=seed,
            heads=self.heads,
            frames=self.frames,
            tokens=self.tokens,
            key_dim=self.key_dim,
            value_dim=self.value_dim,
            normalised=self.normalised,
            with_state=self.with_state,
            dtype=dtype,
            device=device,
        )


ODD = (
    GDNCase(frames=1, tokens=1, key_dim=1, value_dim=1, with_state=False),
    GDNCase(frames=1, tokens=70, key_dim=16, value_dim=16),
    GDNCase(frames=3, tokens=9, key_dim=5, value_dim=17, with_state=False),
    GDNCase(frames=3, starts=(0, 1, 2), tokens=16, key_dim=32, value_dim=32, every_chunk=True),
    GDNCase(frames=4, starts=(0, 3), tokens=65, key_dim=8, value_dim=8, normalised=False, every_chunk=True),
    GDNCase(frames=5, starts=(0, 1, 4), tokens=7, key_dim=12, value_dim=6),
    GDNCase(frames=2, tokens=5, key_dim=3, value_dim=3, normalised=False, with_state=False),
)
RELEASED = (
    GDNCase(frames=3, tokens=880, key_dim=112, value_dim=112, heads=4),
    GDNCase(frames=3, tokens=880, key_dim=112, value_dim=112, heads=4, normalised=False),
    GDNCase(frames=4, tokens=880, key_dim=112, value_dim=112, heads=4, with_state=False),
    GDNCase(frames=1, tokens=33, key_dim=112, value_dim=112, heads=1),
    GDNCase(frames=41, starts=tuple(range(0, 41, 3)), tokens=65, key_dim=112, value_dim=112, heads=1),
)


def exact(inputs: GDNInputs) -> GDNInputs:
    """Return the inputs in float64."""
    return GDNInputs._make(None if x is None else x.double() for x in inputs)


@contextmanager
def unwritten_is_nan() -> Iterator[None]:
    """Fill every buffer that torch hands out uninitialised with NaN, for the duration."""
    before = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        torch.utils.deterministic.fill_uninitialized_memory,  # type: ignore[attr-defined]
    )
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = True  # type: ignore[attr-defined]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of library calls without a deterministic form: not asked for
            yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        torch.utils.deterministic.fill_uninitialized_memory = before[2]  # type: ignore[attr-defined]


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
    label = _label(dtype)
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
        label = _label(dtype)
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
        Proof(f"causal, {_label(dtype)}: absolute change of earlier outputs", change, 0.0, REASONS["bits"])
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
        label = _label(dtype)
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
    label = _label(dtype)
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
    label = _label(dtype)
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
            f"layout, {_label(dtype)}: results out of their input's layout {copied}",
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
    return [Proof(f"repeated, {_label(dtype)}: {case}: absolute change", moved, 0.0, REASONS["bits"])]


def gdn_checks(
    impl: str, *, device: str, low: torch.dtype, cases: Sequence[GDNCase], function: Kernel = frame_gdn
) -> dict[str, Check]:
    """Return the checks of some shapes by name, the low precision first: it is what the model runs in."""
    same: dict[str, Any] = {"impl": impl, "device": device, "function": function}
    return {
        f"match {_label(dtype)}: {case}": functools.partial(match, case, dtype, **same)
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
        found[f"repeated {_label(dtype)}"] = functools.partial(repeated, case, dtype, **same)
    return found


ATTENTION_SHAPES = ((1, (0,), 7, 5), (3, (0,), 4, 3), (4, (0, 1, 2, 3), 2, 3), (7, (0, 4), 3, 6))
CONVOLUTION_SHAPES = ((1, (0,)), (3, (0, 1, 2)), (5, (0,)), (9, (0, 4, 7)))


def attention(
    shape: tuple[int, tuple[int, ...], int, int],
    dtype: torch.dtype,
    *,
    device: str,
    dim: int = 16,
    padded: bool = False,
    function: Callable[..., Tensor] = window_attention,
) -> list[Proof]:
    """Return the proof that window attention and its gradients equal the masked softmax.

    shape: frames, chunk starts, tokens per frame, past tokens (0 for none). padded: some of the past is
    padding.
    """
    frames, starts, tokens, past = shape
    random = torch.Generator().manual_seed(frames * 100 + tokens * 10 + past)

    def normal(*size: int) -> Tensor:
        return torch.randn(size, generator=random, dtype=torch.float64).to(device, dtype)

    x = {name: normal(2, 3, frames, tokens, dim) for name in "qkv"}
    if past:
        x |= {name: normal(2, 3, past, dim) for name in ("past_k", "past_v")}
    valid = None
    if padded and past:
        valid = torch.ones(2, past, dtype=torch.bool)
        valid[0, : past // 2 + 1] = False
    weights = normal(2, 3, frames, tokens, dim)
    results = []
    kernels: list[tuple[Callable[..., Tensor], torch.dtype]] = [
        (function, dtype),
        (window_attention_naive, torch.float64),
    ]
    for tried, wide in kernels:
        leaves = {name: t.to(wide).requires_grad_() for name, t in x.items()}
        out = tried(**leaves, past_valid=valid, chunk_starts=starts)
        grads = torch.autograd.grad(out, list(leaves.values()), weights.to(wide))
        results.append({"out": out} | {f"d_{n}": grad for n, grad in zip(leaves, grads, strict=True)})
    name, error = worst_error(*results)
    label = _label(dtype)
    where = f"{frames} frames in {len(starts)} chunks of {tokens} tokens after {past}" + ", padded" * padded
    return [
        Proof(f"window attention, {label}: {where}: worst is {name}", error, BOUNDS[dtype], REASONS[label])
    ]


def convolution(
    kind: str,
    shape: tuple[int, tuple[int, ...]],
    dtype: torch.dtype,
    *,
    device: str,
    tokens: int = 6,
    channels: int = 16,
    function: Callable[..., tuple[Tensor, Tensor]] | None = None,
) -> list[Proof]:
    """Return the proof that a temporal convolution, its tail and its gradients equal their sums written out.

    kind: "short" or "frame mix". shape: frames, chunk starts. function: in place of the kernel.
    """
    fast, naive = {
        "short": (short_conv, short_conv_naive),
        "frame mix": (frame_mix_conv, frame_mix_conv_naive),
    }[kind]
    fast = fast if function is None else function
    frames, starts = shape
    random = torch.Generator().manual_seed(frames)

    def normal(*size: int) -> Tensor:
        return torch.randn(size, generator=random, dtype=torch.float64).to(device, dtype)

    wide = channels + 1 if kind == "frame mix" else channels
    weight = normal(wide, channels, 3) / channels**0.5 if kind == "frame mix" else normal(channels, 4)
    x = normal(2, frames, tokens, channels)
    tail = normal(2, 1 if kind == "frame mix" else 3, tokens, channels)
    shares = [normal(2, frames, tokens, wide), torch.ones_like(tail)]
    results = []
    for tried, precision in ((fast, dtype), (naive, torch.float64)):
        leaves = [t.to(precision).requires_grad_() for t in (x, weight, tail)]
        y, after = tried(leaves[0], leaves[1], tail=leaves[2], chunk_starts=starts)
        grads = torch.autograd.grad((y, after), leaves, [s.to(precision) for s in shares])
        names = ("out", "tail", "d_x", "d_weight", "d_tail")
        results.append(dict(zip(names, (y, after, *grads), strict=True)))
    name, error = worst_error(*results)
    label = _label(dtype)
    where = f"{frames} frames in {len(starts)} chunks"
    return [
        Proof(f"{kind} convolution, {label}: {where}: worst is {name}", error, BOUNDS[dtype], REASONS[label])
    ]


def other_checks(*, device: str, low: torch.dtype) -> dict[str, Check]:
    """Return the checks of window attention and the temporal convolutions by name."""
    found: dict[str, Check] = {}
    for dtype in (low, torch.float32):
        label = _label(dtype)
        for a in ATTENTION_SHAPES:
            for padded in (False, True):
                found[f"attention {label} {a} padded={padded}"] = functools.partial(
                    attention, a, dtype, device=device, padded=padded
                )
        for kind in ("short", "frame mix"):
            for c in CONVOLUTION_SHAPES:
                check = functools.partial(convolution, kind, c, dtype, device=device)
                found[f"{kind} {label} {c}"] = check
    return found


def _label(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


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
