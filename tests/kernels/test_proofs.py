"""The proofs hold for the kernels here, and each kind of fault makes one of them fail."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from wm_env.kernels import proofs
from wm_env.kernels.frame_gdn import GDNMemory, frame_gdn
from wm_env.kernels.proofs import ODD, RELEASED, Proof, gdn_checks, gdn_rules, other_checks
from wm_env.kernels.temporal_conv import short_conv
from wm_env.kernels.window_attention import window_attention

Result = tuple[Tensor, GDNMemory]
HERE: dict[str, Any] = {"device": "cpu", "low": torch.bfloat16}


@pytest.mark.slow
@pytest.mark.parametrize("cases", [ODD, RELEASED], ids=["odd", "released"])
def test_the_matrix_form_holds_on_every_shape(cases: tuple) -> None:
    for check in gdn_checks("chunk", cases=cases, **HERE).values():
        assert [proof for proof in check() if not proof.holds] == []


def test_the_matrix_form_keeps_the_rules_and_the_other_kernels_match() -> None:
    for check in (gdn_rules("chunk", case=ODD[1], **HERE) | other_checks(**HERE)).values():
        assert [proof for proof in check() if not proof.holds] == []


def test_an_error_that_is_no_number_or_above_its_bound_is_no_proof() -> None:
    assert Proof("", 0.1, 0.1, "").holds
    assert not Proof("", 0.11, 0.1, "").holds
    assert not Proof("", math.nan, 0.1, "").holds


class HalfGradient(torch.autograd.Function):
    """The identity with half its gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient / 2


def forgets_the_state(**x: Any) -> Result:
    return frame_gdn(**(x | {"state": None}))


def decays_twice(**x: Any) -> Result:
    return frame_gdn(**(x | {"g": 2 * x["g"]}))


def loses_half_of_the_gradient_of_beta(**x: Any) -> Result:
    return frame_gdn(**(x | {"beta": HalfGradient.apply(x["beta"])}))


def sees_later_chunks(**x: Any) -> Result:
    return frame_gdn(**(x | {"chunk_starts": (0,), "every_chunk": False}))


def never_looks_back(**x: Any) -> Result:
    return frame_gdn(**(x if x.get("every_chunk") else x | {"chunk_starts": tuple(range(x["g"].shape[2]))}))


def leaves_the_last_token_unwritten(**x: Any) -> Result:
    right, memory = frame_gdn(**x)
    out = torch.empty_like(right)
    out[..., :-1, :] = right[..., :-1, :]
    return out, memory


def multiplies_in_tf32(**x: Any) -> Result:
    out, memory = frame_gdn(**(x | {"v": x["v"] * (1 + 5e-4)}))
    return out, memory


def gives_the_memory_of_the_first_chunk(**x: Any) -> Result:
    out, memory = frame_gdn(**(x | {"every_chunk": True}))
    return out, GDNMemory(*(None if t is None else t[:, 0] for t in memory))


_calls: Iterator[int] = iter(range(10**9))


def races(**x: Any) -> Result:
    out, memory = frame_gdn(**x)
    return out * (1 + 1e-6 * (next(_calls) % 2)), memory


def assumes_contiguous_values(**x: Any) -> Result:
    v = x["v"]
    flat = v.as_strided(v.shape, torch.empty(v.shape).stride(), v.storage_offset())
    return frame_gdn(**(x | {"v": v if v.is_contiguous() else flat}))


@pytest.mark.parametrize(
    ("kernel", "caught_by"),
    [
        (forgets_the_state, "match"),
        (forgets_the_state, "split"),
        (decays_twice, "match"),
        (loses_half_of_the_gradient_of_beta, "match"),
        (sees_later_chunks, "causal"),
        (never_looks_back, "match"),
        (leaves_the_last_token_unwritten, "match"),
        (multiplies_in_tf32, "match float32"),
        (gives_the_memory_of_the_first_chunk, "split"),
        (races, "repeated"),
        (assumes_contiguous_values, "strided"),
    ],
)
def test_a_wrong_kernel_is_caught(kernel: Callable[..., Result], caught_by: str) -> None:
    checks = gdn_checks("chunk", cases=ODD[:6], function=kernel, **HERE)
    checks |= gdn_rules("chunk", case=ODD[1], function=kernel, **HERE)
    found = {name: check for name, check in checks.items() if name.startswith(caught_by)}
    failing = [name for name, check in found.items() if not all(proof.holds for proof in _run(check))]
    assert failing


def _run(check: proofs.Check) -> list[Proof]:
    return check()


def test_wrong_attention_and_convolution_are_caught() -> None:
    def blind(**x: Any) -> Tensor:
        return window_attention(**(x | {"past_k": None, "past_v": None, "past_valid": None}))

    def unmasked(**x: Any) -> Tensor:
        return window_attention(**(x | {"past_valid": None}))

    def without_tail(x: Tensor, w: Tensor, *, tail: Tensor, chunk_starts: tuple) -> tuple[Tensor, Tensor]:
        return short_conv(x, w, tail=0 * tail, chunk_starts=chunk_starts)

    shape = (3, (0,), 4, 3)
    right = proofs.attention(shape, torch.float32, device="cpu", padded=True)
    assert right[0].holds
    assert not proofs.attention(shape, torch.float32, device="cpu", padded=True, function=unmasked)[0].holds
    with pytest.raises(RuntimeError, match="not have been used"):
        proofs.attention(shape, torch.float32, device="cpu", function=blind)  # no gradient to the past
    assert not proofs.convolution("short", (5, (0,)), torch.float32, device="cpu", function=without_tail)[
        0
    ].holds


def test_the_settings_of_torch_are_as_before() -> None:
    before = torch.are_deterministic_algorithms_enabled()
    with proofs.unwritten_is_nan():
        assert torch.empty(3).isnan().all()
    assert torch.are_deterministic_algorithms_enabled() == before
