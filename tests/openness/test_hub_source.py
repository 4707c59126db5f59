"""A repository on a hub: a server that speaks as the hub does, and the real client."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("huggingface_hub")
COMMIT = "0123456789abcdef0123456789abcdef01234567"


class HubServer(ThreadingHTTPServer):
    """The two calls that an audit makes: files of a model at a revision, and ranges of a file."""

    root: Path
    gated = False
    cut = False
    requests: list[str]

    def info(self) -> dict[str, Any]:
        siblings = []
        for path in sorted(self.root.rglob("*")):
            if path.is_file():
                raw = path.read_bytes()
                entry: dict[str, Any] = {"rfilename": path.relative_to(self.root).as_posix(), "size": len(raw)}
                entry["blobId"] = hashlib.sha1(raw).hexdigest()
                if path.suffix == ".safetensors":
                    entry["lfs"] = {"sha256": hashlib.sha256(raw).hexdigest(), "size": len(raw), "pointerSize": 130}
                siblings.append(entry)
        return {"id": "me/Tiny", "modelId": "me/Tiny", "sha": COMMIT, "siblings": siblings, "gated": self.gated}


class Handler(BaseHTTPRequestHandler):
    server: HubServer

    def do_GET(self) -> None:
        self.server.requests.append(self.path)
        path = self.path.partition("?")[0]
        if re.fullmatch(r"/api/models/me/Tiny(/revision/(main|v1))?", path):
            self.answer(200, json.dumps(self.server.info()).encode())
        elif match := re.fullmatch(rf"/me/Tiny/resolve/{COMMIT}/(.+)", path):
            raw = (self.server.root / match[1]).read_bytes()
            begin, end = map(int, self.headers["Range"].removeprefix("bytes=").split("-"))
            piece = raw[begin : end + 1]
            self.answer(206, piece[: len(piece) // 2] if self.server.cut else piece)
        else:
            code = "RevisionNotFound" if "/revision/" in path else "RepoNotFound"
            self.answer(404, b"{}", {"X-Error-Code": code})

    def answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Say nothing."""


@pytest.fixture
def hub(release: Path) -> Iterator[HubServer]:
    server = HubServer(("127.0.0.1", 0), Handler)
    server.root, server.requests = release, []
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


def audit(hub: HubServer | None, *arguments: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own, since the client reads its settings when it is imported."""
    address = f"http://127.0.0.1:{hub.server_port}" if hub else "http://127.0.0.1:9"
    environment = os.environ | {"HF_ENDPOINT": address, "HF_HUB_DISABLE_TELEMETRY": "1", "HF_TOKEN": ""}
    command = [sys.executable, "-m", "clearseek", "audit", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)


def test_a_repository_is_audited_where_it_is(hub: HubServer) -> None:
    ended = audit(hub, "me/Tiny", "--json")
    assert ended.returncode == 0, ended.stderr
    content = json.loads(ended.stdout)
    rows = {row["id"]: row for row in content["rows"]}
    assert content["subject"] == f"me/Tiny@{COMMIT}"
    for id in ("weights.tensors", "weights.format", "weights.health", "parameters.total", "licence.weights"):
        assert rows[id]["answer"] == "yes", rows[id]
    assert rows["barriers.access"]["answer"] == "yes"
    assert not [path for path in hub.requests if path.startswith("/me/Tiny/resolve/main")]  # the commit is pinned


def test_a_gate_shows(hub: HubServer) -> None:
    hub.gated = True
    rows = {row["id"]: row for row in json.loads(audit(hub, "me/Tiny@v1", "--json").stdout)["rows"]}
    assert rows["barriers.access"]["answer"] == "no"


@pytest.mark.parametrize(
    ("name", "what"),
    [("me/Other", "no such repository"), ("me/Tiny@v9", "no such revision"), ("me//x", "no such folder")],
)
def test_what_is_not_there_is_named(hub: HubServer, name: str, what: str) -> None:
    ended = audit(hub, name)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert what in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_hub_that_cannot_be_reached_or_cuts_off(hub: HubServer) -> None:
    ended = audit(None, "me/Tiny")
    assert ended.returncode == 2
    assert "hub cannot be" in ended.stderr
    hub.cut = True
    ended = audit(hub, "me/Tiny", "--json")
    assert "Traceback" not in ended.stderr
