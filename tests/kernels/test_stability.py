"""Ten thousand frames: with the 1/sqrt(D N) key scale the memory stays finite, without it it does not.

Why: P = K^T diag(beta) K has trace sum_n beta_n |k_n|^2. Scaled keys of unit variance keep it at about 1 or
below, so that I - P does not stretch; unscaled, its largest eigenvalue is of order N D and the memory grows
by that factor every frame.
"""

from __future__ import annotations

import math

import pytest
import torch

from wm_env.kernels.frame_gdn import GDNMemory, frame_gdn
from wm_env.kernels.inputs import gdn_inputs

FRAMES, PER_CALL, TOKENS, DIM = 10_000, 100, 8, 4


def run(impl: str, key_scale: float, gentle: bool, frames: int = FRAMES) -> tuple[bool, float]:
    """Return (all outputs and memories finite, largest memory entry) of a rollout in calls of 100 frames.

    gentle: no decay at all (g = 0) and beta = 1, the least stable gates that are allowed.
    """
    state, finite = None, True
    for call in range(frames // PER_CALL):
        x = gdn_inputs(
            seed=call, heads=1, frames=PER_CALL, tokens=TOKENS, key_dim=DIM, key_scale=key_scale,
            with_state=False, dtype=torch.float32,
        )  # fmt: skip
        beta, g = (torch.ones_like(x.beta), torch.zeros_like(x.g)) if gentle else (x.beta, x.g)
        out, state = frame_gdn(
            q=x.q, k=x.k, v=x.v, beta=beta, g=g, state=state, q_norm=x.q_norm, k_norm=x.k_norm,
            chunk_starts=range(0, PER_CALL, 4), impl=impl,
        )  # fmt: skip
        finite = finite and bool(
            out.isfinite().all() and state.S.isfinite().all() and state.z.isfinite().all()
        )
        if not finite:
            break
    return finite, float(state.S.abs().max())


@pytest.mark.parametrize("gentle", [True, False])
def test_scaled_keys_stay_finite_over_ten_thousand_frames(gentle: bool) -> None:
    finite, largest = run("chunk", 1 / math.sqrt(DIM * TOKENS), gentle)
    assert finite
    assert largest < 100


def test_the_definition_is_as_stable() -> None:
    finite, _ = run("naive", 1 / math.sqrt(DIM * TOKENS), gentle=True, frames=1000)
    assert finite


@pytest.mark.parametrize("impl", ["naive", "chunk"])
def test_unscaled_keys_overflow(impl: str) -> None:
    finite, _ = run(impl, key_scale=1.0, gentle=True)
    assert not finite


def test_a_memory_that_decays_completely_leaves_only_the_last_frame() -> None:
    x = gdn_inputs(seed=1, frames=4)
    g = torch.full_like(x.g, -2000.0)  # exp(g) = 0
    arguments = {"q": x.q, "k": x.k, "v": x.v, "beta": x.beta, "q_norm": x.q_norm, "k_norm": x.k_norm}
    out, memory = frame_gdn(**arguments, g=g, state=GDNMemory(x.S, x.z), chunk_starts=range(4))
    last, alone = frame_gdn(**{name: t[:, :, 3:] for name, t in arguments.items()}, g=g[:, :, 3:], state=None)
    assert torch.allclose(out[:, :, 3:], last)
    assert torch.allclose(memory.S, alone.S)
