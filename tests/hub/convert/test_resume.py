"""Conversions that were stopped, killed, or came to a full disk: what they leave, and how they go on."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from clearseek.cli import main
from clearseek.errors import UserError
from clearseek.hub.convert import run as convert_module
from clearseek.hub.convert.journal import JOURNAL
from clearseek.hub.convert.run import convert_checkpoint
from clearseek.locks import exclusive
from tests.hub.checkpoints import ODD, by_turns, random_fp8, tree, write
from tests.hub.examples import small

TINY = small(num_hidden_layers=1, first_k_dense_replace=1, vocab_size=8, hidden_size=24, intermediate_size=130)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An FP8 checkpoint in three files; nothing in it is changed."""
    return write(tmp_path_factory.mktemp("source") / "fp8", random_fp8(ODD), by_turns(3))


@pytest.fixture(scope="module")
def whole(source: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What its conversion gives."""
    out = tmp_path_factory.mktemp("whole") / "bf16"
    convert_checkpoint(source, out, "bf16")
    return tree(out)


def after(calls: int) -> Callable[[], bool]:
    """An answer that turns true after so many questions."""
    left = iter(range(calls))
    return lambda: next(left, None) is None


def weights(folder: Path) -> set[str]:
    """Weight files that are there."""
    return {file.name for file in folder.glob("model*.safetensors")} if folder.is_dir() else set()


# Kills


KILLER = """
import os, signal, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from clearseek.hub.convert.run import convert_checkpoint
from tests.hub.checkpoints import tree
source, expected, out, dtype = Path(sys.argv[1]), tree(Path(sys.argv[2])), Path(sys.argv[3]), sys.argv[4]
calls = 0

def deadly(name, nth):
    real = getattr(os, name)
    def call(*arguments, **options):
        global calls
        calls += 1
        if calls == nth:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*arguments, **options)
    setattr(os, name, call)

def attempt(nth):
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    for name in ("pwrite", "fsync", "fdatasync", "replace", "rename", "unlink", "mkdir"):
        deadly(name, nth)
    try:
        convert_checkpoint(source, out, dtype)
        os._exit(0)
    except BaseException as error:
        print(repr(error))
        os._exit(1)

kills, nth, step = 0, 1, 1
while (code := attempt(nth)) == -signal.SIGKILL:
    kills += 1
    left = tree(out) if out.exists() else {}
    done = {name for name in left if not name.rpartition("/")[2].startswith(".")}
    assert all(left[name] == expected[name] for name in done), "a file was half there"
    assert "config.json" not in left or done == set(expected), "config.json was not the last"
    if kills % 3 == 0:  # killed again while going on
        assert attempt(4) in (0, -signal.SIGKILL)
    assert attempt(0) == 0
    assert tree(out) == expected
    for name in sorted(expected):
        (out / name).unlink()
    for folder in sorted((f for f in out.rglob("*")), reverse=True):
        folder.rmdir()
    out.rmdir()
    nth += 1
assert code == 0, code
assert tree(out) == expected
print(kills)
"""


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["bf16", "fp8"])
def test_a_kill_at_any_write_costs_nothing(dtype: str, tmp_path: Path) -> None:
    fp8 = write(tmp_path / "fp8", random_fp8(TINY), by_turns(2), TINY)
    convert_checkpoint(fp8, tmp_path / "bf16", "bf16")
    source, expected = (fp8, tmp_path / "bf16") if dtype == "bf16" else (tmp_path / "bf16", fp8)
    program = [sys.executable, "-c", KILLER, *map(str, (source, expected, tmp_path / "out", dtype))]
    root = str(Path(__file__).parents[3])
    environment = os.environ | {"PYTHONPATH": root, "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(program, capture_output=True, text=True, env=environment, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert int(ended.stdout) > 40


# Stops


@pytest.mark.parametrize("calls", [0, 1, 10, 30, 60, 100])
def test_a_stopped_conversion_goes_on(calls: int, source: Path, whole: dict[str, bytes], tmp_path: Path) -> None:
    out, attempts = tmp_path / "out", 0
    while not (ended := convert_checkpoint(source, out, "bf16", stop=after(calls + attempts * 20))).finished:
        attempts += 1
        assert ended.files_done == len(weights(out)) < 4
        assert not (out / "config.json").exists() and not list(out.glob(".*.new"))
    assert attempts and tree(out) == whole
    assert ended.files_done == ended.files == 4


def test_going_on_reads_only_what_is_left(source: Path, whole: dict[str, bytes], tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = convert_checkpoint(source, out, "bf16", stop=lambda: len(weights(out)) == 2)
    assert (first.finished, first.files_done) == (False, 2)
    kept = {name: (out / name).stat().st_mtime_ns for name in weights(out)}
    seen: list[Any] = []
    second = convert_checkpoint(source, out, "bf16", progress=seen.append)
    assert seen[0].bytes_before == seen[0].bytes_done > 0 and seen[0].files_done == 2
    assert second.bytes_read == seen[-1].bytes - seen[0].bytes_before < seen[-1].bytes
    assert {name: (out / name).stat().st_mtime_ns for name in kept} == kept
    assert tree(out) == whole


def test_counts_of_blocks_are_those_of_all_attempts(source: Path, tmp_path: Path) -> None:
    convert_checkpoint(source, tmp_path / "bf16", "bf16")
    once = convert_checkpoint(tmp_path / "bf16", tmp_path / "once", "fp8")
    out = tmp_path / "out"
    convert_checkpoint(tmp_path / "bf16", out, "fp8", stop=lambda: len(weights(out)) == 2)
    twice = convert_checkpoint(tmp_path / "bf16", out, "fp8")
    assert (twice.blocks, twice.kept) == (once.blocks, once.kept)


def test_nothing_is_left_where_nothing_was_done(source: Path, tmp_path: Path) -> None:
    convert_checkpoint(source, tmp_path / "deep" / "out", "bf16", stop=after(10))
    assert list((tmp_path / "deep").iterdir()) == []
    (tmp_path / "empty").mkdir()
    convert_checkpoint(source, tmp_path / "empty", "bf16", stop=after(10))
    assert list((tmp_path / "empty").iterdir()) == []


@pytest.fixture
def unfinished(source: Path, tmp_path: Path) -> tuple[Path, Path]:
    """A source of its own, and an output with two of four files."""
    mine, out = tmp_path / "mine", tmp_path / "out"
    shutil.copytree(source, mine)
    convert_checkpoint(mine, out, "bf16", stop=lambda: len(weights(out)) == 2)
    return mine, out


def test_files_that_were_touched_are_made_anew(unfinished: tuple[Path, Path], whole: dict[str, bytes]) -> None:
    mine, out = unfinished
    spoilt = out / min(weights(out))
    raw = bytearray(spoilt.read_bytes())
    raw[-1] ^= 1
    spoilt.write_bytes(raw)
    convert_checkpoint(mine, out, "bf16")
    assert tree(out) == whole


def test_a_mended_source_costs_what_was_made_from_it(unfinished: tuple[Path, Path]) -> None:
    mine, out = unfinished
    file = mine / min(weights(mine))
    raw = bytearray(file.read_bytes())
    raw[-1] ^= 1
    file.write_bytes(raw)
    convert_checkpoint(mine, out, "bf16")
    convert_checkpoint(mine, out.parent / "fresh", "bf16")
    assert tree(out) == tree(out.parent / "fresh")


def test_another_conversion_does_not_go_on_with_it(unfinished: tuple[Path, Path], source: Path) -> None:
    mine, out = unfinished
    before = tree(out)
    other = write(out.parent / "other", random_fp8(TINY), None, TINY)
    with pytest.raises(UserError, match="unfinished conversion of something else"):
        convert_checkpoint(other, out, "bf16")
    convert_checkpoint(mine, out.parent / "bf16", "bf16")
    with pytest.raises(UserError, match="unfinished conversion of something else"):
        convert_checkpoint(out.parent / "bf16", out, "fp8")
    (out / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"notes\.txt: not part of the unfinished conversion"):
        convert_checkpoint(mine, out, "bf16")
    (out / "notes.txt").unlink()
    assert tree(out) == before


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"version": 1, "work": "x", "done": 3}', "\xff"])
def test_a_damaged_record_is_refused(content: str, unfinished: tuple[Path, Path]) -> None:
    mine, out = unfinished
    (out / JOURNAL).write_text(content)
    with pytest.raises(UserError, match="damaged: delete"):
        convert_checkpoint(mine, out, "bf16")
    assert len(weights(out)) == 2


def test_a_record_of_malformed_entries_is_refused(unfinished: tuple[Path, Path]) -> None:
    mine, out = unfinished
    content = json.loads((out / JOURNAL).read_text())
    for wrong in (3, {"blocks": "x", "kept": 0}, []):
        content["done"][min(weights(out))] = wrong
        (out / JOURNAL).write_text(json.dumps(content))
        with pytest.raises(UserError, match="damaged: delete"):
            convert_checkpoint(mine, out, "bf16")


def test_one_conversion_at_a_time(unfinished: tuple[Path, Path]) -> None:
    mine, out = unfinished
    with exclusive(out / ".lock", "the other"), pytest.raises(UserError, match="another process is writing here"):
        convert_checkpoint(mine, out, "bf16")
    (out / ".lock").touch()  # as a kill leaves it
    assert convert_checkpoint(mine, out, "bf16").finished
    assert not (out / ".lock").exists()


def test_a_lock_that_a_kill_left_is_no_content(source: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/.lock").touch()
    assert convert_checkpoint(source, tmp_path / "out", "bf16").finished


# Full disks


def test_the_space_needed_is_known_beforehand(
    source: Path, whole: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needed = sum(map(len, whole.values()))
    usage = shutil.disk_usage(tmp_path)._replace(free=needed - 1)
    monkeypatch.setattr(convert_module.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(UserError, match=rf"bytes are needed and {needed - 1:,} are free"):
        convert_checkpoint(source, tmp_path / "out", "bf16")
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(convert_module.shutil, "disk_usage", lambda _: usage._replace(free=needed + 200_000))
    assert convert_checkpoint(source, tmp_path / "out", "bf16").finished


@pytest.fixture
def pwrite(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int, int], None]]:
    """Let writes fail from the n-th on."""
    real = os.pwrite

    def fail(first: int, code: int) -> None:
        left = iter(range(first))

        def write(*arguments: Any) -> int:
            if next(left, None) is None:
                raise OSError(code, os.strerror(code))
            return real(*arguments)

        monkeypatch.setattr(os, "pwrite", write)

    yield fail
    monkeypatch.setattr(os, "pwrite", real)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_a_disk_that_fails_midway_keeps_whole_files(
    code: int, source: Path, whole: dict[str, bytes], tmp_path: Path, pwrite: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    pwrite(60, code)
    with pytest.raises(UserError, match=r"model-0000\d-of-00003\.safetensors: cannot write: the disk"):
        convert_checkpoint(source, out, "bf16")
    monkeypatch.undo()
    assert 0 < len(weights(out)) < 3
    assert all(raw == whole[name] for name, raw in tree(out).items() if name != JOURNAL)
    assert convert_checkpoint(source, out, "bf16").files_done == 4
    assert tree(out) == whole


# The command


def start(*arguments: str | Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "clearseek", "convert", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_the_command_cleanly(number: int, tmp_path: Path) -> None:
    big = small(hidden_size=768, intermediate_size=3072, num_hidden_layers=8, first_k_dense_replace=8)
    fp8 = write(tmp_path / "fp8", random_fp8(big), lambda n, _: n // 12, big)
    out = tmp_path / "out folder"
    process = start(fp8, out, "--dtype", "bf16")
    while not weights(out):
        assert process.poll() is None
        time.sleep(0.001)
    process.send_signal(number)
    said, progress = process.communicate(timeout=1200)
    assert process.returncode == 130 and "Traceback" not in progress
    assert f"go on with: clearseek convert {fp8} '{out}' --dtype bf16" in said
    assert not (out / "config.json").exists() and not list(out.glob(".*.new"))
    assert "model-00001-of-" in progress
    process = start(fp8, out, "--dtype", "bf16", "--json")
    said, progress = process.communicate(timeout=1200)
    assert process.returncode == 0 and progress == ""
    summary = json.loads(said)
    assert summary["finished"] and summary["out"] == str(out) and summary["dtype"] == "bf16"
    assert len(weights(out)) + 1 == summary["files"] == summary["files_done"]


def test_the_command_both_ways(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["convert", str(source), str(tmp_path / "bf16"), "--dtype", "bf16"]) == 0
    assert "bf16: " in capsys.readouterr().out
    assert main(["convert", str(tmp_path / "bf16"), str(tmp_path / "fp8"), "--dtype", "fp8"]) == 0
    said = capsys.readouterr().out
    assert "tensors as FP8, float scales" in said and "files and order are the old ones" in said
    assert tree(tmp_path / "fp8") == tree(source)
