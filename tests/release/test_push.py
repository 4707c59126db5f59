"""Publishing: the real client against a server that takes files as the hub does."""

from __future__ import annotations

import base64
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
COMMIT = "89abcdef0123456789abcdef0123456789abcdef"
PUSH = """
import sys
from pathlib import Path
from clearseek.errors import UserError
from clearseek.release.push import check_push, push
try:
    check_push(sys.argv[2])
    print(push(Path(sys.argv[1]), sys.argv[2], private=True))
except UserError as error:
    sys.exit(f"clearseek: {error}")
"""


class HubServer(ThreadingHTTPServer):
    """A hub with one repository, which keeps what is uploaded."""

    created: dict[str, Any]
    files: dict[str, bytes]
    large: dict[str, bytes]
    refuse = False


class Handler(BaseHTTPRequestHandler):
    server: HubServer

    def do_GET(self) -> None:
        signed_in = self.headers.get("Authorization") == "Bearer hf_right"
        self.answer({"name": "me", "type": "user"} if signed_in else {"error": "no"}, 200 if signed_in else 401)

    def do_PUT(self) -> None:
        raw = self.body()
        assert hashlib.sha256(raw).hexdigest() == self.path.rpartition("/")[2]
        self.server.large[self.path.rpartition("/")[2]] = raw
        self.answer({})

    def do_POST(self) -> None:
        raw, address = self.body(), f"http://127.0.0.1:{self.server.server_port}"
        if self.path == "/api/repos/create":
            self.server.created = json.loads(raw)
            self.answer({"url": f"{address}/me/Tiny", "name": "me/Tiny"})
        elif self.path == "/api/validate-yaml":
            self.answer({"errors": [], "warnings": []})
        elif self.server.refuse:
            self.answer({"error": "the disk is full"}, 403)
        elif self.path.startswith("/api/models/me/Tiny/preupload/main"):
            modes = [
                {"path": each["path"], "shouldIgnore": False,
                 "uploadMode": "lfs" if each["path"].endswith(".safetensors") else "regular"}
                for each in json.loads(raw)["files"]
            ]  # fmt: skip
            self.answer({"files": modes})
        elif self.path == "/me/Tiny.git/info/lfs/objects/batch":
            objects = [
                {**each, "actions": {"upload": {"href": f"{address}/lfs/{each['oid']}"}}}
                for each in json.loads(raw)["objects"]
            ]
            self.answer({"transfer": "basic", "objects": objects})
        elif re.match(r"/api/models/me/Tiny/commit/main", self.path):
            for line in map(json.loads, raw.splitlines()):
                value = line["value"]
                if line["key"] == "file":
                    self.server.files[value["path"]] = base64.b64decode(value["content"])
                elif line["key"] == "lfsFile":
                    self.server.files[value["path"]] = self.server.large[value["oid"]]
            self.answer({"success": True, "commitOid": COMMIT, "commitUrl": f"{address}/me/Tiny/commit/{COMMIT}"})
        else:
            self.answer({"error": self.path}, 404)

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            pieces = []
            while size := int(self.rfile.readline(), 16):
                pieces.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(pieces)
        return self.rfile.read(int(self.headers["Content-Length"]))

    def answer(self, content: Any, status: int = 200) -> None:
        raw = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Say nothing."""


@pytest.fixture
def hub() -> Iterator[HubServer]:
    server = HubServer(("127.0.0.1", 0), Handler)
    server.created, server.files, server.large = {}, {}, {}
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


def push(
    hub: HubServer, folder: Path, repo: str = "me/Tiny", token: str = "hf_right"
) -> subprocess.CompletedProcess[str]:
    """In a process of its own, since the client reads its settings when it is imported."""
    environment = os.environ | {
        "HF_ENDPOINT": f"http://127.0.0.1:{hub.server_port}", "HF_TOKEN": token, "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HOME": str(folder.parent / "home"),
    }  # fmt: skip
    command = [sys.executable, "-c", PUSH, str(folder), repo]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=1200)


@pytest.mark.slow
def test_every_file_arrives_as_it_is(hub: HubServer, release: Path) -> None:
    (release / "data").mkdir()
    (release / "data" / "train.bin").write_bytes(bytes(range(256)) * 100)
    ended = push(hub, release)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.strip() == COMMIT
    assert hub.created["name"] == "Tiny" and hub.created["organization"] == "me"
    assert "private" in (hub.created.get("visibility"), "private" if hub.created.get("private") else "")
    expected = {
        path.relative_to(release).as_posix(): path.read_bytes() for path in release.rglob("*") if path.is_file()
    }
    assert hub.files == expected
    assert len(hub.large) == 1, "weights go the way of large files"


@pytest.mark.parametrize(
    ("repo", "token", "message"),
    [
        ("Tiny", "hf_right", "owner/name"),
        ("../me", "hf_right", "owner/name"),
        ("me/Tiny", "", "HF_TOKEN"),
        ("me/Tiny", "hf_wrong", "cannot be asked"),
    ],
)
def test_what_stands_in_the_way_is_said_before_the_work(
    hub: HubServer, release: Path, repo: str, token: str, message: str
) -> None:
    ended = push(hub, release, repo, token)
    assert ended.returncode == 1 and message in ended.stderr and "Traceback" not in ended.stderr
    assert not hub.created


def test_a_refusal_leaves_the_release_and_says_how_to_go_on(hub: HubServer, release: Path) -> None:
    hub.refuse = True
    ended = push(hub, release)
    assert ended.returncode == 1 and f"hf upload me/Tiny {release} ." in ended.stderr
    assert "Traceback" not in ended.stderr and (release / "model.safetensors").is_file()
