"""Without a GPU the Triton kernels run in Triton's interpreter, chosen before Triton is first imported.

One thread: at these sizes a second one only waits, for seconds where the machine is busy.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
