"""Downloads from a hub on this machine: complete, continued, damaged, unreachable."""

import hashlib
import http.server
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest

pytest.importorskip("huggingface_hub")

CONTENT = bytes(range(256)) * 131072  # 32 MiB: the client keeps what it has in pieces of ten
PATH = "/xbillowy/Scal3R/resolve/main/scal3r.pt"


class Hub(http.server.BaseHTTPRequestHandler):
    """The little of the model hub that a download meets."""

    checksum = hashlib.sha256(CONTENT).hexdigest()
    ranges: ClassVar[list[str]] = []
    breaks = 0  # answers that end in the middle

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def _answer(self, with_body: bool) -> None:
        if self.path != PATH:
            self.send_error(404)
            return
        asked = self.headers.get("Range", "")
        start = int(asked.removeprefix("bytes=").split("-")[0]) if asked else 0
        if with_body:
            self.ranges.append(asked)
        self.send_response(206 if start else 200)
        self.send_header("X-Repo-Commit", "a" * 40)
        self.send_header("ETag", f'"{self.checksum}"')
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(CONTENT) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}")
        self.end_headers()
        if with_body and type(self).breaks:
            type(self).breaks -= 1
            self.wfile.write(CONTENT[: len(CONTENT) // 2])
            self.close_connection = True
        elif with_body:
            self.wfile.write(CONTENT[start:])

    def log_message(self, *_: object) -> None:
        """Quiet."""


@pytest.fixture
def hub() -> Iterator[type[Hub]]:
    class Fresh(Hub):
        ranges: ClassVar[list[str]] = []

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Fresh)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    Fresh.address = f"http://127.0.0.1:{server.server_port}"  # type: ignore[attr-defined]
    yield Fresh
    server.shutdown()


def download(folder: Path, address: str) -> subprocess.CompletedProcess:
    variables = os.environ | {"HF_ENDPOINT": address, "HF_HUB_DISABLE_XET": "1"}
    command = [sys.executable, "-m", "scal3r_ros.cli", "weights", "download", "--yes"]
    return subprocess.run(
        [*command, "--folder", str(folder)],
        env=variables,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_the_file_arrives_after_the_licences(tmp_path, hub):
    done = download(tmp_path, hub.address)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "scal3r.pt").read_bytes() == CONTENT
    assert "restrictive" in done.stdout.splitlines()[0]


def test_a_broken_download_is_continued(tmp_path, hub):
    hub.breaks = 1
    first = download(tmp_path, hub.address)
    done = download(tmp_path, hub.address) if first.returncode else first
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "scal3r.pt").read_bytes() == CONTENT
    assert hub.ranges[0] == ""
    assert int(hub.ranges[1].removeprefix("bytes=").rstrip("-")) > 0  # only what was missing


def test_a_damaged_file_is_removed_and_named(tmp_path, hub):
    hub.checksum = "0" * 64
    done = download(tmp_path, hub.address)
    assert done.returncode == 2
    assert "was damaged and is removed" in done.stderr
    assert not (tmp_path / "scal3r.pt").exists()


def test_without_a_hub_it_says_so_in_one_line(tmp_path):
    done = download(tmp_path, "http://127.0.0.1:9")
    assert done.returncode == 2
    assert "could not download xbillowy/Scal3R/scal3r.pt" in done.stderr
    assert "Traceback" not in done.stderr
