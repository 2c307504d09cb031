"""What was measured: a Markdown page with the worst tensor of each group, a CSV file with all of them."""

from __future__ import annotations

import csv
import datetime
import platform
import re
from collections.abc import Sequence
from pathlib import Path

import torch

from golden_checks.fixture import Measured

COUNTERS = re.compile(r"(?<=\.)\d+(?=\.)|(?<=^case)\d+|(?<=chunk)\d+|(?<=call)\d+|(?<=block)\d+")

HEADER = """# Agreement with the recorded reference

Every tensor of the golden fixtures against ours: largest absolute difference, `relative` to the largest
recorded value, `absolute`, or in `degrees`. One row holds all tensors that differ in a running number only;
[parity.csv]({csv}) lists each. Tolerances are the fixtures' own. `output_bf16` rows compare with the
reference's bfloat16 softmax and are there for information. Everything ran in float32.

- command: `OMP_NUM_THREADS=1 pytest tests/parity --golden ../shared/golden --parity-report {name}`
- hardware: {cpu}, {threads} thread(s); Python {python}, torch {torch}; {date}
- tensors compared: {count}; largest error as a share of its tolerance: {share:.0%} (bfloat16 rows left out)

| file | tensors | count | worst error | tolerance | measure |
|---|---|---:|---:|---:|---|
"""


def write(measured: Sequence[Measured], page: Path) -> None:
    """Write `page` (Markdown) and the CSV file of the same name."""
    table = page.with_suffix(".csv")
    with open(table, "w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(Measured._fields)
        for m in measured:
            writer.writerow((m.file, m.name, m.measure, f"{m.error:.3e}", f"{m.tolerance:.0e}"))
    page.write_text(_markdown(measured, page, table))


def _markdown(measured: Sequence[Measured], page: Path, table: Path) -> str:
    groups: dict[tuple[str, str, float, str], list[float]] = {}
    for m in measured:
        pattern = COUNTERS.sub("*", m.name)
        groups.setdefault((m.file, pattern, m.tolerance, m.measure), []).append(m.error)
    exact = [m.error / m.tolerance for m in measured if not m.name.startswith("output_bf16")]
    head = HEADER.format(
        csv=table.name,
        name=f"docs/performance/{page.name}",
        cpu=_cpu(),
        threads=torch.get_num_threads(),
        python=platform.python_version(),
        torch=torch.__version__,
        date=datetime.date.today(),
        count=len(measured),
        share=max(exact, default=0.0),
    )
    rows = [
        f"| {file} | `{pattern}` | {len(errors)} | {max(errors):.1e} | {tolerance:.0e} | {measure} |"
        for (file, pattern, tolerance, measure), errors in groups.items()
    ]
    return head + "\n".join(rows) + "\n"


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*:\s*(.+)", info.read_text()) if info.is_file() else []
    return names[0] if names else platform.processor() or platform.machine()
