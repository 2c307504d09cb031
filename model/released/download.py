"""Fetching released weights: one exact revision, resumable file by file, with the disk checked first.

The hub's branch is resolved to a commit before anything is fetched; that commit, and the size and digest of
every file, go into a manifest beside the weights. A later run continues with the same commit. The source may
also be a folder (a mirror on disk) or another endpoint that speaks the hub's protocol.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import shutil
from collections.abc import Iterator, Mapping
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from wm_env.model.gemma import INSTALL
from wm_env.model.storage.atomic import write_atomic
from wm_env.model.storage.checkpoint import sha256_of
from wm_env.model.workers import Workers

MANIFEST = "wm-env-download.json"
_PIECE = 2**20  # bytes copied at a time
RESERVE = 2**30  # bytes that stay free
MOVED = (
    "if it has moved, name it with --repository ORGANISATION/NAME (and --revision), or a copy with --source"
)
HUB = "https://huggingface.co"
FOLDER_REVISION = "folder"  # what a manifest says of a copy from a mirror on disk, which has no commits


@dataclass(frozen=True, kw_only=True)
class Package:
    """One repository and the subfolder of the target it goes to.

    patterns: files to fetch, all by default. expected: file names, or patterns of them, of which each must be
    there. revision: the commit that is known to fit, None while none is known.
    """

    repository: str
    folder: str = ""
    patterns: tuple[str, ...] = ("*",)
    expected: tuple[str, ...] = ()
    revision: str | None = None


# The one table of where released weights lie, as published descriptions name it. No repository has been seen
# from here, so no commit is pinned yet. A name that is not there is told before anything is fetched.
_TEXT = Package(
    repository="google/gemma-2-2b-it",
    folder="text_encoder",
    expected=("config.json", "*.safetensors", "tokenizer_config.json"),
)
_REFINER = Package(
    repository="Lightricks/LTX-2",
    folder="refiner",
    patterns=("transformer/*", "connectors/*", "text_encoder/*", "tokenizer/*", "*distilled-lora*"),
    expected=("transformer/config.json", "connectors/config.json", "text_encoder/*", "*distilled-lora*"),
)


def _stage1(repository: str, weights: str) -> Package:
    return Package(repository=f"Efficient-Large-Model/{repository}", expected=(weights, "*.yaml"))


_STREAMING = _stage1("SANA-WM_streaming", "sana_dit/model.pt")
_CHUNK_CAUSAL = _stage1("SANA-WM_chunk_causal", "dit/sana_wm_chunk_causal_1600m_720p.safetensors")
_BIDIRECTIONAL = _stage1("SANA-WM_bidirectional", "dit/sana_wm_1600m_720p.safetensors")
PACKAGES: dict[str, tuple[Package, ...]] = {
    "sana-wm-streaming": (_STREAMING, _TEXT),
    "sana-wm-chunk-causal": (_CHUNK_CAUSAL, _TEXT),
    "sana-wm-bidirectional": (_BIDIRECTIONAL, _TEXT),
    "ltx2-refiner": (_REFINER,),
}


def download(package: Package, to: Path, *, source: str = HUB, revision: str | None = None) -> dict[str, Any]:
    """Fetch one package into `to / package.folder` and return its manifest.

    A process of its own fetches from an endpoint, so scripts call this under `if __name__ == "__main__"`.
    source: endpoint URL, or a folder that holds `ORGANISATION/NAME/...`. revision: a commit, branch or tag;
    None is the manifest's commit where there is one, else the package's, else the main branch. Raises
    `OSError` in one line where the source cannot be reached, a name is not there, the disk is too small, or a
    file arrives wrong.
    """
    target = to / package.folder
    known = _manifest(target)
    if known is not None and known["repository"] != package.repository:
        raise ValueError(
            f"{target} holds {known['repository']}, not {package.repository}; use another folder"
        )
    if revision is None and known is not None and known["revision"] != FOLDER_REVISION:
        revision = known["revision"]
    revision = revision or package.revision
    if source.startswith(("http://", "https://")):
        manifest = _from_hub(package, target, source, revision)
    else:
        manifest = _from_folder(package, target, Path(source))
    write_atomic(target / MANIFEST, (json.dumps(manifest, indent=2) + "\n").encode())
    return manifest


def check_download(folder: Path) -> list[str]:
    """Return the files below a folder that differ from its manifests in size or SHA-256; reads them all."""
    wrong = []
    for file in sorted(folder.rglob(MANIFEST)):
        manifest = _manifest(file.parent)
        assert manifest is not None
        for name, facts in manifest["files"].items():
            path = file.parent / name
            if not path.is_file():
                wrong.append(f"{path}: missing")
            elif facts["size"] is not None and path.stat().st_size != facts["size"]:
                wrong.append(f"{path}: {path.stat().st_size} bytes instead of {facts['size']}")
            elif facts["sha256"] is not None and sha256_of(path) != facts["sha256"]:
                wrong.append(f"{path}: another SHA-256 than at the source")
    return wrong


def _from_hub(package: Package, target: Path, endpoint: str, revision: str | None) -> dict[str, Any]:
    try:
        from huggingface_hub import HfApi
        from huggingface_hub.utils import filter_repo_objects
    except ImportError as error:
        raise ImportError(f"downloading needs huggingface_hub; {INSTALL}") from error
    patterns = list(package.patterns)
    what = f"{package.repository} at {endpoint}"
    with _one_line(what):
        api = HfApi(endpoint=endpoint)
        info = api.model_info(package.repository, revision=revision, files_metadata=True)
    siblings = filter_repo_objects(
        info.siblings or [], allow_patterns=patterns, key=lambda file: file.rfilename
    )
    files = {
        file.rfilename: {"size": file.size, "sha256": file.lfs.sha256 if file.lfs else None}
        for file in siblings
    }
    _check_names(package, files, what)
    _check_disk(target, files, what)
    _drop_partial(target)  # of a process that was killed
    try:
        with Workers(1) as apart:  # the client's threads would finish their files before a signal ends them
            apart.submit(_fetch, package, target, endpoint, info.sha).result()
    except BrokenProcessPool as error:
        raise OSError(
            f"downloading {what} was ended from outside; the same command fetches what is missing"
        ) from error
    finally:
        _drop_partial(target)
    _check_sizes(target, files)
    return {"repository": package.repository, "revision": info.sha, "source": endpoint, "files": files}


def _fetch(package: Package, target: Path, endpoint: str, commit: str | None) -> None:
    """Fetch the files of a commit; those that are there are kept."""
    from huggingface_hub import snapshot_download

    with _one_line(f"{package.repository} at {endpoint}"):
        snapshot_download(
            package.repository,
            revision=commit,
            local_dir=target,
            endpoint=endpoint,
            allow_patterns=list(package.patterns),
        )


def _drop_partial(target: Path) -> None:
    """Remove files that are not whole: the client begins them anew, under other names, and lets these lie."""
    for path in (target / ".cache" / "huggingface").rglob("*.incomplete"):
        path.unlink()


@contextmanager
def _one_line(what: str) -> Iterator[None]:
    """Turn whatever the hub's client raises for a failed request into one `OSError` with the way out."""
    from huggingface_hub import get_session
    from huggingface_hub.errors import (
        HfHubHTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    # the client's transport (requests, httpx, httpx2) has changed between versions and has its own errors
    transport = importlib.import_module(type(get_session()).__module__.partition(".")[0])
    try:
        yield
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        raise OSError(f"there is no {what}, or it needs a login ({type(error).__name__}): {MOVED}") from error
    except HfHubHTTPError as error:
        raise OSError(f"cannot download {what}: {' '.join(str(error).split()):.200}") from error
    except (transport.HTTPError, LocalEntryNotFoundError, OSError) as error:
        raise OSError(
            f"cannot reach {what} ({type(error).__name__}); check the connection, or fetch the repository "
            "elsewhere and name its folder with --source"
        ) from error


def _from_folder(package: Package, target: Path, source: Path) -> dict[str, Any]:
    """Copy a repository from a mirror on disk; files already there with the same digest are kept."""
    mirror = source / package.repository
    if not mirror.is_dir():
        raise FileNotFoundError(f"the mirror has no folder {mirror}")
    wanted = sorted(path for path in _matching(mirror, package.patterns) if path.is_file())
    names = {path: path.relative_to(mirror).as_posix() for path in wanted}
    files: dict[str, dict[str, Any]] = {
        name: {"size": path.stat().st_size, "sha256": None} for path, name in names.items()
    }
    _check_names(package, files, str(mirror))
    _check_disk(target, files, str(mirror))
    for path, name in names.items():
        there = target / name
        if there.is_file() and there.stat().st_size == path.stat().st_size:
            digest = sha256_of(path)
            if sha256_of(there) == digest:
                files[name]["sha256"] = digest
                continue
        there.parent.mkdir(parents=True, exist_ok=True)
        partial = there.with_name(f"{there.name}.part")
        files[name]["sha256"] = _continue_copy(path, partial)
        partial.replace(there)
    _check_sizes(target, files)
    return {
        "repository": package.repository,
        "revision": FOLDER_REVISION,
        "source": str(source),
        "files": files,
    }


def _check_names(package: Package, files: Mapping[str, Any], source: str) -> None:
    """Raise `OSError` where a file that a package needs is not at the source; fetches nothing."""
    lost = [name for name in package.expected if not any(fnmatch(file, name) for file in files)]
    if files and lost:
        raise OSError(f"{source} holds no {', '.join(lost)}: {MOVED}")


def _continue_copy(path: Path, partial: Path) -> str:
    """Append to `partial` what of `path` it lacks, anew where it is of another file; return its SHA-256.

    The digest is of what was read for the copy: the source is read once.
    """
    digest = hashlib.sha256()
    with path.open("rb") as source, partial.open("a+b") as target:
        target.seek(0)
        while piece := target.read(_PIECE):
            same = source.read(len(piece))
            if same != piece:  # of another file than the one copied now
                target.truncate(0)
                source.seek(0)
                digest = hashlib.sha256()
                break
            digest.update(same)
        while piece := source.read(_PIECE):
            digest.update(piece)
            target.write(piece)  # appends, wherever it was read
    return digest.hexdigest()


def _matching(folder: Path, patterns: tuple[str, ...]) -> Iterator[Path]:
    """Yield files whose path below the folder matches a pattern; `*` also matches slashes, as at the hub."""
    for path in folder.rglob("*"):
        name = path.relative_to(folder).as_posix()
        if path.name != MANIFEST and any(fnmatch(name, pattern) for pattern in patterns):
            yield path


def _manifest(target: Path) -> dict[str, Any] | None:
    path = target / MANIFEST
    if not path.is_file():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is corrupted ({error}); delete it") from error
    if not isinstance(found, dict) or not {"repository", "revision", "files"} <= set(found):
        raise ValueError(f"{path} is no manifest of a download; delete it")
    return found


def _check_disk(target: Path, files: dict[str, dict[str, Any]], source: str) -> None:
    """Raise `OSError` unless there are files and what is still missing fits on the disk; fetches nothing."""
    if not files:
        raise OSError(f"{source} holds none of the files asked for")
    missing = 0
    for name, facts in files.items():
        path = target / name
        if not path.is_file() or path.stat().st_size != facts["size"]:
            missing += facts["size"] or 0
    target.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(target).free
    if missing + RESERVE > free:
        raise OSError(
            f"{missing / 1e9:.1f} GB are to be fetched and {free / 1e9:.1f} GB are free on the disk of "
            f"{target}; choose another --to"
        )


def _check_sizes(target: Path, files: dict[str, dict[str, Any]]) -> None:
    wrong = [
        name
        for name, facts in files.items()
        if not (target / name).is_file()
        or (facts["size"] is not None and (target / name).stat().st_size != facts["size"])
    ]
    if wrong:
        raise OSError(f"{target}: {wrong} did not arrive whole; run the command again to resume")
