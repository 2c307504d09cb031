"""What a report says about where it comes from: weights, hardware, versions, command, date."""

from __future__ import annotations

import datetime
import os
import platform
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from wm_env.bench.records import Record
from wm_env.model.world import WorldSpec


@dataclass(frozen=True, kw_only=True)
class Report(Record):
    """What opens every report: the benchmark, the world with the digest of its weights, how it was run."""

    benchmark: str
    world: str
    weights_sha256: str | None
    command: str
    date: str
    hardware: str
    torch: str
    threads: int


def command_line(name: str) -> str:
    """Return the `wm-env bench` command that a report is the result of, as it was typed."""
    words = sys.argv[1:]
    typed = words if words[:2] == ["bench", name] else ["bench", name]
    return "wm-env " + shlex.join(typed)


def typed_command() -> str:
    """Return the `wm-env` command that this process was started with, as it was typed."""
    return "wm-env " + shlex.join(sys.argv[1:])


def provenance(spec: WorldSpec, command: str) -> dict[str, Any]:
    """Return the fields of `Report` but for the benchmark's name."""
    return {
        "world": spec.label,
        "weights_sha256": spec.weights_sha256,
        "command": command,
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "hardware": hardware(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
    }


def hardware() -> str:
    """Return the processor, the number of cores this process may use, and the GPU if there is one."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    text = f"{_processor()}, {cores} cores"
    return f"{text}, {torch.cuda.get_device_name()}" if torch.cuda.is_available() else text


def _processor() -> str:
    table = Path("/proc/cpuinfo")
    if table.is_file():
        for line in table.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def provenance_lines(report: Report) -> list[str]:
    """Return the same as Markdown lines."""
    return [
        f"World `{report.world}`, weights sha256 `{report.weights_sha256 or 'none'}`, "
        f"{report.date}, {report.hardware}, {report.threads} thread(s), torch {report.torch}.",
        "",
        f"    {report.command}",
        "",
    ]
