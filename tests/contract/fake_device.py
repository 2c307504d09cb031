"""A device without memory ("meta"): its tensors have shapes and no values; tensors of the host have both.

Inside `fake_device()` every operation is held to what keeps a GPU busy during a step:

    operands are on one device   a host tensor of more than a number beside one of the device is refused
    no value comes back          .item(), .tolist(), bool(), .cpu(), sizes that depend on values
    the host does not wait       .to(device, non_blocking=True), no torch.tensor(device=)

`copies` lists the shapes of what came from the host. Tensors of the host alone compute as ever.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch._C import DispatchKey
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from wm_env.model.state import Tree, tree_map

DEVICE = torch.device("meta")
_COPIES = ("aten::_to_copy", "aten::copy_", "aten::to")
# these look at an error code, a count or an order on the host; some have shapes on "meta" all the same
_WAITING = ("_local_scalar_dense", "is_nonzero", "equal", "allclose", "nonzero", "masked_select", "bincount")
_WAITING += ("unique", "_unique2", "linalg_inv", "linalg_solve", "linalg_cholesky", "linalg_eigh")


class HostRoundTrip(AssertionError):
    """The host waits for the device, or an operation is given tensors of both."""


class _Calls(TorchFunctionMode):
    """Refuses the calls that copy host values to the device, and wait, without an operation to be seen."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        made = func in (torch.tensor, torch.as_tensor) and kwargs.get("device") is not None
        if made and torch.device(kwargs["device"]) == DEVICE and not isinstance(args[0], Tensor):
            raise HostRoundTrip("values are copied to the device and waited for: torch.tensor(device=)")
        if func is Tensor.new_tensor and args[0].device == DEVICE:
            raise HostRoundTrip("values are copied to the device and waited for: new_tensor")
        if func in (Tensor.__getitem__, Tensor.__setitem__) and args[0].device == DEVICE:
            index = args[1] if isinstance(args[1], tuple) else (args[1],)
            if any(isinstance(part, list | range) for part in index):
                raise HostRoundTrip(f"the index {index} is copied to the device and waited for")
        return func(*args, **kwargs)


class Watch(TorchDispatchMode):
    """Looks at every operation; copies: the shapes of what came from the host."""

    def __init__(self) -> None:
        super().__init__()
        self.copies: list[tuple[int, ...]] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        operands = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        there = [operand for operand in operands if operand.device == DEVICE]
        target = next((x for x in (*args, *kwargs.values()) if isinstance(x, torch.device)), None)
        name = func._schema.name
        if name in _COPIES:
            self._check_copy(name, args, kwargs, target)
        elif there and name.removeprefix("aten::") in _WAITING:
            raise HostRoundTrip(f"{name} reads values of the device")
        elif there and any(operand.ndim for operand in operands if operand.device != DEVICE):
            shapes = [(tuple(operand.shape), operand.device.type) for operand in operands]
            raise HostRoundTrip(f"{name} is given tensors of the host and of the device: {shapes}")
        if there and func.has_kernel_for_dispatch_key(DispatchKey.CompositeImplicitAutograd):
            with self:
                out = func.decompose(*args, **kwargs)
            if out is not NotImplemented:
                return out
        return func(*args, **kwargs)

    def _check_copy(
        self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], target: torch.device | None
    ) -> None:
        """Note a copy from the host to the device; refuse one back, and one that is waited for."""
        into = name == "aten::copy_"
        source, to = (args[1], args[0].device) if into else (args[0], target or args[0].device)
        if DEVICE not in (source.device, to) or source.device == to:
            return
        if to != DEVICE:
            raise HostRoundTrip(f"a tensor {tuple(source.shape)} is copied to the host")
        filled = into and source.ndim == 0  # a number goes along with the kernel
        if not (filled or kwargs.get("non_blocking") or True in args[2:4]):
            raise HostRoundTrip(f"a tensor {tuple(source.shape)} is copied to the device and waited for")
        self.copies.append(tuple(source.shape))


@contextmanager
def fake_device() -> Iterator[Watch]:
    """The block in which `DEVICE` is watched."""
    autocast, watch = torch.autocast, Watch()

    def no_autocast(device: str, *args: Any, **kwargs: Any) -> Any:
        return nullcontext() if device == DEVICE.type else autocast(device, *args, **kwargs)

    torch.autocast = no_autocast  # type: ignore[assignment,misc]  # it knows no "meta"
    try:
        with _Calls(), watch:
            yield watch
    finally:
        torch.autocast = autocast  # type: ignore[misc]


def moved(tree: Tree) -> Tree:
    """Return a state like `tree` on the device."""
    return tree_map(lambda leaf: leaf.to(DEVICE), tree)
