"""Values that nobody should give: seeded, of every kind that a caller's mistake or a broken file can have."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

Maker = Callable[[np.random.Generator], Any]

NUMBERS: list[Any] = [
    *(0, 1, -1, 2, 9, 255, 2**31, 2**63 - 1, 2**63, -(2**63), 2**64, 10**30, 10**400),
    *(0.0, 0.5, -0.5, 1e-320, 1e308, float("nan"), float("inf"), -float("inf"), 3.0000001),
    *(True, False),
]
TEXTS: list[Any] = ["", "w", "none", "\0", "ä" * 40, "x" * 5000, "../..", "nan", "{}", "-1", "\ud800", "~"]
SHAPES: list[tuple[int, ...]] = [
    (),
    (0,),
    (1,),
    (2,),
    (4,),
    (6,),
    (8,),
    (4, 6),
    (3, 3),
    (4, 4),
    (2, 2, 3),
    (0, 6),
]
DTYPES: list[Any] = [
    np.float32,
    np.float64,
    np.float16,
    np.int8,
    np.int64,
    np.uint64,
    np.bool_,
    complex,
    object,
    "U3",
]


def _array(rng: np.random.Generator) -> Any:
    shape = SHAPES[rng.integers(len(SHAPES))]
    dtype = DTYPES[rng.integers(len(DTYPES))]
    values = rng.normal(size=shape) * 10.0 ** rng.integers(-3, 6)
    if rng.random() < 0.2:
        values = np.full(shape, rng.choice([np.nan, np.inf, -np.inf]))
    with np.errstate(all="ignore"):
        return np.asarray(values).astype(dtype)


def _tensor(rng: np.random.Generator) -> Any:
    values = torch.randn(
        SHAPES[rng.integers(len(SHAPES))], generator=torch.Generator().manual_seed(int(rng.integers(99)))
    )
    changes: list[Callable[[torch.Tensor], torch.Tensor]] = [
        lambda x: x,
        lambda x: x.requires_grad_(),
        lambda x: x.to("meta"),
        lambda x: x.to(torch.complex64),
        lambda x: x.bfloat16(),
        lambda x: x.long(),
        lambda x: x.to_sparse(),
        lambda x: x * float("nan"),
    ]
    return changes[rng.integers(len(changes))](values)


def _nested(rng: np.random.Generator) -> Any:
    inside = [anything(rng, depth=1) for _ in range(rng.integers(4))]
    kinds: list[Callable[[list[Any]], Any]] = [
        list,
        tuple,
        lambda x: {str(i): value for i, value in enumerate(x)},
        lambda x: dict(enumerate(x)),
        lambda x: [x, [x]],
        iter,
    ]
    return kinds[rng.integers(len(kinds))](inside)


def _huge(rng: np.random.Generator) -> Any:
    """Return what claims to be larger than any memory, and is not."""
    claims: list[Callable[[], Any]] = [
        lambda: np.broadcast_to(np.uint8(7), (10**6, 10**6, 3)),
        lambda: np.broadcast_to(np.float32(0.1), (10**9, 6)),
        lambda: torch.zeros(1).expand(10**12),
        lambda: range(2**62),
        lambda: "w" * 100_000,
        lambda: b"\0" * 100_000,
    ]
    return claims[rng.integers(len(claims))]()


def _strange(rng: np.random.Generator) -> Any:
    strange: list[Any] = [
        None, object(), object, len, lambda: None, ..., NotImplemented, Path("nowhere"), b"bytes",
        bytearray(b"w"), memoryview(b"w"), {1, 2}, frozenset(), range(3), slice(1), 1j, Exception("x"),
        np.random.default_rng(0), torch.float32, np.dtype("f4"), np.datetime64("2026-01-01"), np.ma.masked,
    ]  # fmt: skip
    return strange[rng.integers(len(strange))]


def anything(rng: np.random.Generator, depth: int = 0) -> Any:
    """Return one hostile value."""
    makers: list[Maker] = [
        lambda rng: NUMBERS[rng.integers(len(NUMBERS))],
        lambda rng: TEXTS[rng.integers(len(TEXTS))],
        _array,
        _tensor,
        _strange,
        lambda rng: np.asarray(NUMBERS[rng.integers(12)])[()],
    ]
    if depth < 2:
        makers += [_nested, _huge]
    return makers[rng.integers(len(makers))](rng)


def json_value(rng: np.random.Generator, depth: int = 0) -> Any:
    """Return a hostile value that JSON can hold, with NaN and infinities as Python writes them."""
    plain = [None, *NUMBERS, *(text for text in TEXTS if text != "\ud800")]
    pick = rng.integers(len(plain) + (3 if depth < 3 else 0))
    if pick < len(plain):
        return plain[pick]
    inside = [json_value(rng, depth + 1) for _ in range(rng.integers(4))]
    return (
        inside
        if pick == len(plain)
        else {str(i): x for i, x in enumerate(inside)}
        if pick == len(plain) + 1
        else [inside]
    )
