"""Weights in fewer bits, through torchao (extra `quant`): one weight at a time, products as before.

torchao is imported when a precision asks for it, and quietly: it reports libraries that it did not find.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from wm_env.model.released.precision import PLAIN, PRECISIONS, Part, Precision, quantised_modules

INSTALL = "install it with `pip install 'wm-env[quant]'`"
_PROBE = 32  # rows and columns of the product that is tried; a multiple of all group sizes


def quantised_weight(value: Tensor, precision: Precision) -> Tensor:
    """Return a weight `(out, in)` in a precision, a tensor that `F.linear` takes like any other."""
    quantize_, config = _torchao(precision)
    linear = nn.Linear(value.shape[1], value.shape[0], bias=False, device="meta")
    linear.weight = nn.Parameter(value, requires_grad=False)
    quantize_(linear, config)
    return linear.weight.detach()


def check_precision(precision: Precision, device: str) -> None:
    """Raise `ValueError` unless library and device can compute in a precision; a small product is tried.

    Raises `ImportError` without torchao.
    """
    if precision == PLAIN:
        return
    _torchao(precision)
    reason = _failure(precision, device)
    if reason is None:
        return
    able = [other for other in PRECISIONS if other == PLAIN or _failure(other, device) is None]
    raise ValueError(
        f"precision {precision!r} cannot be computed on {device} ({reason:.160}); {', '.join(able)} can"
    )


def settler(part: Part, network: nn.Module, precision: Precision) -> Callable[[str, Tensor], Tensor] | None:
    """Return `(name, tensor) -> tensor` that quantises the weights of a part's table, None where none is."""
    if precision == PLAIN:
        return None
    chosen = {f"{name}.weight" for name, _ in quantised_modules(part, network)}

    def settle(name: str, value: Tensor) -> Tensor:
        return quantised_weight(value, precision) if name in chosen else value

    return settle


def quantise(part: Part, network: nn.Module, precision: Precision) -> None:
    """Quantise a network that is loaded, in place and module by module."""
    settle = settler(part, network, precision)
    if settle is None:
        return
    for name, module in list(quantised_modules(part, network)):
        weight = settle(f"{name}.weight", module.weight.detach())
        module.weight = nn.Parameter(weight, requires_grad=False)


def _failure(precision: Precision, device: str) -> str | None:
    """Return why a product in a precision fails on a device, None where it does not."""
    try:
        weight = quantised_weight(torch.ones(_PROBE, _PROBE, dtype=torch.bfloat16, device=device), precision)
        product = nn.functional.linear(torch.ones(1, _PROBE, dtype=torch.bfloat16, device=device), weight)
        bad = abs(float(product.float().mean()) - _PROBE) > 0.1 * _PROBE
    except Exception as error:  # whatever a kernel or the library raises is the reason
        return " ".join(f"{type(error).__name__}: {error}".split())
    return f"32 ones add up to {float(product.float().mean()):g}" if bad else None


def _torchao(precision: Precision) -> tuple[Callable[..., Any], Any]:
    """Return torchao's function and its settings of a precision."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        before = logging.root.manager.disable
        logging.disable(logging.WARNING)
        try:
            from torchao.quantization import Float8WeightOnlyConfig, Int8WeightOnlyConfig, quantize_

            if precision == "nvfp4":
                from torchao.prototype.mx_formats import NVFP4WeightOnlyConfig

                return quantize_, NVFP4WeightOnlyConfig()
        except ImportError as error:
            raise ImportError(f"precision={precision!r} needs torchao; {INSTALL}") from error
        finally:
            logging.disable(before)
    return quantize_, {"int8": Int8WeightOnlyConfig, "fp8": Float8WeightOnlyConfig}[precision]()
