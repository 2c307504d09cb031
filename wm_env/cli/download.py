"""`wm-env download`: fetch released weights, one exact revision, resumable."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from wm_env.model.released.download import HUB, PACKAGES, Package, download
from wm_env.model.released.presets import default_folder

Name = Literal["sana-wm-streaming", "sana-wm-chunk-causal", "sana-wm-bidirectional", "ltx2-refiner"]


@dataclass(frozen=True, kw_only=True)
class Download:
    """Fetch the weights of a released world (with its text encoder), or the LTX-2 refiner, into a folder.

    Run it again to resume. The commit that was fetched is written down beside the files and used again.
    """

    name: Annotated[Name, tyro.conf.Positional]
    """What to fetch."""
    to: Path | None = None
    """Target folder; where the preset looks by default. The refiner goes into its world's folder."""
    source: str = HUB
    """Endpoint that speaks the hub's protocol, or a folder holding ORGANISATION/NAME/..."""
    repository: str | None = None
    """ORGANISATION/NAME instead of the known one; its text encoder is then left out."""
    revision: str | None = None
    """Commit, branch or tag; the commit fetched before, else main."""
    seed: int = 0
    """Accepted for uniformity; nothing is random here."""
    json: Path | None = None
    """File for the result as JSON."""
    overwrite: bool = False
    """Replace files that exist already."""

    def run(self) -> dict[str, Any]:
        if self.to is None and self.name == "ltx2-refiner":
            raise ValueError("--to is needed with ltx2-refiner: the folder of the world it refines")
        to = default_folder(self.name) if self.to is None else self.to
        packages = PACKAGES[self.name]
        if self.repository is not None:
            packages = (Package(repository=self.repository, folder=packages[0].folder),)
        elif self.revision is not None and len(packages) > 1:
            raise ValueError("--revision names a commit of one repository; give --repository with it")
        done = []
        for package in packages:
            manifest = download(package, to, source=self.source, revision=self.revision)
            done.append({"folder": str(to / package.folder), **manifest})
            size = sum(facts["size"] or 0 for facts in manifest["files"].values())
            print(
                f"{package.repository} at {manifest['revision']}: {len(manifest['files'])} files, "
                f"{size / 1e9:.2f} GB in {to / package.folder}"
            )
        return {"name": self.name, "to": str(to), "packages": done}
