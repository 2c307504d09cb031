"""An independent oracle: flash-linear-attention's gated delta rule, equal to ours for one token per frame."""

from __future__ import annotations

import pytest
import torch

from wm_env.kernels.frame_gdn import GDNMemory, frame_gdn
from wm_env.kernels.inputs import gdn_inputs, relative_error

pytest.importorskip("fla", reason="flash-linear-attention is not installed: pip install 'wm-env[gpu]'")
pytestmark = pytest.mark.filterwarnings("ignore:Triton is not supported:UserWarning")

FLOAT32 = 2e-5  # its reference computes in float32
ON_GPU = [
    False,
    pytest.param(True, marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")),
]


@pytest.mark.slow
@pytest.mark.parametrize("on_gpu", ON_GPU)
@pytest.mark.parametrize("normalised", [False, True])
@pytest.mark.parametrize("with_state", [False, True])
@pytest.mark.parametrize("impl", ["naive", "chunk"])
def test_one_token_per_frame_is_the_ordinary_gated_delta_rule(
    impl: str, with_state: bool, normalised: bool, on_gpu: bool
) -> None:
    from wm_env.kernels.frame_gdn.fla_adapter import frame_gdn_fla  # optional dependency

    x = gdn_inputs(
        seed=1,
        batch=2,
        heads=3,
        frames=9,
        tokens=1,
        key_dim=16,
        value_dim=16,
        normalised=normalised,
        with_state=with_state,
        dtype=torch.float32,
        device="cuda" if on_gpu else "cpu",
    )
    tensors = {name: t for name, t in x._asdict().items() if name not in ("S", "z")}
    state = GDNMemory(x.S, x.z) if with_state else None
    out, memory = frame_gdn(**tensors, state=state, chunk_starts=range(9), impl=impl)
    expected, end = frame_gdn_fla(**tensors, state=state, on_gpu=on_gpu)
    assert relative_error(out, expected) < FLOAT32
    assert relative_error(memory.S, end.S) < FLOAT32
    if normalised:
        assert relative_error(memory.z, end.z) < FLOAT32


def test_more_than_one_token_per_frame_is_another_function() -> None:
    from wm_env.kernels.frame_gdn.fla_adapter import frame_gdn_fla

    x = gdn_inputs(seed=2, tokens=2)
    with pytest.raises(ValueError, match="one token per frame, got N=2"):
        frame_gdn_fla(q=x.q, k=x.k, v=x.v, beta=x.beta, g=x.g, state=None)
