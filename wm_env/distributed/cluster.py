"""Ray as a cluster: entered once, with clear words where it is missing, silent or too small."""

from __future__ import annotations

import importlib
import os
import socket
from typing import Any

ANSWER_SECONDS = 10.0


def ray() -> Any:
    """Return the module `ray`, or raise `ModuleNotFoundError` naming the extra."""
    try:
        return importlib.import_module("ray")
    except ModuleNotFoundError as error:
        if error.name != "ray":
            raise
        raise ModuleNotFoundError(
            'RayVectorEnv needs Ray, which is not installed: pip install "wm-env[ray]"', name="ray"
        ) from error


def enter(address: str | None, workers: int) -> bool:
    """Connect this process to a cluster, or start one of its own; return whether it was started here.

    A process that is connected already stays so. Raises `ConnectionError` where an address does not answer
    within 10 s, `ValueError` for one that is none.
    """
    module = ray()
    if module.is_initialized():
        return False
    quiet = {"log_to_driver": False, "logging_level": "ERROR"}
    if address is None:
        cores = max(os.cpu_count() or 1, workers)
        module.init(num_cpus=cores, include_dashboard=False, **quiet)
        return True
    if not isinstance(address, str) or not address:
        raise ValueError(f"address={address!r} must be 'auto', 'host:port' or 'ray://host:port'")
    if address not in ("auto", "local"):
        _reach(address)
    try:
        module.init(address=address, **quiet)
    except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
        first = str(error).strip().split("\n")[0]
        raise ConnectionError(f"no Ray cluster answers at {address!r}: {first}") from error
    return True


def _reach(address: str) -> None:
    """Raise `ConnectionError` where nothing listens at an address, `ValueError` where it is none."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ValueError(f"address={address!r} must be 'auto', 'host:port' or 'ray://host:port'")
    try:
        socket.create_connection((host, int(port)), timeout=ANSWER_SECONDS).close()
    except OSError as error:
        raise ConnectionError(
            f"no Ray cluster answers at {address!r} ({error}); start one with `ray start --head`, or leave "
            "address out for one on this machine"
        ) from error


def need(workers: int, gpus: float, cpus: float) -> None:
    """Raise `ValueError` where a cluster has less than so many workers need."""
    there = ray().cluster_resources()
    for what, each in (("GPU", gpus), ("CPU", cpus)):
        if each < 0 or each != each:
            raise ValueError(f"{what.lower()}s_per_worker={each} must be at least 0")
        total = float(there.get(what, 0.0))
        if workers * each > total + 1e-9:
            raise ValueError(
                f"{workers} workers of {each:g} {what} need {workers * each:g}, and the cluster has {total:g}"
                f"; use fewer workers or a smaller {what.lower()}s_per_worker"
            )
