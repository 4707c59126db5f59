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

from clearseek.audit.hub import _chosen

pytest.importorskip("huggingface_hub")
COMMIT = "0123456789abcdef0123456789abcdef01234567"


class HubServer(ThreadingHTTPServer):
    """The calls that an audit makes: files of a model at a revision, its branches, ranges of a file, a data set."""

    root: Path
    gated = False
    cut = False
    shut = False
    """Whether the gate holds this user back."""
    broken: tuple[str, ...] = ()
    """Branches, or ``refs``, of which the server tells nothing."""
    requests: list[str]
    branches: dict[str, dict[str, str]]
    """Branch -> SHA-256 of its weight files."""

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

    def refs(self) -> dict[str, Any]:
        commits = {"main": COMMIT} | {name: hashlib.sha1(name.encode()).hexdigest() for name in self.branches}
        listed = [{"name": name, "ref": f"refs/heads/{name}", "targetCommit": at} for name, at in commits.items()]
        return {"branches": listed, "tags": [], "converts": []}

    def branch(self, commit: str) -> dict[str, Any] | None:
        for name, files in self.branches.items():
            if hashlib.sha1(name.encode()).hexdigest() == commit:
                lfs = {path: {"sha256": digest, "size": 9, "pointerSize": 130} for path, digest in files.items()}
                siblings = [{"rfilename": path, "size": 9, "blobId": "0", "lfs": entry} for path, entry in lfs.items()]
                return {"id": "me/Tiny", "modelId": "me/Tiny", "sha": commit, "siblings": siblings}
        return None


class Handler(BaseHTTPRequestHandler):
    server: HubServer

    def do_GET(self) -> None:
        self.server.requests.append(self.path)
        path = self.path.partition("?")[0]
        if re.fullmatch(r"/api/models/me/Tiny(/revision/(main|v1))?", path):
            self.answer(200, json.dumps(self.server.info()).encode())
        elif self.is_broken(path):
            self.answer(500, b"{}")
        elif path == "/api/models/me/Tiny/refs":
            self.answer(200, json.dumps(self.server.refs()).encode())
        elif (match := re.fullmatch(r"/api/models/me/Tiny/revision/(\w{40})", path)) and self.server.branch(match[1]):
            self.answer(200, json.dumps(self.server.branch(match[1])).encode())
        elif path == "/api/datasets/them/Text":
            info = {
                "id": "them/Text",
                "sha": COMMIT,
                "siblings": [],
                "gated": False,
                "cardData": {"license": "cc-by-4.0"},
            }
            self.answer(200, json.dumps(info).encode())
        elif match := re.fullmatch(rf"/me/Tiny/resolve/{COMMIT}/(.+)", path):
            if self.server.shut:
                self.answer(403, b"{}", {"X-Error-Code": "GatedRepo"})
                return
            raw = (self.server.root / match[1]).read_bytes()
            begin, end = map(int, self.headers["Range"].removeprefix("bytes=").split("-"))
            piece = raw[begin : end + 1]
            self.answer(206, piece[: len(piece) // 2] if self.server.cut else piece)
        else:
            code = "RevisionNotFound" if "/revision/" in path else "RepoNotFound"
            self.answer(404, b"{}", {"X-Error-Code": code})

    def is_broken(self, path: str) -> bool:
        commits = [hashlib.sha1(name.encode()).hexdigest() for name in self.server.broken]
        return path.rpartition("/")[2] in (*commits, *(each for each in self.server.broken if each == "refs"))

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
    server.root, server.requests, server.branches = release, [], {}
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
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=1200)


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


def rows_of(hub: HubServer) -> dict[str, Any]:
    ended = audit(hub, "me/Tiny", "--json")
    assert ended.returncode == 0, ended.stderr
    return {row["id"]: row for row in json.loads(ended.stdout)["rows"]}


@pytest.mark.slow
def test_steps_published_as_branches_must_differ(hub: HubServer) -> None:
    steps = [f"step{number}000" for number in range(1, 5)]
    hub.branches = {name: {"model.safetensors": f"{number:064x}"} for number, name in enumerate(steps)}
    hub.branches["docs"] = {"model.safetensors": "f" * 64}  # named after no step
    rows = rows_of(hub)
    assert rows["weights.intermediate"]["answer"] == "yes"
    assert "4 checkpoints" in rows["weights.intermediate"]["reason"]
    assert (rows["weights.trajectory"]["answer"], rows["weights.trajectory"]["grade"]) == ("yes", 3)
    hub.branches["step1000"] = hub.branches["step3000"]
    row = rows_of(hub)["weights.trajectory"]
    assert row["answer"] == "no"
    assert "step3000 holds the files of step1000" in row["reason"]


@pytest.mark.slow
def test_a_step_that_holds_the_final_weights_is_none(hub: HubServer) -> None:
    final = hashlib.sha256((hub.root / "model.safetensors").read_bytes()).hexdigest()
    hub.branches = {f"step{number}": {"model.safetensors": f"{number:064x}"} for number in (0, 500, 1000)}
    hub.branches["step1000"] = {"model.safetensors": final}
    assert rows_of(hub)["weights.trajectory"]["answer"] == "yes"  # the last step's are the final ones
    hub.branches["step0"] = {"model.safetensors": final}
    row = rows_of(hub)["weights.trajectory"]
    assert row["answer"] == "no"
    assert "step0 holds the files of the final weights" in row["reason"]


def test_named_data_sets_are_looked_up(hub: HubServer) -> None:
    readme = hub.root / "README.md"
    readme.write_text(readme.read_text().replace("language: en", "language: en\ndatasets:\n- them/Text"))
    row = rows_of(hub)["data.sources"]
    assert row["answer"] == "yes"
    assert "commit 0123456789ab, licence cc-by-4.0" in row["reason"]
    readme.write_text(readme.read_text().replace("- them/Text", "- them/Text\n- them/Gone"))
    row = rows_of(hub)["data.sources"]
    assert row["answer"] == "partly"
    assert "them/Gone: not there" in row["reason"]


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


def test_settings_of_the_trainer_are_no_weights(hub: HubServer) -> None:
    shared = {"training_args.bin": "a" * 64, "scheduler.pt": "b" * 64, "tokenizer.model": "c" * 64}
    hub.branches = {f"step{step}": {"model.safetensors": f"{step:064x}", **shared} for step in (100, 200, 300)}
    row = rows_of(hub)["weights.trajectory"]
    assert (row["answer"], row["grade"]) == ("yes", 3), row
    assert "numbers were not compared" in row["reason"]


def test_the_last_step_of_any_stage_may_be_the_final_weights(hub: HubServer) -> None:
    final = hashlib.sha256((hub.root / "model.safetensors").read_bytes()).hexdigest()
    hub.branches = {
        "stage1-step1000-tokens4B": {"model.safetensors": "a" * 64},
        "stage1-step900000-tokens4T": {"model.safetensors": "b" * 64},
        "stage2-ingredient3-step0": {"model.safetensors": "b" * 64},
        "stage2-ingredient3-step11931-tokens50B": {"model.safetensors": final},
    }
    assert rows_of(hub)["weights.trajectory"]["answer"] == "yes"
    hub.branches["stage1-step1000-tokens4B"] = {"model.safetensors": final}
    assert rows_of(hub)["weights.trajectory"]["answer"] == "no"


def test_branches_that_cannot_be_had_leave_the_other_rows(hub: HubServer) -> None:
    hub.branches = {"step1": {"model.safetensors": "a" * 64}, "step2": {"model.safetensors": "b" * 64}, "step3": {}}
    hub.broken = ("step3",)
    rows = rows_of(hub)
    assert rows["weights.trajectory"]["answer"] == "unknown"
    assert "step3" in rows["weights.trajectory"]["reason"]
    assert rows["weights.intermediate"]["answer"] == "yes"
    hub.broken = ("refs",)
    rows = rows_of(hub)
    assert rows["weights.trajectory"]["answer"] == rows["weights.intermediate"]["answer"] == "unknown"
    assert "its branches are not known" in rows["weights.intermediate"]["reason"]
    assert rows["weights.final"]["answer"] == "yes"


def test_of_many_branches_some_of_all_steps_are_looked_at() -> None:
    names = [f"step{number}000" for number in range(1000)] + ["docs"]
    chosen, note = _chosen(names)
    assert note == "256 of 1,000 looked at"
    assert (chosen[0], chosen[-1], len(chosen)) == ("step0000", "step999000", 256)
    assert max(int(each[4:]) for each in chosen[:128]) < 510_000
    assert _chosen(["step10", "step9", "docs"]) == (["step9", "step10", "docs"], "")


def test_behind_a_shut_gate_what_is_known_is_told(hub: HubServer) -> None:
    hub.gated = hub.shut = True
    rows = rows_of(hub)
    assert rows["barriers.access"]["answer"] == "no"
    assert (rows["weights.final"]["answer"], rows["weights.final"]["grade"]) == ("yes", 2)
    for id in ("files.execution", "documents.model_card", "licence.weights", "weights.format", "data.training"):
        assert (rows[id]["answer"], rows[id]["grade"]) == ("unknown", 0)
        assert "behind a gate" in rows[id]["reason"]
