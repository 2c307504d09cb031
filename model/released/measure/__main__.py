"""Measure the kernels and the released model's streaming step on the GPU at hand, within a budget of time.

    python -m wm_env.model.released.measure --budget 7m
    python -m wm_env.model.released.measure --toy                     (the same command on a CPU, in seconds)

Runs from a bare checkout with torch, triton, numpy and safetensors; no weights are needed, they are random.
In order of value: the device's ceilings; proofs that the kernels are right on it; a streaming step at
704x1280 in bfloat16, alone and with the refiner, batch 1 to 4; every kernel against its floor; where the host
waits; what the device is busy with. The file is whole after every part, so a killed run loses one part, and
the same command again goes on with what is missing. Code that has changed is measured anew.

Exit code: 0 if everything that ran is in order, 1 if a proof or a part failed, 2 for wrong arguments.
`python -m wm_env.model.released.measure.pages` writes the numbers into docs/performance.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from wm_env.model.released.measure.budget import seconds_of
from wm_env.model.released.measure.record import Record, code_digest
from wm_env.model.released.measure.runner import RESTART, failures, run_parts, supervise

ROOT = Path(__file__).resolve().parents[3]
MODULE = "wm_env.model.released.measure"


def arguments() -> argparse.ArgumentParser:
    first, _, rest = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        prog=f"python -m {MODULE}",
        description=first,
        epilog=rest,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--budget", default="7m", help="time for everything: 7m, 420s or 420 (default 7m)")
    parser.add_argument(
        "--out", type=Path, default=Path("measured.json"), help="results, gone on with if there"
    )
    parser.add_argument(
        "--toy", action="store_true", help="tiny shapes on the CPU, to see that all of it runs"
    )
    parser.add_argument("--deadline", type=float, help=argparse.SUPPRESS)  # given by the first process
    return parser


def main(words: list[str] | None = None) -> int:
    options = arguments().parse_args(words)
    try:
        budget = seconds_of(options.budget)
        if options.deadline is not None:
            return work(options.out, toy=options.toy, budget=budget, deadline=options.deadline)
        check_writable(options.out)
        if options.out.exists():
            Record(options.out).settle()
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    deadline = time.monotonic() + budget

    def start() -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", MODULE, "--budget", options.budget, "--out", str(options.out)]
        command += ["--deadline", repr(deadline), *(["--toy"] if options.toy else [])]
        return subprocess.Popen(command)

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # unwinds, which ends the worker too
    code = supervise(start, options.out, run=repr(deadline), deadline=deadline, say=say)
    if code == 2 or not options.out.exists():
        return code
    record = Record(options.out)
    failing = failures(record)
    for line in failing:
        print(f"FAILED {line}", file=sys.stderr)
    missing = [
        name for name, part in record.parts.items() if part["status"] in ("left out", "cut off", "partial")
    ]
    if missing:
        say(f"not measured in this budget: {'; '.join(missing)}; the same command goes on with them")
    return 1 if failing or code not in (0, 1, 124) else 0


def work(out: Path, *, toy: bool, budget: float, deadline: float) -> int:
    """Run the parts in this process, which ends when the one that began it does."""
    _end_with_parent()
    import torch  # here: the first process needs none of it

    from wm_env.model.released.measure.parts import Setting, all_parts

    if not toy and not torch.cuda.is_available():
        raise ValueError(
            "no CUDA device: this measures the released model on a GPU with Triton (an H100 or H200 fits it "
            "all); `--toy` runs the same at tiny shapes on a CPU"
        )
    setting = Setting("cpu" if toy else "cuda", toy)
    if toy:
        torch.set_num_threads(1)
    record = Record(out, about(setting.device, toy))
    parts, free = all_parts(setting)
    answers = run_parts(
        parts,
        record,
        code=code_digest(ROOT),
        run=repr(deadline),
        budget=budget,
        deadline=deadline,
        is_broken=lambda: setting.device == "cuda" and _broken(),
        free=free,
        say=say,
    )
    if not answers:
        return RESTART
    return 1 if failures(record) else 0


def about(device: str, toy: bool) -> dict[str, object]:
    """Return what all numbers of one file have in common."""
    from importlib.metadata import version
    from importlib.util import find_spec

    import torch

    facts: dict[str, object] = {
        "size": "toy" if toy else "released",
        "torch": torch.__version__,
        "triton": version("triton") if find_spec("triton") else None,
    }
    if device == "cpu":
        return facts | {"device": "CPU, one thread"}
    properties = torch.cuda.get_device_properties(0)
    return facts | {
        "device": properties.name,
        "memory_gib": round(properties.total_memory / 2**30, 1),
        "multiprocessors": properties.multi_processor_count,
        "cuda": torch.version.cuda,
    }


def say(line: str) -> None:
    print(line, flush=True)


def check_writable(out: Path) -> None:
    """Raise `OSError` naming the file where it cannot be written."""
    if out.is_dir():
        raise IsADirectoryError(f"--out {out} is a folder; name a file")
    try:
        probe = out.with_name(f".{out.name}.{os.getpid()}")
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise OSError(
            f"--out {out} cannot be written: {error.strerror}; name a file in a folder that can"
        ) from None


def _broken() -> bool:
    """Whether the device no longer answers this process, as after an illegal access."""
    import torch

    try:
        torch.ones(8, device="cuda").sum().item()
    except RuntimeError:
        return True
    return False


def _end_with_parent() -> None:
    """End this process when its parent is gone, so that a killed command leaves nothing on the device."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


if __name__ == "__main__":
    sys.exit(main())
