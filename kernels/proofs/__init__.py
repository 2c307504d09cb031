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

from wm_env.kernels.proofs.cases import ODD, RELEASED, GDNCase
from wm_env.kernels.proofs.gdn import gdn_checks, gdn_rules, match
from wm_env.kernels.proofs.mixers import attention, convolution, other_checks
from wm_env.kernels.proofs.proof import Check, Proof, unwritten_is_nan

__all__ = [
    "ODD",
    "RELEASED",
    "Check",
    "GDNCase",
    "Proof",
    "attention",
    "convolution",
    "gdn_checks",
    "gdn_rules",
    "match",
    "other_checks",
    "unwritten_is_nan",
]
