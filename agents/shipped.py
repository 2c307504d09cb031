"""Where trained policies lie: those of the package by name, others by the folder or file of a run."""

from __future__ import annotations

from pathlib import Path

SHIPPED = ("objectnav", "objectnav-blind")  # in agents/weights


def policy_path(policy: str | Path) -> Path:
    """Return the file of a shipped policy's name, of a run's folder, or the file itself."""
    if str(policy) in SHIPPED:
        return Path(__file__).resolve().parent / "weights" / f"{policy}.safetensors"
    target = Path(policy)
    return target / "policy.safetensors" if target.is_dir() else target
