"""The results on disk: one JSON file, whole after every part, from which a later run goes on.

    {"about": {...}, "parts": {name: {"status": ..., "seconds": ..., "code": ..., "result" or "reason": ...}}}

status: "done"; "partial", some of it did not fit its time; "failed" with its error; "no room", too little
memory on the device; "skipped", needs what is not here; "left out", no time was left; "running", being
measured now; "cut off", was running when its process was killed. code: digest of the source measured.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wm_env.model.storage.atomic import write_atomic

FORMAT = 1
FINAL = ("done", "no room", "skipped")  # not tried again by the same code
MEASURED_FOLDERS = (
    "kernels",
    "kernels/frame_gdn",
    "kernels/proofs",
    "model",
    "model/attention",
    "model/refiner",
    "model/released",
    "model/released/measure",
    "model/storage",
    "model/vae",
)


def code_digest(root: Path) -> str:
    """Return one digest of the source files that a measurement depends on."""
    digest = hashlib.sha256()
    for folder in MEASURED_FOLDERS:
        for path in sorted((root / folder).glob("*.py")):
            if path.name != "pages.py":  # how the pages are written changes no number
                digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


def one_line(error: BaseException) -> str:
    """Return the kind and the first line of an error."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__


class Record:
    """The file of one device. Every change is on disk, whole, before the method returns."""

    def __init__(self, path: Path, about: Mapping[str, Any] | None = None) -> None:
        """Open or begin the file; raise `ValueError` where it holds something else or another setting.

        about: facts that all parts share, such as the device; None to take those of the file.
        """
        self.path = path
        self.about: dict[str, Any] = dict(about or {})
        self.parts: dict[str, dict[str, Any]] = {}
        if path.exists():
            self._read(about)
        self._write()

    def _read(self, about: Mapping[str, Any] | None) -> None:
        try:
            held = json.loads(self.path.read_text(encoding="utf-8"))
            known = held["about"]["format"] == FORMAT and isinstance(held["parts"], dict)
        except (ValueError, KeyError, TypeError, UnicodeDecodeError):
            known = False
        if not known:
            raise ValueError(f"{self.path} is not a record of this command; name another file with --out")
        self.parts = held["parts"]
        if about is None:
            self.about = held["about"]
            return
        other = {
            key: (held["about"].get(key), value)
            for key, value in {"format": FORMAT, **about}.items()
            if held["about"].get(key) != value
        }
        if other:
            told = "; ".join(f"{key}: {was!r} there, {now!r} here" for key, (was, now) in other.items())
            raise ValueError(f"{self.path} was measured elsewhere ({told}); name another file with --out")

    def _write(self) -> None:
        held = {"about": {"format": FORMAT, **self.about}, "parts": self.parts}
        write_atomic(self.path, (json.dumps(held, indent=1) + "\n").encode())

    def put(self, name: str, **facts: Any) -> None:
        """Note a part's facts in place of those before."""
        self.parts[name] = facts
        self._write()

    def settle(self) -> None:
        """Note that what an earlier process left running was cut off."""
        name = self.running
        if name is not None:
            part = self.parts[name]
            self.put(name, status="cut off", code=part["code"], reason="the process was killed")

    @property
    def running(self) -> str | None:
        """The part that is measured now, or was when the process ended."""
        return next((name for name, part in self.parts.items() if part["status"] == "running"), None)
