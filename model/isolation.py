"""What the caller has set for its own work stays outside: results are functions of arguments alone.

    with undisturbed(): ...          or          @undisturbed() before a function

Inside, torch makes float32 tensors on the CPU unless told otherwise, without autocast and outside inference
mode, multiplies in full float32 precision, and NumPy warns of what it warns of by default. Afterwards all of
it is as it was. Random generators are not touched: nothing inside reads the global ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import numpy as np
import torch

_AUTOCAST = ("cpu", "cuda", "xpu", "mps")


@contextmanager
def undisturbed() -> Iterator[None]:
    """Let nothing that the caller has set for torch or NumPy reach the block; see the module docstring."""
    with ExitStack() as stack:
        stack.enter_context(np.errstate(divide="warn", over="warn", under="ignore", invalid="warn"))
        if torch.get_default_dtype() != torch.float32:
            stack.callback(torch.set_default_dtype, torch.get_default_dtype())
            torch.set_default_dtype(torch.float32)
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        if torch.is_inference_mode_enabled():
            stack.enter_context(torch.inference_mode(False))
        for kind in _AUTOCAST:
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        if torch.get_float32_matmul_precision() != "highest":
            stack.callback(torch.set_float32_matmul_precision, torch.get_float32_matmul_precision())
            torch.set_float32_matmul_precision("highest")
        if not torch.backends.mkldnn.enabled:
            stack.enter_context(torch.backends.mkldnn.flags(enabled=True))
        yield
