"""What is measured, in order of value, and the share of the budget that each part may use."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from typing import Any

import torch

from wm_env.kernels import bench, proofs, timing
from wm_env.kernels.problems import Problem, problems
from wm_env.model.released.measure.budget import Box
from wm_env.model.released.measure.runner import NoRoom, Part
from wm_env.model.released.measure.step import FULL, TOY, Networks, busiest_kernels, host_waits, time_steps

BATCHES = (1, 2, 3, 4)
TOY_BATCHES = (1, 2)
REPEATS = 15
SKIPPED = {
    "decoding (LTX-2 autoencoder)": "it is a module of diffusers, which this command does without",
    "text encoders (Gemma-2, Gemma-3)": "they are models of transformers, which this command does without",
}


@dataclass(frozen=True)
class Setting:
    """Where and at which size things are measured: "cpu" at toy sizes, or "cuda" at the released ones."""

    device: str
    toy: bool

    @property
    def low(self) -> torch.dtype:
        return torch.bfloat16

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the streaming step."""
        return torch.float32 if self.toy else torch.bfloat16

    @property
    def implementations(self) -> tuple[str, ...]:
        """The frame-GDN implementations that can run here beside the definition."""
        return ("triton", "chunk") if self.device == "cuda" and find_spec("triton") else ("chunk",)


def roomy(run: Callable[[Box], dict[str, Any]]) -> Callable[[Box], dict[str, Any]]:
    """Return `run` raising `NoRoom` where the device's memory did not suffice."""

    def tried(box: Box) -> dict[str, Any]:
        try:
            return run(box)
        except torch.OutOfMemoryError as error:
            raise NoRoom(str(error)) from None
        except RuntimeError as error:
            if "ALLOC_FAILED" in str(error):  # cuBLAS and cuDNN take memory of their own
                raise NoRoom(str(error)) from None
            raise

    return tried


class Peaks:
    """The ceilings by dtype, measured when first asked for."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self.known: dict[str, timing.Peaks] = {}

    def __call__(self, dtype: str) -> timing.Peaks:
        if dtype not in self.known:
            self.known[dtype] = timing.peaks(dtype, self.setting.device, self.setting.toy)
        return self.known[dtype]


def ceilings(peaks: Peaks) -> dict[str, Any]:
    """Return what this device reaches: bytes moved and operations done per second."""
    peak = peaks("bfloat16")
    return asdict(peak) | {
        "summary": f"{peak.bytes_per_second / 1e12:.3g} TB/s, {peak.operations_per_second / 1e12:.4g} TFLOP/s"
    }


def prove(checks: Mapping[str, proofs.Check], box: Box) -> dict[str, Any]:
    """Return all proofs of the checks that fit the box, at least of one."""
    found: list[proofs.Proof] = []
    not_run = []
    for i, (name, check) in enumerate(checks.items()):
        if i and box.left <= 0:
            not_run.append(name)
            continue
        found += check()
    failing = [proof for proof in found if not proof.holds]
    worst = max((proof.error / proof.bound for proof in found if proof.bound), default=0.0)
    return {
        "proofs": [proof._asdict() | {"holds": proof.holds} for proof in found],
        "not_run": not_run,
        "summary": f"{len(found) - len(failing)} of {len(found)} hold, worst at {worst:.2f} of its bound",
    }


def proof_parts(setting: Setting) -> dict[str, list[Part]]:
    """Return the parts that prove the kernels, by kind: "released" shapes, "odd" shapes, "rules", "other"."""
    device, low = setting.device, setting.low
    found: dict[str, list[Part]] = {"released": [], "odd": [], "rules": [], "other": []}

    def part(kind: str, name: str, checks: Mapping[str, proofs.Check], share: float = 0.1) -> None:
        run = roomy(lambda box: prove(checks, box))
        found[kind].append(Part(name=f"proofs: {name}", run=run, share=share, least=5))

    case = proofs.ODD[1] if setting.toy else proofs.RELEASED[0]
    for impl in setting.implementations:
        kinds = {
            "released": proofs.gdn_checks(impl, device=device, low=low, cases=proofs.RELEASED),
            "rules": proofs.gdn_rules(impl, device=device, low=low, case=case),
            "odd": proofs.gdn_checks(impl, device=device, low=low, cases=proofs.ODD),
        }
        if setting.toy:
            del kinds["released"]
        for kind, checks in kinds.items():
            if impl == "triton":  # each compiles its own kernels: a part of its own, so that a kill loses one
                for name, check in checks.items():
                    part(kind, f"{impl}, {kind}, {name}", {name: check})
            else:
                part(kind, f"{impl}, {kind}", checks)
    part("other", "window attention and convolutions", proofs.other_checks(device=device, low=low))
    return found


def kernel_part(setting: Setting, peaks: Peaks, p: Problem, *, compiled: bool = False) -> Part:
    """Return the part that times every implementation on one problem against its floor."""

    def run(box: Box) -> dict[str, Any]:
        named = (bench.compiled_calls if compiled else bench.calls)(p, setting.device)
        repeats = 2 if setting.toy else REPEATS
        rows = bench.rows(p, named, peaks(p.dtype), setting.device, repeats, 0.6 * box.seconds)
        told = [
            f"{row['impl']} {row['ms']:.4g} ms ({row['times_floor']:.1f}x)"
            for row in rows
            if row["ms"] is not None
        ]
        return {"rows": rows, "summary": ", ".join(told)}

    name = f"kernels: {p.title}" + (", compiled" if compiled else "")
    return Part(name=name, run=roomy(run), share=0.15 if compiled else 0.06, least=20 if compiled else 3)


def all_parts(setting: Setting) -> tuple[list[Part], Callable[[], None]]:
    """Return every part, the most valuable first, and what frees memory between two of them."""
    batches = TOY_BATCHES if setting.toy else BATCHES
    networks = Networks(TOY if setting.toy else FULL, setting.device, setting.dtype)
    peaks = Peaks(setting)
    proved = proof_parts(setting)

    def step(batch: int, refiner: bool) -> Part:
        def run(box: Box) -> dict[str, Any]:
            return time_steps(networks, batch=batch, refiner=refiner, box=box)

        name = f"{'with refiner' if refiner else 'stage 1'}, batch {batch}"
        first = batch == 1
        return Part(name=name, run=roomy(run), share=0.15 if first else 0.06, least=15 if first else 8)

    def look(name: str, function: Callable[..., dict[str, Any]], refiner: bool) -> Part:
        run = roomy(lambda box: function(networks, refiner=refiner))
        return Part(name=f"{name}, {'with refiner' if refiner else 'stage 1'}", run=run, share=0.05, least=10)

    def without_networks(part: Part) -> Part:
        def run(box: Box) -> dict[str, Any]:
            networks.drop()
            if setting.device != "cpu":
                torch.cuda.empty_cache()
            return part.run(box)

        return Part(name=part.name, run=run, share=part.share, least=part.least)

    timed = problems(setting.device, setting.toy)
    kernels = [without_networks(kernel_part(setting, peaks, p)) for p in timed]
    first = [
        p for p, problem in zip(kernels, timed, strict=True) if problem.batch == 1 and problem.frames <= 21
    ]
    compiled = [
        without_networks(kernel_part(setting, peaks, p, compiled=True))
        for p in timed
        if setting.device == "cuda" and p.backward and p.batch == 1 and p.frames <= 21
    ]
    waits = [look("waits of the host", host_waits, refiner) for refiner in (False, True)]
    busiest = [look("busiest kernels", busiest_kernels, refiner) for refiner in (False, True)]
    sure, rest = proved["released"][:4], proved["released"][4:]
    return (
        [
            Part(name="ceilings", run=lambda box: ceilings(peaks), share=0.1),
            *sure[:1],  # the kernel as a step runs it
            step(1, False),
            step(1, True),
            *first[:3],
            *sure[1:],
            *([] if setting.device == "cpu" else waits),
            *busiest,
            *(step(batch, False) for batch in batches[1:]),
            *(step(batch, True) for batch in batches[1:]),
            *proved["rules"],
            *first[3:],
            *proved["other"],
            *proved["odd"],
            *rest,
            *(part for part in kernels if part not in first),
            *compiled,
            *(Part(name=name, run=lambda box: {}, skip=why) for name, why in SKIPPED.items()),
        ],
        _free(setting),
    )


def _free(setting: Setting) -> Callable[[], None]:
    return torch.cuda.empty_cache if setting.device == "cuda" else lambda: None
