"""`wm-env export`: recorded episodes as a dataset of another format, or as a film."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tyro

from wm_env.export.collect import episodes_in
from wm_env.export.episode import load_recording
from wm_env.model.storage.atomic import check_folder, remove_leftovers
from wm_env.progress import over
from wm_env.recording import Layout, check_film, compose, write_frames

Watch = Callable[[Iterable[Path]], Iterable[Path]]
Exporter = Callable[[Sequence[Path], Path, Watch], object]


@dataclass(frozen=True, kw_only=True)
class Export:
    """Turn episodes of `wm-env record --format folder|minari|lerobot` into a dataset or a film.

    Whatever is finished in --from is taken: an interrupted recording is exported as far as it came. What an
    interrupted export left is cleared away.
    """

    source: Annotated[Path, tyro.conf.arg(name="from")]
    """Folder of the episodes; that of a Minari or LeRobot recording is OUT-episodes, and OUT finds it too."""
    format: Literal["lerobot", "minari", "mp4"]
    """LeRobot v3.0 or Minari dataset, or one film of all episodes, one after another."""
    out: Path
    """New folder of the dataset, or the .mp4 or .gif file."""
    only: tuple[int, ...] = ()
    """Numbers of the episodes to take, as in episode_000003; all by default."""
    seed: int = 0
    """Accepted for uniformity; nothing is random here."""
    json: Path | None = None
    """File for the result as JSON."""
    overwrite: bool = False
    """Replace files that exist already."""

    def run(self) -> dict[str, Any]:
        episodes = episodes_in(self.source)
        if self.only:
            chosen = {f"episode_{index:06d}" for index in self.only}
            missing = sorted(chosen - {path.name for path in episodes})
            if missing:
                raise ValueError(f"--only: {str(self.source)!r} has no {', '.join(missing)}")
            episodes = [path for path in episodes if path.name in chosen]
        exporter = exporter_of(self.format)
        if exporter is None:
            check_film(self.out, overwrite=self.overwrite)
        else:
            check_folder(self.out)
            if self.out.exists() and any(self.out.iterdir()):
                raise FileExistsError(f"--out {str(self.out)!r} must be a new or empty folder")
        export(exporter or self._film, episodes, self.out)
        number = f"{len(episodes)} episode{'s' if len(episodes) > 1 else ''}"
        print(f"{self.out}: {number} as {'a film' if exporter is None else self.format}")
        return {"out": str(self.out), "format": self.format, "episodes": [str(path) for path in episodes]}

    def _film(self, episodes: Sequence[Path], out: Path, watch: Watch) -> None:
        """Write all pixel frames of the episodes as one film; each is named in its caption."""
        fps = int(load_recording(episodes[0]).facts["fps"])
        write_frames(out, _pictures(episodes, watch), fps, overwrite=self.overwrite)


def exporter_of(format: str) -> Exporter | None:
    """Return what turns episode folders into a dataset of `format`, None where they are that already."""
    if format == "minari":
        from wm_env.export.minari import export_minari

        return lambda episodes, out, watch: export_minari(episodes, out, watch=watch)
    if format == "lerobot":
        from wm_env.export.lerobot import export_lerobot

        return lambda episodes, out, watch: export_lerobot(episodes, out, watch=watch)
    return None


def export(exporter: Exporter, episodes: Sequence[Path], out: Path) -> None:
    """Clear away what a killed export of `out` left, and export with a progress bar."""
    remove_leftovers(out.absolute().parent, f"{re.escape(out.name)}|{re.escape(out.stem)}")

    def watch(paths: Iterable[Path]) -> Iterable[Path]:
        return over(paths, len(episodes), "exporting", unit="episode")

    exporter(episodes, out, watch)


def _pictures(episodes: Sequence[Path], watch: Watch) -> Iterator[np.ndarray]:
    size: tuple[int, ...] | None = None
    for path in watch(episodes):
        recording = load_recording(path)
        if size is not None and recording.frames.shape[1:] != size:
            raise ValueError(f"{str(path)!r} is of another frame size than {str(episodes[0])!r}")
        size = recording.frames.shape[1:]
        layout = Layout(labels=(f"{path.name.replace('_', ' ')}, {recording.facts['world']}",))
        for frame in recording.frames:
            yield compose([frame], layout, "", (), None)
