"""Downloading resumes, keeps to one revision, checks the disk first, and fails in one line."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple

import pytest

from wm_env.model.released import download as module
from wm_env.model.released.download import MANIFEST, Package, check_download, download

REPOSITORY = "someone/WORLD"
HALF = 12 * 2**20  # bytes; the client writes 10 MiB at a time
COMMIT = "0123456789abcdef0123456789abcdef01234567"
FILES = {
    "dit/weights.safetensors": bytes(range(256)) * 40,
    "config.yaml": b"text_encoder:\n  chi_prompt: [a]\n",
}


class Hub(NamedTuple):
    """A server with the part of the hub's protocol that a download needs; requests seen so far.

    While `goes_on` is not set it sends no more than `HALF` bytes of a file.
    """

    url: str
    seen: list[str]
    goes_on: threading.Event


@pytest.fixture
def hub() -> Iterator[Hub]:
    seen: list[str] = []
    goes_on = threading.Event()
    goes_on.set()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self.answer(body=False)

        def do_GET(self) -> None:
            self.answer(body=True)

        def answer(self, *, body: bool) -> None:
            path = self.path.split("?")[0]
            seen.append(f"{self.command} {path}")
            if path.startswith(f"/api/models/{REPOSITORY}/tree/"):
                tree = [
                    {
                        "type": "file",
                        "path": name,
                        "size": len(data),
                        "oid": "b",
                        "lfs": {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 1},
                    }
                    for name, data in FILES.items()
                ]
                self.reply(200, json.dumps(tree).encode(), body, {"Content-Type": "application/json"})
                return
            if path.startswith(f"/api/models/{REPOSITORY}"):
                siblings = [
                    {
                        "rfilename": name,
                        "size": len(data),
                        "blobId": "b",
                        "lfs": {
                            "sha256": hashlib.sha256(data).hexdigest(),
                            "size": len(data),
                            "pointerSize": 1,
                        },
                    }
                    for name, data in FILES.items()
                ]
                facts = {"id": REPOSITORY, "modelId": REPOSITORY, "sha": COMMIT, "siblings": siblings}
                self.reply(200, json.dumps(facts).encode(), body, {"Content-Type": "application/json"})
                return
            name = path.removeprefix(f"/{REPOSITORY}/resolve/{COMMIT}/")
            if name not in FILES:
                self.reply(404, b"", body, {"X-Error-Code": "EntryNotFound"})
                return
            data = FILES[name]
            headers = {"ETag": f'"{hashlib.sha256(data).hexdigest()}"', "X-Repo-Commit": COMMIT}
            wanted = self.headers.get("Range")
            if body and wanted:
                start = int(wanted.removeprefix("bytes=").split("-")[0])
                headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
                self.reply(206, data[start:], body, headers)
                return
            self.reply(200, data, body, headers)

        def reply(self, status: int, data: bytes, body: bool, headers: dict[str, str]) -> None:
            self.send_response(status)
            for key, value in {**headers, "Content-Length": str(len(data))}.items():
                self.send_header(key, value)
            self.end_headers()
            if body:
                with contextlib.suppress(ConnectionError):  # of a client that was stopped
                    self.wfile.write(data[:HALF])
                    goes_on.wait()
                    self.wfile.write(data[HALF:])

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield Hub(f"http://127.0.0.1:{server.server_port}", seen, goes_on)
    goes_on.set()
    server.shutdown()
    server.server_close()


def whole(folder: Path) -> bool:
    return all((folder / name).read_bytes() == data for name, data in FILES.items())


def test_a_server_is_read_at_one_commit_and_never_twice(hub: Hub, tmp_path: Path) -> None:
    package = Package(repository=REPOSITORY, folder="part")
    manifest = download(package, tmp_path, source=hub.url)
    assert whole(tmp_path / "part") and check_download(tmp_path) == []
    assert manifest["revision"] == COMMIT
    assert json.loads((tmp_path / "part" / MANIFEST).read_text()) == manifest
    assert not any("/resolve/main/" in line for line in hub.seen)
    gets = sum(line.startswith("GET") and "/resolve/" in line for line in hub.seen)
    download(package, tmp_path, source=hub.url)
    assert gets == sum(line.startswith("GET") and "/resolve/" in line for line in hub.seen)
    assert any(f"revision/{COMMIT}" in line for line in hub.seen), "the recorded commit is asked for again"
    with pytest.raises(ValueError, match="another folder"):
        download(Package(repository="someone/ELSE", folder="part"), tmp_path, source=hub.url)


@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGKILL])
def test_a_stopped_download_ends_and_fetches_what_is_missing(
    hub: Hub, sent: signal.Signals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(FILES, "dit/weights.safetensors", bytes(range(256)) * (2 * HALF // 256))
    words = ["download", "sana-wm-streaming", "--repository", REPOSITORY, "--source", hub.url, "--to", "out"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[3])}

    def start() -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "wm_env.cli", *words],
            cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def partial() -> bool:
        return any(file.stat().st_size for file in (tmp_path / "out").rglob("*.incomplete"))

    hub.goes_on.clear()
    process = start()
    deadline = time.monotonic() + 120
    while not partial() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert partial() and process.poll() is None
    process.send_signal(sent)
    _, said = process.communicate(timeout=30)  # the process that fetches holds the same pipe
    if sent == signal.SIGINT:
        assert process.returncode == 128 + sent
        assert (
            not partial()
            and "the same command fetches what is missing" in said.splitlines()[-1]
            and "Traceback" not in said
        )
    hub.goes_on.set()
    process = start()
    _, said = process.communicate()
    assert process.returncode == 0, said
    assert whole(tmp_path / "out") and check_download(tmp_path / "out") == [] and not partial()
    fetched = [
        line.split("/")[-1].strip() for line in hub.seen if line.startswith("GET") and "/resolve/" in line
    ]
    assert sorted(fetched) == ["config.yaml", "weights.safetensors", "weights.safetensors"]


def test_no_connection_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="cannot reach") as error:
        download(Package(repository=REPOSITORY), tmp_path, source="http://127.0.0.1:9")
    assert "\n" not in str(error.value) and "--source" in str(error.value)


def test_a_mirror_folder_is_copied_resumed_and_checked(tmp_path: Path) -> None:
    mirror, to = tmp_path / "mirror", tmp_path / "to"
    for name, data in FILES.items():
        path = mirror / REPOSITORY / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    package = Package(repository=REPOSITORY)
    download(package, to, source=str(mirror))
    assert whole(to)
    weights = to / "dit" / "weights.safetensors"
    weights.write_bytes(FILES["dit/weights.safetensors"][:100])
    assert check_download(to) == [f"{weights}: 100 bytes instead of 10240"]
    weights.rename(weights.with_name(f"{weights.name}.part"))  # a copy that was stopped goes on
    kept = (to / "config.yaml").stat().st_ino
    download(package, to, source=str(mirror))
    assert whole(to) and (to / "config.yaml").stat().st_ino == kept
    weights.write_bytes(b"\xff" + FILES["dit/weights.safetensors"][1:])
    assert check_download(to) == [f"{weights}: another SHA-256 than at the source"]
    with pytest.raises(FileNotFoundError, match="the mirror has no folder"):
        download(Package(repository="someone/ELSE"), tmp_path / "x", source=str(mirror))
    weights.rename(weights.with_name(f"{weights.name}.part"))  # of other content: copied anew
    download(package, to, source=str(mirror))
    assert whole(to) and check_download(to) == [] and not list(to.rglob("*.part"))
    only = Package(repository=REPOSITORY, patterns=("*.yaml",))
    assert set(download(only, tmp_path / "some", source=str(mirror))["files"]) == {"config.yaml"}


def test_a_full_disk_is_told_before_anything_is_fetched(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=5000)
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(OSError, match="choose another --to"):
        download(Package(repository=REPOSITORY), tmp_path, source=hub.url)
    assert not any("/resolve/" in line for line in hub.seen)


def test_a_folder_that_was_copied_can_go_on_from_the_hub(tmp_path: Path, hub: Hub) -> None:
    mirror = tmp_path / "mirror" / REPOSITORY
    (mirror / "dit").mkdir(parents=True)
    for name, data in FILES.items():
        (mirror / name).write_bytes(data)
    package = Package(repository=REPOSITORY)
    download(package, tmp_path / "to", source=str(tmp_path / "mirror"))
    assert download(package, tmp_path / "to", source=hub.url)["revision"] == COMMIT
    assert check_download(tmp_path / "to") == []


def test_a_source_without_the_files_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "mirror" / REPOSITORY).mkdir(parents=True)
    with pytest.raises(OSError, match="none of the files"):
        download(Package(repository=REPOSITORY), tmp_path / "to", source=str(tmp_path / "mirror"))
    assert not (tmp_path / "to").exists()


@pytest.mark.parametrize("content", ["{", "[]", "{}"])
def test_a_corrupted_manifest_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / MANIFEST).write_text(content)
    for use in (check_download, lambda folder: download(Package(repository=REPOSITORY), folder)):
        with pytest.raises(ValueError, match="delete it"):
            use(tmp_path)


def test_every_name_that_is_expected_is_in_one_table_and_told_when_it_has_moved(
    hub: Hub, tmp_path: Path
) -> None:
    for packages in module.PACKAGES.values():
        assert all(package.expected and package.repository.count("/") == 1 for package in packages)
    package = Package(repository=REPOSITORY, expected=("config.yaml", "sana_dit/model.pt"))
    with pytest.raises(OSError, match=r"holds no sana_dit/model.pt: if it has moved.*--repository"):
        download(package, tmp_path / "a", source=hub.url)
    assert not any("/resolve/" in line for line in hub.seen)
    (tmp_path / "mirror" / REPOSITORY).mkdir(parents=True)
    (tmp_path / "mirror" / REPOSITORY / "config.yaml").write_text("a")
    with pytest.raises(OSError, match=r"holds no sana_dit/model.pt"):
        download(package, tmp_path / "b", source=str(tmp_path / "mirror"))
    assert not (tmp_path / "b").exists()


def test_a_pinned_commit_is_the_one_that_is_fetched(hub: Hub, tmp_path: Path) -> None:
    download(Package(repository=REPOSITORY, revision=COMMIT), tmp_path, source=hub.url)
    assert any(f"revision/{COMMIT}" in line for line in hub.seen)


def test_a_copy_reads_its_source_once_and_hashes_what_it_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mirror = tmp_path / "mirror" / REPOSITORY
    mirror.mkdir(parents=True)
    (mirror / "weights.safetensors").write_bytes(FILES["dit/weights.safetensors"])

    def never(path: Path) -> str:
        raise AssertionError(f"{path} was read a second time")

    monkeypatch.setattr(module, "sha256_of", never)
    found = download(Package(repository=REPOSITORY), tmp_path / "to", source=str(tmp_path / "mirror"))
    expected = hashlib.sha256(FILES["dit/weights.safetensors"]).hexdigest()
    assert found["files"]["weights.safetensors"]["sha256"] == expected
