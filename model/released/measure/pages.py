"""Write measured numbers into docs/performance: every section between two marks comes from the files there.

    python -m wm_env.model.released.measure.pages            (rewrites the sections of both pages)
    python -m wm_env.model.released.measure.pages --check    (exit code 1 if that would change one)

`docs/performance/gpu-*.json` are files of `wm_env.model.released.measure`, one per device;
`docs/performance/kernels-cpu.json` is one of `wm_env.kernels.bench`. What they lack is "not yet measured".
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from wm_env.model.marked_pages import arguments, refused, rewrite, table

FOLDER = Path(__file__).resolve().parents[3] / "docs" / "performance"
MISSING = "not yet measured"
BATCHES = (1, 2, 3, 4)
TARGETS = {False: 6.0, True: 1.6}  # times real time on an H200, alone and with the refiner
FLOOR_TARGET = 2.0
KERNELS = (
    *(("streaming chunk", batch, 3) for batch in (1, 8)),
    *(("forward", batch, frames) for batch in (1, 8) for frames in (3, 21, 121)),
    *(("fwd+bwd", 1, frames) for frames in (3, 21, 121)),
    *(("fwd+bwd", 8, frames) for frames in (3, 21, 43)),
)
SDPA = "softmax attention (SDPA)"

Record = Mapping[str, Any]
Row = Sequence[str]


def result_of(record: Record, name: str) -> dict[str, Any] | None:
    """Return what a part measured, None where it did not."""
    part = record["parts"].get(name, {})
    return part.get("result") if part.get("status") in ("done", "partial") else None


def device_of(record: Record) -> str:
    return record["about"]["device"]


def step_rows(record: Record | None) -> list[Row]:
    """Return a row per batch, alone and with the refiner."""
    reasons = {"no room": "no room in its memory", "failed": "failed"}
    rows: list[Row] = []
    for refiner in (False, True):
        for batch in BATCHES:
            name = f"{'with refiner' if refiner else 'stage 1'}, batch {batch}"
            target = f"{TARGETS[refiner]:g}x" if batch == 1 else ""
            device = "" if record is None else device_of(record)
            part = {} if record is None else record["parts"].get(name, {})
            found = None if record is None else result_of(record, name)
            if found is None:
                why = reasons.get(part.get("status", ""), MISSING)
                rows.append((name, device, why, "", target, "", "", ""))
                continue
            rows.append(
                (
                    name,
                    device,
                    f"{found['seconds_per_step']:.3f}",
                    f"{found['times_real_time']:.2f}x",
                    target,
                    f"{found['times_real_time_all_slots']:.2f}x",
                    f"{found['peak_gib']:.1f}",
                    f"{found['first_step_seconds']:.1f}",
                )
            )
    return rows


def steps(records: Sequence[Record]) -> str:
    rows = [row for record in _or_none(records) for row in step_rows(record)]
    head = (
        "what", "device", "s per step", "x real time", "target (H200)", "all slots", "peak GiB",
        "first step, s",
    )  # fmt: skip
    return table(head, rows, 6)


def calls(records: Sequence[Record]) -> str:
    """Return the seconds of every call of one step at batch 1."""
    rows: list[Row] = []
    for record in records:
        for name in ("stage 1, batch 1", "with refiner, batch 1"):
            found = result_of(record, name)
            for network, seconds in (found or {}).get("seconds_per_call", {}).items():
                each = ", ".join(f"{1e3 * call:.1f}" for call in seconds)
                rows.append((name, device_of(record), network, each, f"{1e3 * sum(seconds):.1f}"))
    rows = rows or [("stage 1, batch 1", "", "", MISSING, ""), ("with refiner, batch 1", "", "", MISSING, "")]
    return table(("what", "device", "network", "ms of each call, the last commits", "sum, ms"), rows, 1)


def looks(records: Sequence[Record]) -> str:
    """Return where a step goes: busy time, launches, waits of the host."""
    rows: list[Row] = []
    for record in records:
        for what in ("stage 1", "with refiner"):
            busy = result_of(record, f"busiest kernels, {what}")
            waits = result_of(record, f"waits of the host, {what}")
            if busy is None and waits is None:
                continue
            rows.append(
                (
                    what,
                    device_of(record),
                    MISSING if busy is None else f"{busy['device_ms']:.0f} of {busy['wall_ms']:.0f}",
                    MISSING if busy is None else str(busy["launches"]),
                    MISSING if waits is None else str(sum(waits["waits"].values())),
                    "" if busy is None else _busiest(busy),
                )
            )
    rows = rows or [(what, "", MISSING, "", "", "") for what in ("stage 1", "with refiner")]
    head = ("a step of", "device", "device busy, ms", "launches", "waits of the host", "busiest kernels")
    return table(head, rows, 0)


def _busiest(busy: Mapping[str, Any]) -> str:
    return "; ".join(f"{_code(row['kernel'][:48])} {row['ms']:.0f} ms" for row in busy["kernels"][:3])


def _code(text: str) -> str:
    return "`" + text.replace("|", "/").replace("`", "'") + "`"


def rest(records: Sequence[Record]) -> str:
    """Return the parts that were not measured, with the reason, per device."""
    lines = []
    for record in records:
        for name, part in record["parts"].items():
            if part["status"] in ("done", "partial"):
                continue
            lines.append(f"- {device_of(record)}: {name}: {part['status']}, {part.get('reason', '')}")
    return "\n".join(lines) if lines else "- Every part: " + MISSING + "."


def proofs(records: Sequence[Record]) -> str:
    """Return how many proofs hold, and the largest error of each precision beside its bound."""
    rows: list[Row] = []
    for record in records:
        kinds: dict[str, list[dict[str, Any]]] = {}
        for name, part in record["parts"].items():
            if name.startswith("proofs: ") and "result" in part:
                kind = ", ".join(name.removeprefix("proofs: ").split(", ")[:2])
                kinds.setdefault(kind, []).extend(part["result"]["proofs"])
        for kind, found in kinds.items():
            hold = sum(proof["holds"] for proof in found)
            worst = [_worst(found, label) for label in ("float32", "bfloat16")]
            rows.append((kind, device_of(record), f"{hold} of {len(found)}", *worst))
    rows = rows or [(f"triton, {kind}", "", MISSING, "", "") for kind in ("released", "odd", "rules")]
    head = ("what", "device", "proofs that hold", "largest error, float32", "bfloat16")
    return table(head, rows, 3)


def _worst(found: Sequence[Mapping[str, Any]], label: str) -> str:
    of = [p for p in found if f", {label}" in p["name"] and p["bound"]]
    if not of:
        return ""
    worst = max(of, key=lambda p: p["error"] if p["error"] == p["error"] else float("inf"))
    return f"{worst['error']:.1e} (bound {worst['bound']:.0e})"


def kernels(records: Sequence[Record]) -> str:
    """Return one row per problem: the fastest implementations beside the floor."""
    rows: list[Row] = []
    for record in _or_none(records):
        for name, batch, frames in KERNELS:
            found = {} if record is None else _timed(record, name, batch, frames)
            if not found:
                rows.append((name, f"B{batch} T{frames}", _device(record), MISSING, *[""] * 6))
                continue
            fast = found.get("triton", {})
            rows.append(
                (
                    name,
                    f"B{batch} T{frames}",
                    _device(record),
                    _ms(found, "chunk"),
                    _ms(found, "chunk compiled"),
                    _ms(found, "triton"),
                    f"{fast['host_ms']:.2f}" if fast.get("ms") else "",
                    f"{next(iter(found.values()))['floor_ms']:.3f}",
                    f"{fast['times_floor']:.1f}" if fast.get("ms") else "",
                    _ms(found, SDPA),
                )
            )
    head = (
        "task", "shape", "device", "chunk, ms", "chunk compiled, ms", "triton, ms", "triton on the host, ms",
        "floor, ms", "triton x floor", "SDPA, ms",
    )  # fmt: skip
    return table(head, rows, 7)


def _or_none(records: Sequence[Record]) -> Sequence[Record | None]:
    """Return the records, or one that holds nothing, so that a table shows what is to be measured."""
    return records or [None]


def _device(record: Record | None) -> str:
    return "" if record is None else device_of(record)


def _timed(record: Record, name: str, batch: int, frames: int) -> dict[str, dict[str, Any]]:
    title = f"kernels: {name}, B{batch} T{frames} bfloat16"
    parts = (result_of(record, title), result_of(record, f"{title}, compiled"))
    return {row["impl"]: row for part in parts if part is not None for row in part["rows"]}


def _ms(found: Mapping[str, Mapping[str, Any]], impl: str) -> str:
    row = found.get(impl)
    if row is None:
        return MISSING if impl.startswith("chunk c") else ""
    return "failed" if row["ms"] is None else f"{row['ms']:.3f}"


def ceilings(records: Sequence[Record]) -> str:
    rows: list[Row] = []
    for record in records:
        found = result_of(record, "ceilings")
        if found is not None:
            rows.append(
                (
                    device_of(record),
                    f"{found['bytes_per_second'] / 1e12:.2f}",
                    f"{found['operations_per_second'] / 1e12:.0f}",
                )
            )
    rows = rows or [("any", MISSING, MISSING)]
    return table(("device", "copy, TB/s read and written", "bfloat16 product, TFLOP/s"), rows, 2)


def cpu(bench: Mapping[str, Any] | None) -> str:
    """Return the table of `wm_env.kernels.bench` on a CPU."""
    if bench is None:
        return MISSING
    rows: list[Row] = []
    naive = {_problem(row): row["ms"] for row in bench["rows"] if row["impl"] == "naive"}
    for row in bench["rows"]:
        shape = f"B{row['batch']} T{row['frames']} " + {"float32": "fp32", "bfloat16": "bf16"}[row["dtype"]]
        faster = naive[_problem(row)] / row["ms"]
        rows.append(
            (
                row["name"],
                shape,
                row["impl"],
                f"{row['ms']:.2f}",
                f"{row['times_floor']:.1f}",
                f"{faster:.1f}x",
            )
        )
    peak = bench["peaks"]
    rates = " and ".join(
        f"{peak[dtype]['operations_per_second'] / 1e9:.0f} GFLOP/s {dtype}" for dtype in peak
    )
    told = (
        f"Floor: copies at {peak['float32']['bytes_per_second'] / 1e9:.0f} GB/s, products at {rates}; "
        f"{bench['device']}, torch {bench['torch']}, clock: {bench['clock']}, "
        f"load of the machine {bench['load']}.\n\n"
    )
    return told + table(("task", "shape", "implementation", "ms", "x floor", "faster than naive"), rows, 3)


def _problem(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(row[key] for key in ("name", "batch", "frames", "dtype", "backward"))


def sections(folder: Path) -> dict[str, dict[str, str]]:
    """Return the text of every marked section, by page and name, from the files of a folder."""
    records = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("gpu-*.json"))]
    made = folder / "kernels-cpu.json"
    bench = json.loads(made.read_text(encoding="utf-8")) if made.is_file() else None
    makers: dict[str, dict[str, Callable[[Sequence[Record]], str]]] = {
        "kernels": {
            "proofs": proofs,
            "ceilings": ceilings,
            "kernels": kernels,
            "cpu": lambda _: cpu(bench),
        },
        "released": {"steps": steps, "calls": calls, "looks": looks, "rest": rest},
    }
    return {
        f"{page}.md": {name: make(records) for name, make in made.items()} for page, made in makers.items()
    }


def main(words: list[str] | None = None) -> int:
    options = arguments(__doc__, FOLDER, words)
    try:
        return rewrite(options.folder, sections(options.folder), check=options.check)
    except (OSError, ValueError, KeyError, TypeError) as error:
        return refused(error)


if __name__ == "__main__":
    sys.exit(main())
