"""Numbers of `wm-env bench drift`: the shipped world, and teachers beside students."""

from __future__ import annotations

from collections.abc import Sequence

from written import Files, Report, band, lines, listed, made, span


def bins(report: Report, row: str) -> Sequence[Report]:
    """Return the time bins of a row of a drift report."""
    found: Sequence[Report] = report["bins"] if row == report["world"] else report["baselines"][row]
    return found


def by_bin(report: Report, row: str, key: str, digits: int, between: str = ", ") -> str:
    cells = [cell[key] for cell in bins(report, row)]
    return listed((cell["mean"] if key == "psnr" else cell for cell in cells), digits, between)


def gain_cells(report: Report, row: str) -> list[str]:
    """Return what the judged world gains over a row; a star where that is clear after Holm's correction."""
    found = report["gain_over"][row]
    return [f"{cell['mean']:.2f}{'*' * (cell['p_holm'] < 0.05)}" for cell in found]


def drift_table(files: Files) -> str:
    report = files.drift
    own = report["bins"]

    def cells(told: str, row: str, key: str, digits: int = 2) -> list[str]:
        return [told, *listed((cell[key] for cell in bins(report, row)), digits, "|").split("|")]

    rows = [
        ["PSNR, dB [95%]", *(band(cell["psnr"], 1) for cell in own)],
        cells("skill", "tiny", "skill"),
        cells("skill, `ablate=dit`", "ablate=dit", "skill"),
        cells("skill, `ablate=memory`", "ablate=memory", "skill"),
        cells("skill, teacher forced", "teacher forced", "skill"),
        ["gain over `ablate=gdn_state`, dB (* Holm p < 0.05)", *gain_cells(report, "ablate=gdn_state")],
        ["gain over `refiner=none`, dB", *gain_cells(report, "refiner=none")],
        cells("rotation error, deg", "tiny", "rot_err_deg", 1),
        cells("translation error, m", "tiny", "trans_err"),
        ["frames lost to the estimator", *(f"{cell['lost_share']:.0%}" for cell in own)],
    ]
    return lines(["", *(f"{seconds(cell['t0'])}-{seconds(cell['t1'])} s" for cell in own)], rows)


def seconds(t: float) -> str:
    return f"{t:.1f}".removesuffix(".0")


def memory_table(files: Files) -> str:
    found = [cell for cell in files.drift["revisit"]["tiny"] if cell["memory"] is not None]
    rows = [
        ["pairs", *(str(cell["pairs"]) for cell in found)],
        ["memory, dB", *(f"{cell['memory']:.1f}" for cell in found)],
    ]
    return lines(["seconds between the visits", *(str(cell["gap_s"]) for cell in found)], rows)


def readme_drift(files: Files) -> dict[str, str]:
    own = files.drift["bins"]
    first, middle, last = own[0], own[2], own[-1]

    def three(key: str, scale: float) -> str:
        found = [f"{scale * cell[key]:.0f}" for cell in (first, middle, last)]
        return f"{found[0]}, {found[1]} and {found[2]}"

    return {
        "drift-scenes": str(first["n"]),
        "drift-first": f"{first['psnr']['mean']:.1f}",
        "drift-middle": f"{middle['psnr']['mean']:.1f} around {(middle['t0'] + middle['t1']) / 2:.0f} s",
        "drift-last": f"{last['psnr']['mean']:.1f}",
        "drift-degrees": three("rot_err_deg", 1),
        "drift-lost": f"{three('lost_share', 100)}%",
    }


def student_gains(files: Files) -> dict[str, list[float]]:
    """Return what each refiner adds to the student by bin, dB: the one-call one and the truncated flow."""
    bare = [cell["psnr"]["mean"] for cell in bins(files.students, "refiner=none")]
    return {
        name: [
            cell["psnr"]["mean"] - none for cell, none in zip(bins(files.students, row), bare, strict=True)
        ]
        for name, row in (("one", "tiny-2step"), ("flow", "tiny-2step-flow"))
    }


def students_table(files: Files) -> str:
    report = files.students
    rows = []
    for told, calls, refiner, name in (
        ("tiny", 1, "one call", "tiny"),
        ("teacher", 4, "one call", "tiny-4euler"),
        ("student", 2, "none", "refiner=none"),
        ("student", 2, "one call", "tiny-2step"),
        ("student", 2, "`tiny-flow`", "tiny-2step-flow"),
        ("first frame repeated", 0, "", "repeat first frame"),
    ):
        own = bins(report, name)
        placed = own[0]["rot_err_deg"] is not None
        lost = sum(cell["lost_share"] for cell in own) / len(own) if placed else 0.0
        rows.append(
            [
                told,
                str(calls),
                refiner,
                by_bin(report, name, "psnr", 1, " "),
                listed((cell["rot_err_deg"] for cell in own[:2]), 1) if placed else "",
                listed((cell["trans_err"] for cell in own[:2]), 2) if placed else "",
                f"{lost:.0%}" if placed else "",
                f"{report['cost'][name]:.3f}" if calls else "",
            ]
        )
    head = ["", "calls", "refiner", "PSNR, dB", "rotation, deg", "translation, m", "lost in 16 s", "cost"]
    return lines(head, rows)


def student_numbers(files: Files) -> dict[str, str]:
    report, gains = files.students, student_gains(files)
    student, teacher = bins(report, "tiny-2step"), bins(report, "tiny-4euler")

    def more(key: str, digits: int) -> str:
        pairs = zip(student[:2], teacher[:2], strict=True)
        return listed((own[key] - other[key] for own, other in pairs), digits, " and ", "+z")

    fall = [other["psnr"]["mean"] - own["psnr"]["mean"] for own, other in zip(student, teacher, strict=True)]
    bare = report["cost"]["refiner=none"]
    return {
        "machine": made(report),
        "refined": students_table(files),
        "degrees": more("rot_err_deg", 1),
        "metres": more("trans_err", 2),
        "fall-first": f"{fall[0]:.1f}",
        "fall-last": f"{fall[-1]:.1f}",
        "gain-one": listed(gains["one"], 1, " ", "+z"),
        "gain-flow": listed(gains["flow"], 1, " ", "+z"),
        "cost-one": f"{report['cost']['tiny-2step'] - bare:.3f}",
        "cost-flow": f"{report['cost']['tiny-2step-flow'] - bare:.3f}",
    }


def training(files: Files) -> dict[str, str]:
    gains = student_gains(files)
    return {"gain-flow": span(gains["flow"], 1), "gain-one": span(gains["one"], 1)}
