"""Every source gives its documents in order; every bad input is one UserError that names it."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from clearseek.config import DataConfig
from clearseek.data import readers, rows, sources
from clearseek.data.scan import scan
from clearseek.data.sources import Tally, open_source
from clearseek.errors import UserError


def read(base: Path, *paths: str, source: str = "files", **settings: Any) -> list[sources.Document]:
    return list(
        open_source(DataConfig.model_validate({"source": source, "paths": paths, **settings}), base).documents()
    )


def refused(base: Path, *paths: str, source: str = "files", **settings: Any) -> str:
    with pytest.raises(UserError) as error:
        read(base, *paths, source=source, **settings)
    return str(error.value)


# The standard library


def test_stdlib_is_the_librarys_own_code_in_order() -> None:
    found = list(open_source(DataConfig(), Path("/")).documents())
    ids = [document.id for document in found]
    assert ids == sorted(ids)
    assert {"json/decoder.py", "asyncio/base_events.py", "argparse.py"} <= set(ids)
    assert {document.licence for document in found} == {"PSF-2.0"}
    parts = {part for identity in ids for part in identity.split("/")}
    assert not parts & {"site-packages", "dist-packages", "__pycache__", "test", "tests", "idle_test"}
    assert not [identity for identity in ids if "_sysconfigdata" in identity]  # carries the builder's paths


def test_stdlib_skips_and_reports_what_is_no_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "test").mkdir()
    for name, content in {"good.py": b"x = 1\n", "empty.py": b"", "latin.py": b"# \xe9\n", "test/t.py": b"y\n"}.items():
        (tmp_path / name).write_bytes(content)
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(tmp_path))
    tally = Tally()
    assert [document.id for document in open_source(DataConfig(), tmp_path).documents(tally)] == ["good.py"]
    assert tally.skipped == ["empty.py", "latin.py"]
    assert tally.unusable == {"empty": 1, "not UTF-8": 1}
    with_tests = open_source(DataConfig(include_tests=True), tmp_path).documents()
    assert [document.id for document in with_tests] == ["good.py", "test/t.py"]


def test_stdlib_without_py_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(tmp_path))
    with pytest.raises(UserError, match="full Python installation"):
        open_source(DataConfig(), tmp_path)


# Files


def test_files_are_sorted_and_hashed(tmp_path: Path) -> None:
    for name in ("b.md", "a/deep/x.txt", "a/y.txt", ".hidden.txt", "a/.git/z.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"I am {name}, é")
    found = read(tmp_path, "**/*.txt", "*.md", "a/y.txt", licence="MIT")
    assert [document.id for document in found] == ["a/deep/x.txt", "a/y.txt", "b.md"]
    raw = (tmp_path / "b.md").read_bytes()
    assert found[2].sha256 == hashlib.sha256(raw).hexdigest()
    assert (found[2].bytes, found[2].text.encode(), found[2].licence) == (len(raw), raw, "MIT")


def test_absolute_paths_and_line_ends_are_kept(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"one\r\ntwo\rthree\n")
    (document,) = read(tmp_path / "elsewhere", str(tmp_path / "*.txt"))
    assert (document.id, document.text) == ("../a.txt", "one\r\ntwo\rthree\n")


def test_collection_is_cut_into_parts_that_reassemble(tmp_path: Path) -> None:
    lines = [f"Line {number} é\n" + "\n" * (number % 50 == 0) for number in range(40_000)]
    raw = ("".join(lines) + "no line end").encode()
    (tmp_path / "plays.txt").write_bytes(raw)
    found = read(tmp_path, "plays.txt")
    assert b"".join(document.text.encode() for document in found) == raw
    assert len(found) > 20 and max(document.bytes for document in found) <= 2 * readers.PART_BYTES + 100
    for document in found[:5]:
        first = int(document.id.removeprefix("plays.txt:"))
        assert document.text.splitlines()[0] == raw.decode().splitlines()[first - 1]
    (tmp_path / "single.txt").write_bytes(raw[: readers.COLLECTION_BYTES])
    assert [document.id for document in read(tmp_path, "single.txt")] == ["single.txt"]


@pytest.mark.parametrize(
    ("content", "complaint"),
    [(b"", "empty"), (b"ab\0c", "NUL byte at 2"), (b"ab\xff", r"not UTF-8 \(byte 2\)")],
)
def test_bad_file_is_named(tmp_path: Path, content: bytes, complaint: str) -> None:
    (tmp_path / "good.txt").write_text("good")
    (tmp_path / "wrong.txt").write_bytes(content)
    with pytest.raises(UserError, match=f"wrong.txt: .*{complaint}"):
        read(tmp_path, "*.txt")


@pytest.mark.parametrize("pattern", ["*.txt", "missing.txt", "no/such/*", "", ".", "folder", "/", "bad\0name"])
def test_pattern_without_files_is_refused(tmp_path: Path, pattern: str) -> None:
    (tmp_path / "folder").mkdir()
    refused(tmp_path, pattern)


def test_no_paths_at_all(tmp_path: Path) -> None:
    assert "data.paths is empty" in refused(tmp_path)


def test_folder_and_pipe_are_refused(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    assert "is a folder" in refused(tmp_path, "folder")
    os.mkfifo(tmp_path / "pipe")
    assert "not a regular file" in refused(tmp_path, "pipe")


def test_link_cycle_ends(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a/x.txt").write_text("x")
    (tmp_path / "a/loop").symlink_to(tmp_path)
    assert [document.id for document in read(tmp_path, "**/*.txt")] == ["a/x.txt"]


def test_forbidden_folder_and_file_are_named() -> None:
    """Run as another user when this one is root, whom no permission stops."""
    program = (
        "import os; from pathlib import Path; from clearseek.config import DataConfig\n"
        "from clearseek.data.sources import open_source; from clearseek.errors import UserError\n"
        "if os.getuid() == 0: os.setgid(65534); os.setuid(65534)\n"
        "for pattern in ('texts/**/*.txt', 'texts/secret/b.txt', 'closed.txt'):\n"
        "    try: list(open_source(DataConfig(source='files', paths=(pattern,)), Path('.')).documents())\n"
        "    except UserError as error: print(error)\n"
    )
    with tempfile.TemporaryDirectory() as name:  # not tmp_path, whose parents another user may not enter
        base, secret = Path(name), Path(name, "texts", "secret")
        base.chmod(0o755)
        secret.mkdir(parents=True)
        for path in (base / "texts" / "a.txt", secret / "b.txt", base / "closed.txt"):
            path.write_text("text")
        (base / "closed.txt").chmod(0)
        secret.chmod(0)
        try:
            result = subprocess.run([sys.executable, "-c", program], cwd=base, capture_output=True, text=True)
        finally:
            secret.chmod(0o755)
    lines = result.stdout.splitlines()
    assert len(lines) == 3, result.stderr
    assert all("Permission denied" in line for line in lines)
    assert "texts/secret" in lines[0] and "texts/secret" in lines[1] and "closed.txt" in lines[2]


# JSON Lines


def test_jsonl_rows_are_documents(tmp_path: Path) -> None:
    rows = [{"body": "one"}, {"body": "zwei ü \ud83d\ude00", "other": 1}]
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    found = read(tmp_path, "a.jsonl", source="jsonl", text_field="body")
    assert [(document.id, document.text) for document in found] == [("a.jsonl:1", "one"), ("a.jsonl:2", "zwei ü 😀")]


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        (b"{", "not one JSON object"),
        (b"[1]", "not a JSON object"),
        (b'{"txt": "a"}', 'did you mean "txt"'),
        (b'{"text": 3}', "is a number, not text"),
        (b'{"text": null}', "is null"),
        (b'{"text": ""}', "empty"),
        (b'{"text": "\xff"}', "not UTF-8"),
        (b'{"text": "a\\u0000"}', "NUL byte"),
        (b'{"text": "\\ud800"}', "lone surrogate"),
        (b"[" * 100_000, "not one JSON object"),
        (b'{"n": ' + b"1" * 5000 + b"}", 'no field "text"; fields: n:'),
        (b'{"text": "cut o', "not one JSON object"),
        (b'{"text": "a"},', "not one JSON object"),
        (b'{"text": "' + b"a" * 2**20 + b'"}', "longer than 1 MiB"),
    ],
)
def test_bad_jsonl_line_is_named(tmp_path: Path, line: bytes, complaint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (readers, rows):
        monkeypatch.setattr(module, "MAX_DOCUMENT_BYTES", 2**20)
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "good"}\n' + line + b'\n{"text": "good"}\n')
    message = refused(tmp_path, "a.jsonl", source="jsonl")
    assert message.startswith("a.jsonl:2: ") and complaint in message


def test_endless_jsonl_line_is_not_read_whole(tmp_path: Path) -> None:
    with (tmp_path / "a.jsonl").open("wb") as file:
        file.write(b'{"text": "')
        file.truncate(2 * 2**30)  # sparse: takes no space on the disk
    assert "a.jsonl:1: longer than" in refused(tmp_path, "a.jsonl", source="jsonl")


@pytest.mark.parametrize("content", [b"", b"\n\n", b"\xef\xbb\xbf", b"[]"])
def test_empty_jsonl(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.jsonl").write_bytes(content)
    config = DataConfig(source="jsonl", paths=("a.jsonl",))
    with pytest.raises(UserError, match=r"no documents in a\.jsonl, 1 of them without a row"):
        scan(open_source(config, tmp_path), 0.05, lambda count: None)


# Parquet and datasets of a hub


def test_parquet_without_the_library_names_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (tmp_path / "a.parquet").touch()
    assert "pip install" in refused(tmp_path, "a.parquet", source="parquet")


def test_zstd_that_is_cut_off_is_damage(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    packed = pyarrow.compress(b'{"text": "one"}\n' * 9, codec="zstd", asbytes=True)
    (tmp_path / "a.jsonl.zst").write_bytes(packed[:-9])
    with pytest.raises(UserError, match=r"a.jsonl.zst: damaged compressed data \(.*\): fetch it again"):
        list(open_source(DataConfig(source="jsonl", paths=("a.jsonl.zst",)), tmp_path).documents())


def test_parquet(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = [f"row {number} é" for number in range(150)]
    parquet.write_table(pyarrow.table({"body": rows, "n": list(range(150))}), tmp_path / "a.parquet")
    found = read(tmp_path, "*.parquet", source="parquet", text_field="body")
    assert [document.text for document in found] == rows
    assert found[149].id == "a.parquet:150"
    assert 'no column "bdy" (did you mean "body"?)' in refused(
        tmp_path, "a.parquet", source="parquet", text_field="bdy"
    )
    assert "a.parquet:1: " in refused(tmp_path, "a.parquet", source="parquet", text_field="n")
    (tmp_path / "b.parquet").write_bytes(b"PAR1 nonsense")
    assert "b.parquet" in refused(tmp_path, "b.parquet", source="parquet")
    parquet.write_table(pyarrow.table({"text": pyarrow.array([], "string"), "body": []}), tmp_path / "c.parquet")
    assert len(read(tmp_path, "[ac].parquet", source="parquet", text_field="body")) == 150


class FakeHub:
    """Stands in for the download: a snapshot folder named by its commit."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.asked = folder, {}

    def snapshot_download(self, dataset: str, **asked: Any) -> str:
        self.asked = {"dataset": dataset, **asked}
        if dataset == "owner/missing":
            raise RuntimeError("404\nnot found")
        return str(self.folder)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    huggingface_hub = pytest.importorskip("huggingface_hub")
    snapshot = tmp_path / "0123abc"
    (snapshot / "data").mkdir(parents=True)
    for name in ("data/train.jsonl", "test.jsonl"):
        (snapshot / name).write_text(json.dumps({"text": f"from {name}"}))
    (snapshot / "README.md").write_text("a card")
    fake = FakeHub(snapshot)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fake.snapshot_download)
    return fake


def test_hub_reads_a_pinned_dataset(tmp_path: Path, hub: FakeHub) -> None:
    found = read(tmp_path, "owner/name@v1", source="hub")
    assert [document.id for document in found] == ["data/train.jsonl:1", "test.jsonl:1"]
    assert {document.source for document in found} == {"hub:owner/name@0123abc"}
    assert (hub.asked["dataset"], hub.asked["revision"], hub.asked["repo_type"]) == ("owner/name", "v1", "dataset")
    (only,) = read(tmp_path, "owner/name", "data/*", source="hub")
    assert only.text == "from data/train.jsonl" and hub.asked["revision"] is None


@pytest.mark.parametrize(
    ("paths", "complaint"),
    [
        (("name",), "owner/name"),
        (("owner/missing",), "404 not found"),
        (("owner/name", "*.csv"), "no file matches"),
        (("owner/name", "*"), "README.md is neither"),
    ],
)
def test_hub_refusals(tmp_path: Path, hub: FakeHub, paths: tuple[str, ...], complaint: str) -> None:
    assert complaint in refused(tmp_path, *paths, source="hub")
