"""Numbers of the cards of the shipped weights: what their trainings reached, and how long they took."""

from __future__ import annotations

from typing import Any

from written import Files, lines


def part(files: Files, world: str, name: str) -> Any:
    return files(f"model/weights/{world}.json")["parts"][name]


def autoencoder(files: Files) -> str:
    """Return the table of the autoencoder's two trainings."""
    depth = part(files, "tiny", "vae")
    codec = depth["codec"]

    def row(told: str, key: str, scale: float, digits: int, unit: str) -> list[str]:
        return [told, *(f"{scale * one['metrics'][key]:.{digits}f}{unit}" for one in (codec, depth))]

    rows = [
        row("PSNR, frames 1-68", "psnr", 1, 1, " dB"),
        row("PSNR, start image (depth predicted)", "psnr_start", 1, 1, " dB"),
        row("median relative depth error after decoding", "depth_codec", 100, 1, "%"),
        row("median relative error of predicted start depth", "depth_image", 100, 1, "%"),
        ["wall time, one busy core", *(f"{one['wall_seconds'] / 60:.0f} min" for one in (codec, depth))],
    ]
    head = [
        "on 64 val clips",
        f"{codec['steps']} steps of `train vae`",
        f"then {depth['steps']} steps of `train depth`",
    ]
    return lines(head, rows)


def stages(files: Files) -> str:
    """Return the table of the stages that `tiny`'s transformer went through."""
    held = files("model/weights/tiny.json")["stages"]
    rows = [[f"`{one['name']}`", str(one["steps"]), f"{one['seconds'] / 3600:.2f}"] for one in held]
    hours = sum(one["seconds"] for one in held) / 3600
    return lines(["stage", "steps", "core-hours"], [*rows, ["together", "", f"{hours:.1f}"]])


def weights(files: Files) -> dict[str, str]:
    """Return the numbers of docs/training.md that cards hold, and those of the full turns."""
    vivid = part(files, "tiny-pure", "dit")
    refiner = part(files, "tiny", "refiner")
    codec = part(files, "tiny", "vae")
    turned = files.turns["turns"]
    return {
        "turn": f"{turned['1']['itself']['mean']:.1f}",
        "turn-truth": f"{turned['1']['truth']['mean']:.1f}",
        "two-turns": f"{turned['2']['itself']['mean']:.1f}",
        "autoencoder": autoencoder(files),
        "depth-off": f"{100 * codec['metrics']['depth_image']:.1f}%",
        "million": f"{codec['values'] / 1e6:.2f}",
        "vivid-steps": str(vivid["steps"]),
        "vivid-minutes": f"{vivid['wall_seconds'] / 60:.0f}",
        "stages": stages(files),
        "refiner-steps": str(refiner["steps"]),
        "refiner-minutes": f"{refiner['wall_seconds'] / 60:.0f}",
    }
