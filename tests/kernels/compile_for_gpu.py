"""Compile every Triton kernel for compute capability 9.0, head dim 112; print their shared memory as JSON.

All of them for bfloat16; for float32 those that need the most.

Run by test_triton.py in a process of its own, because there the kernels must not be interpreted.
"""

from __future__ import annotations

import json

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from wm_env.kernels.frame_gdn import fused, triton_bwd, triton_fwd

TARGET = GPUTarget("cuda", 90, 32)
MULTIPLES = ("tokens", "key_dim", "value_dim", "tokens_per_program")  # of 16, as launched
INTEGERS = ("heads", "frames", "groups", "kept", "column_blocks")
TOKENS = ("q", "k", "v", "q_norm", "k_norm", "out", "d_out", "d_q", "d_q_norm", "d_k", "d_v", "d_k_norm")
MARKS = ("restart", "slots", "first", "last")


LARGEST = (triton_fwd.read_kernel, triton_bwd.read_backward_kernel, triton_bwd.gram_backward_kernel)


def compile_one(
    kernel: triton.JITFunction, token: str, constants: dict, *, warps: int, stages: int, **types: str | None
) -> int:
    """Return the bytes of shared memory of a kernel whose token tensors have element type `token`."""
    signature, values, aligned = {}, {}, {}
    for i, name in enumerate(kernel.arg_names):
        if name in constants or (name in types and types[name] is None):
            signature[name], values[(i,)] = "constexpr", constants.get(name)
        elif name.endswith("strides"):
            signature[name] = ("i32",) * 4
            aligned |= {(i, j): [["tt.divisibility", 16]] for j in range(4)}
        elif name in INTEGERS:
            signature[name] = "i32"
        elif name in MULTIPLES:
            signature[name], aligned[(i,)] = "i32", [["tt.divisibility", 16]]
        elif name == "eps":
            signature[name] = "fp32"
        else:
            default = f"*{token}" if name in TOKENS else "*i32" if name in MARKS else "*fp32"
            signature[name], aligned[(i,)] = types.get(name, default), [["tt.divisibility", 16]]
    source = ASTSource(kernel, signature, values, aligned)
    return triton.compile(
        source, target=TARGET, options={"num_warps": warps, "num_stages": stages}
    ).metadata.shared


def main() -> None:
    shared = {}
    for token, dtype in (("bf16", torch.bfloat16), ("fp32", torch.float32)):
        blocks = fused._blocks(torch.empty(1, 20, 3, 880, 112, dtype=dtype, device="meta"), 112)
        small = {"BD": blocks.BD, "BC": blocks.BC, "PRECISION": blocks.PRECISION}
        sizes = {"BN": blocks.BN, "BD": blocks.BD, "BV": blocks.BV, "PRECISION": blocks.PRECISION}
        flags = {"NORMALISED": True, "REVERSE": True}
        start = {"HAS_START": True}
        runs = {
            triton_fwd.gram_kernel: (sizes, 3, {}),
            triton_fwd.scan_kernel: (
                small | start | {"FIRST": 0, "LAG": 0, "HAS_EXTRA": False},
                2,
                {"out": "*fp32", "extra": None, "extra_z": None},
            ),
            triton_fwd.read_kernel: (sizes | flags, 2, {}),
            triton_bwd.read_backward_kernel: (sizes | flags, 2, {}),
            triton_bwd.step_backward_kernel: (small | flags | start, 2, {}),
            triton_bwd.gram_backward_kernel: (sizes | flags | start | {"BK": blocks.BK}, 2, {}),
        }
        for kernel, (constants, stages, types) in runs.items():
            if token == "fp32" and kernel not in LARGEST:
                continue
            shared[f"{kernel.__name__} {token}"] = compile_one(
                kernel, token, constants, warps=blocks.warps, stages=stages, **types
            )
    print(json.dumps(shared))


if __name__ == "__main__":
    main()
