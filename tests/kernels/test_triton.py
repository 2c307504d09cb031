"""The Triton kernels against the definition: on a GPU where there is one, else in Triton's interpreter.

The interpreter multiplies bfloat16 wrongly, so float16 stands for low precision on the CPU. A further test
compiles the kernels for a real GPU, which needs none: it shows that they fit its registers and shared memory.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from wm_env.kernels.frame_gdn import frame_gdn, resolve_impl
from wm_env.kernels.inputs import GDNInputs, gdn_inputs, relative_error, run_gdn, worst_error

pytest.importorskip("triton", reason="Triton is not installed: pip install 'wm-env[gpu]'")

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
LOW = torch.bfloat16 if DEVICE == "cuda" else torch.float16
FLOAT32 = 2e-5  # rounding of float32 sums; three-product TF32 on a GPU is as good
BOUND = {torch.float32: FLOAT32, torch.bfloat16: 4e-2, torch.float16: 5e-3}

# frames, chunk starts, tokens, key dim, value dim, normalised, with state, every chunk
CASES = [
    (1, (0,), 1, 1, 1, True, False, False),
    (1, (0,), 70, 16, 16, True, True, False),
    (3, (0,), 9, 5, 17, True, False, False),
    (3, (0, 1, 2), 16, 32, 32, True, True, True),
    (4, (0, 3), 65, 8, 8, False, True, True),
    (5, (0, 1, 4), 7, 12, 6, True, True, False),
    (2, (0,), 5, 3, 3, False, False, False),
]


def exact(inputs: GDNInputs) -> GDNInputs:
    return GDNInputs(*(None if x is None else x.double() for x in inputs))


@pytest.mark.parametrize("dtype", [torch.float32, LOW])
@pytest.mark.parametrize("case", CASES)
def test_triton_and_its_gradients_match_the_definition(case: tuple, dtype: torch.dtype) -> None:
    frames, starts, tokens, key_dim, value_dim, normalised, with_state, every_chunk = case
    inputs = gdn_inputs(
        seed=1,
        batch=1,
        heads=2,
        frames=frames,
        tokens=tokens,
        key_dim=key_dim,
        value_dim=value_dim,
        normalised=normalised,
        with_state=with_state,
        dtype=dtype,
        device=DEVICE,
    )
    options = {"chunk_starts": starts, "every_chunk": every_chunk, "gradients": True}
    results = run_gdn(inputs, "triton", **options)
    assert results["out"].dtype == dtype
    assert results["S"].dtype == torch.float32
    name, error = worst_error(results, run_gdn(exact(inputs), "naive", **options))
    assert error < BOUND[dtype], name


@pytest.mark.parametrize("dtype", [torch.float32, LOW])
def test_the_released_head_dim_matches_the_definition(dtype: torch.dtype) -> None:
    """112 is no power of two: the kernels work in blocks of 128."""
    inputs = gdn_inputs(
        seed=2, heads=1, frames=2, tokens=33, key_dim=112, value_dim=112, dtype=dtype, device=DEVICE
    )
    results = run_gdn(inputs, "triton", gradients=True)
    name, error = worst_error(results, run_gdn(exact(inputs), "naive", gradients=True))
    assert error < BOUND[dtype], name


def test_strided_inputs_are_read_in_place_and_the_output_keeps_the_layout_of_v() -> None:
    """The model holds tokens first: q is a view of (B,T,N,H,D), v a slice of a wider projection."""
    x = gdn_inputs(
        seed=3, batch=2, frames=2, tokens=6, key_dim=8, value_dim=8, dtype=torch.float32, device=DEVICE
    )
    wide = torch.randn(2, 2, 6, 2, 24, device=DEVICE)
    v = wide[..., 8:16].permute(0, 3, 1, 2, 4)  # (B,H,T,N,V)
    expected = run_gdn(x._replace(v=v.contiguous()), "triton", gradients=True)
    first = x._replace(
        **{
            name: getattr(x, name).permute(0, 2, 3, 1, 4).contiguous().permute(0, 3, 1, 2, 4)
            for name in ("q", "k", "q_norm", "k_norm")
        },
        v=v,
        beta=x.beta.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2),
    )
    strided = run_gdn(first, "triton", gradients=True)
    assert worst_error(strided, expected)[1] < FLOAT32
    assert strided["out"].permute(0, 2, 3, 1, 4).is_contiguous()
    assert strided["d_k"].permute(0, 2, 3, 1, 4).is_contiguous()


def test_a_split_call_gives_the_same_output() -> None:
    x = gdn_inputs(seed=4, frames=4, dtype=torch.float32, device=DEVICE)
    whole = run_gdn(x, "triton", chunk_starts=(0, 3))
    parts = [
        x._replace(**{n: t[:, :, part] for n, t in x._asdict().items() if n not in ("S", "z")})
        for part in (slice(0, 3), slice(3, 4))
    ]
    first = run_gdn(parts[0], "triton")
    second = run_gdn(parts[1]._replace(S=first["S"], z=first["z"]), "triton")
    assert relative_error(torch.cat([first["out"], second["out"]], 2), whole["out"]) < FLOAT32
    assert relative_error(second["S"], whole["S"]) < FLOAT32


def test_the_gradient_of_one_output_alone_is_right() -> None:
    """Unused outputs have no gradient: each path through the backward pass must stand alone."""
    x = gdn_inputs(seed=5, frames=2, dtype=torch.float32, device=DEVICE)
    for wanted in ("out", "S", "z"):
        found = gradient(x, "triton", wanted)
        assert relative_error(found, gradient(exact(x), "naive", wanted)) < FLOAT32


def gradient(x: GDNInputs, impl: str, wanted: str) -> torch.Tensor:
    """Return the gradients of sum(output^2) with respect to k and k_norm, stacked."""
    k, k_norm = x.k.clone().requires_grad_(), x.k_norm.clone().requires_grad_()
    out, memory = frame_gdn(
        q=x.q, k=k, v=x.v, beta=x.beta, g=x.g, state=None, q_norm=x.q_norm, k_norm=k_norm, impl=impl
    )
    result = {"out": out, "S": memory.S, "z": memory.z}[wanted]
    grads = torch.autograd.grad(result.square().sum(), (k, k_norm), allow_unused=True, materialize_grads=True)
    return torch.stack(grads)


def test_what_the_kernels_cannot_do_is_refused() -> None:
    with pytest.raises(ValueError, match="float64"):
        run_gdn(gdn_inputs(seed=6, device=DEVICE), "triton")
    with pytest.raises(ValueError, match="up to 128"):
        run_gdn(gdn_inputs(seed=6, key_dim=129, dtype=torch.float32, device=DEVICE), "triton")
    if DEVICE == "cpu":
        with pytest.raises(ValueError, match="interpreter multiplies bfloat16"):
            run_gdn(gdn_inputs(seed=6, dtype=torch.bfloat16), "triton")


def test_cpu_tensors_outside_the_interpreter_are_refused() -> None:
    program = (
        "from wm_env.kernels.inputs import gdn_inputs, run_gdn; import torch;"
        "run_gdn(gdn_inputs(seed=0, dtype=torch.float32), 'triton')"
    )
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert "needs CUDA tensors, got cpu" in done.stderr


def test_kernels_fit_the_gpu_they_are_made_for() -> None:
    """Compiling for an H100/H200 (227 KiB of shared memory per block) needs no GPU."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    script = Path(__file__).with_name("compile_for_gpu.py")
    done = subprocess.run([sys.executable, str(script)], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    shared = json.loads(done.stdout)
    assert len(shared) == 9
    assert max(shared.values()) <= 227 * 1024, shared


def test_auto_means_triton_on_cuda() -> None:
    assert resolve_impl("auto", "cuda") == "triton"
