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

from wm_env.kernels.frame_gdn import resolve_impl
from wm_env.kernels.inputs import gdn_inputs, run_gdn
from wm_env.kernels.proofs import ODD, GDNCase, gdn_checks, gdn_rules, match

pytest.importorskip("triton", reason="Triton is not installed: pip install 'wm-env[gpu]'")

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
LOW = torch.bfloat16 if DEVICE == "cuda" else torch.float16

CASES = gdn_checks("triton", device=DEVICE, low=LOW, cases=ODD)
RULES = gdn_rules("triton", device=DEVICE, low=LOW, case=ODD[-1])


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_triton_and_its_gradients_match_the_definition(name: str) -> None:
    failing = [proof for proof in CASES[name]() if not proof.holds]
    assert not failing


@pytest.mark.slow
@pytest.mark.parametrize("name", RULES)
def test_triton_keeps_the_rules_of_every_shape(name: str) -> None:
    failing = [proof for proof in RULES[name]() if not proof.holds]
    assert not failing


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, LOW])
def test_the_released_head_dim_matches_the_definition(dtype: torch.dtype) -> None:
    """112 is no power of two: the kernels work in blocks of 128."""
    case = GDNCase(frames=2, tokens=33, key_dim=112, value_dim=112, heads=1)
    assert all(proof.holds for proof in match(case, dtype, impl="triton", device=DEVICE))


def test_what_the_kernels_cannot_do_is_refused() -> None:
    with pytest.raises(ValueError, match="float64"):
        run_gdn(gdn_inputs(seed=6, device=DEVICE), "triton")
    with pytest.raises(ValueError, match="up to 128"):
        run_gdn(gdn_inputs(seed=6, key_dim=129, dtype=torch.float32, device=DEVICE), "triton")
    if DEVICE == "cpu":
        with pytest.raises(ValueError, match="interpreter multiplies bfloat16"):
            run_gdn(gdn_inputs(seed=6, dtype=torch.bfloat16), "triton")


@pytest.mark.slow
def test_cpu_tensors_outside_the_interpreter_are_refused() -> None:
    program = (
        "from wm_env.kernels.inputs import gdn_inputs, run_gdn; import torch;"
        "run_gdn(gdn_inputs(seed=0, dtype=torch.float32), 'triton')"
    )
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert "needs CUDA tensors, got cpu" in done.stderr


@pytest.mark.slow
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
