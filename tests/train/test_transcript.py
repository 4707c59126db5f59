"""The transcript: exact numbers, an unbroken chain, the same bytes from the same run."""

from __future__ import annotations

import errno
import json
import math
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clearseek.errors import OtherVersionError, UserError
from clearseek.train import transcript, writer
from clearseek.train.record import StepRecord, decode, encode
from clearseek.train.transcript import check_transcript
from clearseek.train.writer import TranscriptWriter

HEADER: dict[str, Any] = {
    "recipe": {"name": "tiny", "train": {"steps": 300, "seed": 0}},
    "data": {"fingerprint": "ab" * 32},
    "environment": {"torch": "2.13.0", "threads": 2, "precision": "bfloat16"},
}


def step(number: int) -> StepRecord:
    return StepRecord(
        step=number,
        scalars={"loss": 8.3 / number, "mtp_loss": 8.5 / number} | ({} if number % 4 else {"held_out_bpb": 2.5}),
        grad_norm=math.pi * number,
        tokens=8192 * number,
        balance=(1.0 + 1 / 3, 1.5),
        weights_sha256="0" * 64 if number % 2 == 0 else None,
        optimizer_sha256="1" * 64 if number % 2 == 0 else None,
    )


def without_evaluation(record: StepRecord) -> StepRecord:
    return replace(record, scalars={name: value for name, value in record.scalars.items() if name != "held_out_bpb"})


def written(path: Path, steps: int) -> Path:
    record = TranscriptWriter.open(path, HEADER)
    for number in range(1, steps + 1):
        record.append(step(number))
    record.close()
    return path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return written(tmp_path / "transcript.jsonl", 6)


def test_round_trip_is_exact(file: Path) -> None:
    summary = check_transcript(file)
    assert summary.header == HEADER
    assert summary.steps == tuple(step(number) for number in range(1, 7))
    assert not summary.torn


def test_it_is_read_line_by_line(tmp_path: Path) -> None:
    """A long run's transcript has hundreds of megabytes: to go on must not take them."""
    path = written(tmp_path / "long.jsonl", 6000)
    tracemalloc.start()
    TranscriptWriter.resume(path, HEADER, 5000).close()
    assert transcript.last_line(path).step == 5000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 300_000 < path.stat().st_size / 5


def test_a_run_may_begin_after_its_parents_last_step(tmp_path: Path) -> None:
    path, header = tmp_path / "t.jsonl", HEADER | {"parent": {"step": 4}}
    record = TranscriptWriter.open(path, header)
    assert record.step == 4
    record.append(step(5))
    record.close()
    assert [each.step for each in check_transcript(path).steps] == [5] and check_transcript(path).begin == 4
    TranscriptWriter.resume(path, header, 4).close()
    assert check_transcript(path).steps == ()


@pytest.mark.parametrize("parent", [4, None, [], {}, {"step": -1}, {"step": "4"}, {"step": True}])
def test_a_parent_without_a_step_is_no_header(parent: Any, tmp_path: Path) -> None:
    line = transcript.canonical({"format": transcript.FORMAT, **HEADER, "parent": parent})
    (tmp_path / "t.jsonl").write_bytes(line + b"\n")
    with pytest.raises(UserError, match="line 1: altered: it does not say after which step"):
        check_transcript(tmp_path / "t.jsonl")


def test_a_line_that_waited_for_its_evaluation_is_kept_if_it_is_there(file: Path) -> None:
    before, pending = check_transcript(file), without_evaluation(step(4))
    head = [line.head for line in transcript.read_lines(file)][3]
    again = TranscriptWriter.resume(file, HEADER, 3, head, pending)
    assert again.step == 4
    again.close()
    assert check_transcript(file).steps == before.steps[:4]
    for other in (replace(pending, scalars={"loss": 1.0}), without_evaluation(step(5))):
        again = TranscriptWriter.resume(file, HEADER, 3, head, other)
        assert again.step == 3
        again.append(step(4))
        again.close()


def test_nothing_is_written_after_a_full_disk(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes left in a buffer would be tried again on closing, outside of every message."""

    def full(target: Any, data: bytes) -> None:
        target.write(data[:10])
        raise OSError(errno.ENOSPC, "No space left on device")

    record = TranscriptWriter.resume(file, HEADER, 6)
    monkeypatch.setattr(writer, "append", full)
    with pytest.raises(UserError, match=r"the disk is full \([\d,]+ bytes are needed and [\d,]+ are free\)"):
        record.append(step(7))
    record.close()
    assert check_transcript(file).torn and len(check_transcript(file).steps) == 6


def test_identical_runs_write_identical_bytes(file: Path, tmp_path: Path) -> None:
    again = written(tmp_path / "again.jsonl", 6)
    assert again.read_bytes() == file.read_bytes()


def test_floats_are_hexadecimal_and_the_chain_is_sha256(file: Path) -> None:
    lines = file.read_bytes().splitlines()
    entry = json.loads(lines[1])
    assert entry["scalars"]["loss"] == (8.3).hex()
    assert entry["prev"] == transcript.sha256_bytes(lines[0])
    assert "weights_sha256" not in entry
    assert check_transcript(file).head == transcript.sha256_bytes(lines[-1])


@given(
    st.dictionaries(st.text(max_size=8), st.floats(allow_nan=False), max_size=4),
    st.floats(allow_nan=False),
    st.lists(st.floats(0, 1e3), max_size=4),
)
def test_every_float_and_name_survives(scalars: dict[str, float], norm: float, balance: list[float]) -> None:
    record = StepRecord(1, scalars, norm, 5, tuple(balance))
    assert decode(json.loads(transcript.canonical(encode(record)))) == record


def test_speed_is_for_people_and_not_for_the_record() -> None:
    fast, slow = (replace(step(3), tokens_per_second=rate, mfu=rate / 100) for rate in (10.0, 1.0))
    assert fast == slow and encode(fast) == encode(slow)


def test_a_loss_that_is_not_a_number_is_recorded(tmp_path: Path) -> None:
    record = TranscriptWriter.open(tmp_path / "t", HEADER)
    record.append(StepRecord(1, {"loss": math.nan}, math.inf, 1))
    record.close()
    [line] = check_transcript(tmp_path / "t").steps
    assert math.isnan(line.scalars["loss"])
    assert line.grad_norm == math.inf


def test_a_run_is_never_written_over(file: Path) -> None:
    before = file.read_bytes()
    with pytest.raises(UserError, match="already recorded here"):
        TranscriptWriter.open(file, HEADER)
    assert file.read_bytes() == before


@pytest.mark.parametrize("at", range(7))
def test_resuming_gives_the_bytes_of_an_unbroken_run(file: Path, at: int) -> None:
    whole = file.read_bytes()
    head = json.loads(whole.splitlines()[at + 1])["prev"] if at < 6 else None
    record = TranscriptWriter.resume(file, HEADER, at, head)
    assert record.step == at
    for number in range(at + 1, 7):
        record.append(step(number))
    record.close()
    assert file.read_bytes() == whole


@pytest.mark.parametrize("tear", [1, 20, 150])
def test_a_torn_last_line_is_tolerated(file: Path, tear: int) -> None:
    whole = file.read_bytes()
    file.write_bytes(whole[:-tear])
    summary = check_transcript(file)
    assert summary.torn
    assert [each.step for each in summary.steps] == [1, 2, 3, 4, 5]
    record = TranscriptWriter.resume(file, HEADER, 5)
    record.append(step(6))
    record.close()
    assert file.read_bytes() == whole


def test_a_run_killed_in_its_first_line_can_begin_again(tmp_path: Path) -> None:
    (tmp_path / "t").write_bytes(b'{"format":"clears')
    record = TranscriptWriter.resume(tmp_path / "t", HEADER, 0)
    record.append(step(1))
    record.close()
    assert (tmp_path / "t").read_bytes() == written(tmp_path / "u", 1).read_bytes()


def test_lost_lines_are_an_error(file: Path) -> None:
    before = file.read_bytes()
    with pytest.raises(UserError, match=r"it ends at step 6, but the checkpoint is of step 9.*--from-step"):
        TranscriptWriter.resume(file, HEADER, 9)
    assert file.read_bytes() == before


def test_every_differing_key_is_named(file: Path) -> None:
    other = json.loads(json.dumps(HEADER))
    other["recipe"]["train"]["steps"] = 400
    other["environment"]["threads"] = 4
    del other["environment"]["torch"]
    other["environment"]["gpu"] = "some"
    with pytest.raises(UserError) as caught:
        TranscriptWriter.resume(file, other, 3)
    lines = [line.strip() for line in str(caught.value).splitlines()]
    assert lines[1:-1] == [
        'environment.gpu: (absent) -> "some"',
        "environment.threads: 2 -> 4",
        'environment.torch: "2.13.0" -> (absent)',
        "recipe.train.steps: 300 -> 400",
    ]
    assert len(check_transcript(file).steps) == 6


def test_a_number_is_not_its_float(file: Path) -> None:
    other = json.loads(json.dumps(HEADER))
    other["recipe"]["train"]["seed"] = False
    with pytest.raises(UserError, match="seed: 0 -> false"):
        TranscriptWriter.resume(file, other, 3)


def test_a_checkpoint_of_another_run_is_refused(file: Path) -> None:
    with pytest.raises(UserError, match="line 4: not the line that the checkpoint of step 3"):
        TranscriptWriter.resume(file, HEADER, 3, head="f" * 64)


def test_a_second_writer_is_refused(file: Path) -> None:
    first = TranscriptWriter.resume(file, HEADER, 6)
    with pytest.raises(UserError, match="another process is writing"):
        TranscriptWriter.resume(file, HEADER, 2)
    first.append(step(7))
    first.close()
    assert len(check_transcript(file).steps) == 7


def _edit(file: Path, line: int, old: bytes, new: bytes) -> None:
    lines = file.read_bytes().split(b"\n")
    assert old in lines[line - 1]
    lines[line - 1] = lines[line - 1].replace(old, new)
    file.write_bytes(b"\n".join(lines))


@pytest.mark.parametrize(
    ("line", "old", "new", "found_at"),
    [
        (1, b'"seed":0', b'"seed":1', 2),
        (3, b'"tokens":16384', b'"tokens":16385', 4),
        (4, b'"step":3', b'"step":4', 4),
        (5, b'"prev":"', b'"prev":"0', 5),
        (4, b"{", b"", 4),
        (4, b'"loss":"0x', b'"loss":"0y', 4),
        (1, b"clearseek-transcript-2", b"clearseek-transcript-", 1),
        (4, b'{"balance":[', b'{ "balance":[', 4),
        (4, b'"loss":"0x1', b'"loss":"0X1', 4),
    ],
)
def test_the_first_broken_line_is_named(file: Path, line: int, old: bytes, new: bytes, found_at: int) -> None:
    _edit(file, line, old, new)
    with pytest.raises(UserError, match=f"line {found_at}: "):
        check_transcript(file)


@given(st.data())
def test_any_flipped_bit_before_the_last_line_is_found(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    file = tmp_path_factory.mktemp("t") / "t"
    raw = bytearray(written(file, 3).read_bytes())
    where = data.draw(st.integers(0, raw[:-1].rindex(b"\n") - 1))
    raw[where] ^= 1 << data.draw(st.integers(0, 7))
    file.write_bytes(raw)
    with pytest.raises(UserError, match=r"line \d"):
        check_transcript(file)


def test_removed_and_swapped_lines_are_found(file: Path) -> None:
    lines = file.read_bytes().split(b"\n")
    file.write_bytes(b"\n".join(lines[:2] + lines[3:]))
    with pytest.raises(UserError, match="line 3: "):
        check_transcript(file)
    file.write_bytes(b"\n".join([*lines[:2], lines[3], lines[2], *lines[4:]]))
    with pytest.raises(UserError, match="line 3: "):
        check_transcript(file)


def test_damage_after_the_checkpoint_does_not_matter(file: Path) -> None:
    _edit(file, 6, b"tokens", b"tokenz")
    TranscriptWriter.resume(file, HEADER, 3).close()
    assert len(check_transcript(file).steps) == 3


@pytest.mark.parametrize("content", [b"", b"\n", b"{}\n", b"[]\n", b"no json\n", b"\xff\xfe\n"])
def test_other_files_are_no_transcripts(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "t").write_bytes(content)
    with pytest.raises(UserError):
        check_transcript(tmp_path / "t")


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="No such file"):
        check_transcript(tmp_path / "t")
    with pytest.raises(UserError, match="No such file"):
        TranscriptWriter.resume(tmp_path / "t", HEADER, 0)


def test_steps_must_follow_each_other(tmp_path: Path) -> None:
    record = TranscriptWriter.open(tmp_path / "t", HEADER)
    with pytest.raises(AssertionError, match="step 2 after step 0"):
        record.append(step(2))
    record.close()


def test_a_later_format_names_itself_and_what_is_read_here(file: Path) -> None:
    _edit(file, 1, b"clearseek-transcript-2", b"clearseek-transcript-3")
    with pytest.raises(OtherVersionError, match=r"clearseek-transcript-3: .*reads formats 1 and 2"):
        check_transcript(file)


def test_a_variable_that_was_set_since_is_named(tmp_path: Path) -> None:
    path = tmp_path / "transcript.jsonl"
    environment: dict[str, Any] = {"threads": 2, "switches": {}}
    TranscriptWriter.open(path, {"environment": environment}).close()
    with pytest.raises(UserError, match=r"switches\.MKL_CBWR: \(absent\) -> \"AVX2\""):
        TranscriptWriter.resume(path, {"environment": environment | {"switches": {"MKL_CBWR": "AVX2"}}}, 0)


@pytest.mark.parametrize("name", ["step", "grad_norm", "prev", "lr", "load", "weights_sha256"])
def test_a_scalar_does_not_take_a_fields_name(name: str) -> None:
    with pytest.raises(ValueError, match=f"named as fields of a step's record are: {name}"):
        StepRecord(1, {name: 1.0}, 1.0, 1)
