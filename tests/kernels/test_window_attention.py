"""Window attention: SDPA against the masked softmax, and the rules of what may be seen."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from wm_env.kernels.inputs import relative_error
from wm_env.kernels.window_attention import window_attention, window_attention_naive

FLOAT64 = 1e-12
FLOAT32 = 1e-5
BFLOAT16 = 2e-2

SHAPES = [(1, (0,), 1, 0), (1, (0,), 7, 5), (3, (0,), 4, 3), (4, (0, 1, 2, 3), 2, 0), (7, (0, 4), 3, 6)]


def tensors(
    frames: int, tokens: int, past: int, *, batch: int = 2, dim: int = 6, dtype: torch.dtype = torch.float64
) -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(frames * 100 + tokens * 10 + past)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=random, dtype=torch.float64).to(dtype).requires_grad_()

    found = {name: normal(batch, 3, frames, tokens, dim) for name in "qkv"}
    if past:
        found |= {name: normal(batch, 3, past, dim) for name in ("past_k", "past_v")}
    return found


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_output_and_gradients_equal_the_masked_softmax(shape: tuple, padded: bool) -> None:
    frames, starts, tokens, past = shape
    x = tensors(frames, tokens, past)
    valid = None
    if padded and past:
        valid = torch.ones(2, past, dtype=torch.bool)
        valid[0, : past // 2 + 1] = False
    results = []
    for function in (window_attention, window_attention_naive):
        out = function(**x, past_valid=valid, chunk_starts=starts)
        weights = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)
        results.append((out, *torch.autograd.grad(out, list(x.values()), weights)))
    for actual, expected in zip(*results, strict=True):
        if expected.any():
            assert relative_error(actual, expected) < FLOAT64
        else:  # a lone key has weight 1 whatever its score: no gradient but rounding, which a CPU may leave
            assert actual.abs().max() < FLOAT64


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, FLOAT32), (torch.bfloat16, BFLOAT16)])
def test_low_precision_stays_close(dtype: torch.dtype, bound: float) -> None:
    x = tensors(3, 5, 4, dim=16, dtype=dtype)
    exact = window_attention_naive(
        **{name: t.detach().double() for name, t in x.items()}, chunk_starts=(0, 2)
    )
    out = window_attention(**x, chunk_starts=(0, 2))
    assert out.dtype == dtype
    assert relative_error(out, exact) < bound


def test_a_query_attends_to_the_past_and_to_frames_before_the_end_of_its_chunk() -> None:
    x = tensors(3, 2, 4, batch=1)
    q, k, v = (x[name][0] for name in "qkv")  # (H, T, N, D)
    for t, end in enumerate((2, 2, 3)):  # chunks [0, 2) and [2, 3)
        keys = torch.cat([x["past_k"][0], k[:, :end].flatten(1, 2)], 1)  # (H, P + end*N, D)
        values = torch.cat([x["past_v"][0], v[:, :end].flatten(1, 2)], 1)
        expected = (q[:, t] @ keys.transpose(1, 2) / 6**0.5).softmax(-1) @ values
        for function in (window_attention, window_attention_naive):
            assert relative_error(function(**x, chunk_starts=(0, 2))[0, :, t], expected) < FLOAT64


def test_padding_in_the_past_has_no_effect() -> None:
    x = tensors(2, 3, 5, batch=1)
    valid = torch.tensor([[False, False, True, True, True]])
    short = x | {name: x[name][:, :, 2:] for name in ("past_k", "past_v")}
    padded = window_attention(**x, past_valid=valid)
    assert relative_error(padded, window_attention(**short)) < FLOAT64


def test_a_call_is_the_same_as_two_with_the_first_as_past() -> None:
    x = tensors(5, 3, 4)
    whole = window_attention(**x, chunk_starts=(0, 2, 3))
    first = {name: x[name][:, :, :2] for name in "qkv"} | {n: x[n] for n in ("past_k", "past_v")}
    second = {name: x[name][:, :, 2:] for name in "qkv"}
    past = {f"past_{n}": torch.cat([x[f"past_{n}"], x[n][:, :, :2].flatten(2, 3)], 2) for n in "kv"}
    parts = [window_attention(**first), window_attention(**second, **past, chunk_starts=(0, 1))]
    assert relative_error(torch.cat(parts, 2), whole) < FLOAT64


def test_no_mask_is_built_unless_something_is_invalid(monkeypatch: pytest.MonkeyPatch) -> None:
    masks = []
    real = F.scaled_dot_product_attention

    def spy(*args: Tensor, attn_mask: Tensor | None, **rest: float | None) -> Tensor:
        masks.append(attn_mask)
        return real(*args, attn_mask=attn_mask, **rest)

    monkeypatch.setattr(F, "scaled_dot_product_attention", spy)
    x = tensors(4, 2, 3)
    valid = torch.ones(2, 3, dtype=torch.bool)
    window_attention(**x, past_valid=valid, chunk_starts=(0, 1, 3))
    assert masks == [None, None, None]
    valid[1, 0] = False
    window_attention(**x, past_valid=valid)
    assert masks[-1] is not None


def test_gradients_pass_finite_differences() -> None:
    x = {name: t[:, :1].detach().requires_grad_() for name, t in tensors(2, 1, 2, batch=1, dim=2).items()}

    def call(*found: Tensor) -> Tensor:
        return window_attention(**dict(zip(x, found, strict=True)), chunk_starts=(0, 1))

    assert torch.autograd.gradcheck(call, list(x.values()))


def test_wrong_arguments_are_refused() -> None:
    x = tensors(2, 3, 4)
    for function in (window_attention, window_attention_naive):
        with pytest.raises(ValueError, match="of one shape"):
            function(q=x["q"], k=x["k"], v=x["v"][:, :, :1])
        with pytest.raises(ValueError, match="non-empty"):
            function(**{name: x[name][:, :, :, :0] for name in "qkv"})
        with pytest.raises(ValueError, match="come together"):
            function(q=x["q"], k=x["k"], v=x["v"], past_k=x["past_k"])
        with pytest.raises(ValueError, match="are missing"):
            function(q=x["q"], k=x["k"], v=x["v"], past_valid=torch.ones(2, 4, dtype=torch.bool))
        with pytest.raises(ValueError, match="past_valid"):
            function(**x, past_valid=torch.ones(2, 3, dtype=torch.bool))
        with pytest.raises(ValueError, match="chunk_starts"):
            function(**x, chunk_starts=(0, 2))
