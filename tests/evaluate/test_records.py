"""Records: every change is found, and a torn file goes on to the same bytes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clearseek.errors import UserError
from clearseek.evaluate.records import Head, Log, Record, file_name, read_index, read_records

HEAD = Head(
    task="addition", version=1, settings={"seed": 3, "own": {"digits": 2}}, model={"name": "m"},
    environment={"sums": "loops-1"}, questions=6,
)  # fmt: skip
ZERO = "0" * 64
RECORDS = [
    Record(question=n, name=f"addition {n}+{n}=", prompt=f"{n}+{n}=", prompt_ids=[0, n], output=str(2 * n),
           output_ids=[n], logprobs=[-0.1 * n], seed=n, answer=str(2 * n), score=float(n != 3), note="right")
    for n in range(6)
]  # fmt: skip


def written(path: Path) -> bytes:
    Log(path, HEAD).add(RECORDS)
    return path.read_bytes()


def test_what_was_written_is_read(tmp_path: Path) -> None:
    written(tmp_path / "a.jsonl")
    head, records, chain = read_records(tmp_path / "a.jsonl")
    assert head == HEAD and records == RECORDS
    lines = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert chain == lines[-1]["sha256"]
    assert [line["before"] for line in lines[1:]] == [line["sha256"] for line in lines[:-1]]


texts = st.text(st.characters(codec="utf-8"))
numbers = st.floats(allow_nan=False, allow_infinity=False)


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    texts,
    st.lists(st.floats(allow_nan=False, allow_infinity=False), max_size=4),
    st.integers(0, 2**63 - 1),
    st.booleans(),
)
def test_any_text_and_number_comes_back(
    tmp_path: Path, text: str, logprobs: list[float], seed: int, ended: bool
) -> None:
    path = tmp_path / "any.jsonl"
    path.unlink(missing_ok=True)
    record = Record(
        question=0, name=text, prompt=text, output=text, logprobs=logprobs, seed=seed, ended=ended, score=0.5
    )
    Log(path, HEAD).add([record])
    assert read_records(path)[1] == [record]


def test_every_changed_byte_is_found(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    content = written(path)
    for place in range(0, len(content), 7):
        changed = bytearray(content)
        changed[place] ^= 1
        path.write_bytes(changed)
        with pytest.raises(UserError, match=r"a\.jsonl"):
            read_records(path)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda lines: lines[:3] + lines[4:], 4),
        (lambda lines: [*lines[:2], lines[3], lines[2], *lines[4:]], 3),
        (lambda lines: [*lines[:2], lines[2], lines[2], *lines[3:]], 4),
        (lambda lines: lines[1:], 1),
        (lambda lines: [*lines[:-1], lines[-1][:-1]], 7),
        (lambda lines: [lines[0], "[]\n"], 2),
        (lambda lines: [lines[0], "{}\n"], 2),
    ],
)
def test_lines_that_are_left_out_or_moved(tmp_path: Path, change: Any, line: int) -> None:
    path = tmp_path / "a.jsonl"
    lines = written(path).decode().splitlines(keepends=True)
    path.write_text("".join(change(lines)))
    with pytest.raises(UserError, match=rf"a\.jsonl:{line}\b"):
        read_records(path)


def test_a_torn_file_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    whole = written(tmp_path / "whole.jsonl")
    path = tmp_path / "torn.jsonl"
    for cut in [*range(0, len(whole), 97), len(whole) - 1, len(whole)]:
        path.write_bytes(whole[:cut])
        log = Log(path, HEAD)
        log.add(RECORDS[len(log.records) :])
        assert path.read_bytes() == whole
    log.replace(RECORDS[:2])
    log.add(RECORDS[2:])
    assert path.read_bytes() == whole


def test_another_evaluation_is_refused_and_left_alone(tmp_path: Path) -> None:
    content = written(tmp_path / "a.jsonl")
    for changed, named in (
        ({"settings": {"seed": 4, "own": {"digits": 2}}}, "seed 3 there, 4 here"),
        ({"model": {"name": "other"}}, 'name "m" there, "other" here'),
        ({"version": 2}, "version"),
    ):
        with pytest.raises(UserError, match=named):
            Log(tmp_path / "a.jsonl", HEAD.model_copy(update=changed))
    assert (tmp_path / "a.jsonl").read_bytes() == content


def test_file_names_stay_in_the_folder() -> None:
    assert file_name("bits-per-byte") == "bits-per-byte.jsonl"
    odd = ["../../etc/passwd", "a/b", "a\\b", "a b", "harness:arc_easy", "harness-arc_easy", "é", "x" * 300]
    names = [file_name(each) for each in odd]
    assert len({*names}) == len(odd)
    assert all(Path(name).name == name and len(name) < 120 for name in names)


def test_files_that_are_too_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(tmp_path / "a.jsonl")
    monkeypatch.setattr("clearseek.evaluate.records.LONGEST_FILE", 1 << 10)
    with pytest.raises(UserError, match=r"a\.jsonl: [\d,]+ bytes"):
        read_records(tmp_path / "a.jsonl")


def test_an_index_that_is_none(tmp_path: Path) -> None:
    named, listed = {"name": "m"}, {"file": "../b", "sha256": ZERO, "chain": ZERO, "scores": {}}
    nameless = r"index\.json: model: its name must be stated, as a text: evaluate again"
    for content, told in (
        ("", "not valid JSON"), ("{}", "model"),
        (json.dumps({"model": named, "tasks": {"a": {"file": "../b"}}}), "tasks"),
        (json.dumps({"model": named, "tasks": {"a": listed}}), "it must be a.jsonl"),
        (json.dumps({"model": {"address": "http://here/v1"}, "tasks": {}}), nameless),
        (json.dumps({"model": {"name": 3, "weights_sha256": ZERO}, "tasks": {}}), nameless),
    ):  # fmt: skip
        (tmp_path / "index.json").write_text(content)
        with pytest.raises(UserError, match=told):
            read_index(tmp_path)
    (tmp_path / "index.json").unlink()
    with pytest.raises(UserError, match=r"index\.json"):
        read_index(tmp_path)


def test_a_head_without_a_name(tmp_path: Path) -> None:
    """Weights are who they are by their hash; a model behind an API is known by its name."""
    path = tmp_path / "a.jsonl"
    Log(path, HEAD.model_copy(update={"model": {"weights_sha256": ZERO}}))
    assert read_records(path)[0].model == {"weights_sha256": ZERO}
    for model in ({"address": "http://here/v1"}, {"name": None}, {"name": 3, "weights_sha256": ZERO}):
        path.unlink()
        Log(path, HEAD.model_copy(update={"model": model}))
        with pytest.raises(UserError, match=r"jsonl:1: model: its name must be stated, as a text"):
            read_records(path)
