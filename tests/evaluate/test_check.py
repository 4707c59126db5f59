"""One change among many records is found, also by whoever does not trust the hashes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from clearseek.errors import UserError
from clearseek.evaluate.check import differences, faults
from clearseek.evaluate.evaluation import evaluate, listed
from clearseek.evaluate.records import Head, Log, Record, read_index, read_records, write_index
from clearseek.evaluate.tasks import Asking, build
from tests.evaluate.scripted import Scripted, mostly

ASKING = Asking(questions=250, samples=4, temperature=1.0)


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A thousand records."""
    folder = tmp_path_factory.mktemp("many")
    evaluate(Scripted(mostly(0.5), at_once=1000), [build("sums", ASKING)], ASKING, folder)
    return folder


def forged(source: Path, folder: Path, change: Callable[[Head, list[Record]], tuple[Head, list[Record]]]) -> Path:
    """The evaluation with a change after which every hash was made anew, as a forger would."""
    head, records, _ = read_records(source / "sums.jsonl")
    head, records = change(head, records)
    log = Log(folder / "sums.jsonl", head)
    log.add(records)
    index = read_index(source)
    entry = listed(log.path, head, records, log.chain)
    write_index(folder, index.model_copy(update={"tasks": {"sums": entry}, "model": head.model}))
    return folder


def test_nothing_is_wrong_with_what_was_made(many: Path) -> None:
    assert list(faults(many)) == []


def one(place: int, **changed: Any) -> Callable[[Head, list[Record]], tuple[Head, list[Record]]]:
    """A change of the first right record from a place on."""

    def change(head: Head, records: list[Record]) -> tuple[Head, list[Record]]:
        right = next(number for number in range(place, len(records)) if records[number].score == 1.0)
        return changed_at(right, head, records, **changed)

    return change


def changed_at(place: int, head: Head, records: list[Record], **changed: Any) -> tuple[Head, list[Record]]:
    return head, [*records[:place], records[place].model_copy(update=changed), *records[place + 1 :]]


def asked_for(head: Head, questions: int) -> Head:
    return head.model_copy(update={"settings": head.settings | {"questions": questions}})


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (one(701, output="1"), "where the output has"),
        (one(701, output=""), "where the output has"),
        (one(701, score=0.25), "where the output has"),
        (one(701, note="wrong form"), "where the output has"),
        (one(701, ended=False), "where the output has"),
        (one(701, seed=12), "seed 12, where"),
        (one(701, prompt="1+1+1="), "another prompt"),
        (one(701, answer="3"), "is another one"),
        (one(701, name="sums 1+1+1="), "is another one"),
        (one(701, question=3), "is another one"),
        (one(701, sample=9), "is another one"),
        (lambda head, records: (head, records[:-1]), "999 records of 1,000"),
        (lambda head, records: (head, [*records[:10], records[11], records[10], *records[12:]]), "is another one"),
        (lambda head, records: (head.model_copy(update={"version": 2}), records), "version 2 was asked"),
        (lambda head, records: (head.model_copy(update={"settings": head.settings | {"seed": 1}}), records), "another"),
        (lambda head, records: (head.model_copy(update={"questions": 249}), records), "1,000 records of 996"),
        (lambda head, records: (asked_for(head, 2**62), records), "settings that are not whole: 4,611"),
        (lambda head, records: (head.model_copy(update={"questions": 2**62}), records), "1,000 records of 18,446"),
        (lambda head, records: (head.model_copy(update={"task": "no-such"}), records), "no task 'no-such'"),
    ],
)
def test_a_forger_is_found(many: Path, tmp_path: Path, change: Any, told: str) -> None:
    found = list(faults(forged(many, tmp_path, change)))
    assert any(told in what for what in found)


@pytest.mark.parametrize("key", ["output", "score", "seed", "prompt", "note", "before", "sha256"])
def test_a_changed_line_is_found_by_its_hash(many: Path, tmp_path: Path, key: str) -> None:
    lines = (many / "sums.jsonl").read_text().splitlines()
    record = json.loads(lines[500])
    record[key] = 1.0 - record[key] if key == "score" else record[key] + 1 if key == "seed" else "f" * 64
    lines[500] = json.dumps(record, ensure_ascii=False)
    (tmp_path / "sums.jsonl").write_text("\n".join(lines) + "\n")
    (tmp_path / "index.json").write_bytes((many / "index.json").read_bytes())
    assert any("sums.jsonl:501" in what for what in faults(tmp_path))


def test_a_changed_index_is_found(many: Path, tmp_path: Path) -> None:
    (tmp_path / "sums.jsonl").write_bytes((many / "sums.jsonl").read_bytes())
    index = json.loads((many / "index.json").read_text())
    index["tasks"]["sums"]["scores"]["score"] += 0.01
    (tmp_path / "index.json").write_text(json.dumps(index))
    assert list(faults(tmp_path)) == [f"{tmp_path / 'sums.jsonl'}: scores in index.json are not those of the records"]
    index["tasks"]["sums"]["sha256"] = "0" * 64
    (tmp_path / "index.json").write_text(json.dumps(index))
    assert "another file than index.json says" in next(faults(tmp_path))


def test_a_device_in_the_place_of_records(many: Path, tmp_path: Path) -> None:
    """A link to a device has no end, and a pipe no beginning."""
    (tmp_path / "index.json").write_bytes((many / "index.json").read_bytes())
    (tmp_path / "sums.jsonl").symlink_to("/dev/zero")
    assert list(faults(tmp_path)) == [f"{tmp_path / 'sums.jsonl'}: no such file: evaluate again"]
    with pytest.raises(UserError, match="a device or a folder"):
        read_records(tmp_path / "sums.jsonl")


def test_an_output_that_the_model_did_not_write(many: Path, tmp_path: Path) -> None:
    """A right answer in place of a wrong one, scores and hashes and all: only asking again finds it."""

    def better(head: Head, records: list[Record]) -> tuple[Head, list[Record]]:
        place = next(number for number in range(300, 400) if records[number].score == 0.0)
        return changed_at(place, head, records, output=records[place].answer, score=1.0, note="right")

    folder = forged(many, tmp_path, better)
    assert list(faults(folder)) == []
    head, records, _ = read_records(folder / "sums.jsonl")
    (found,) = differences(Scripted(mostly(0.5)), head, records, range(300, 400))
    assert records[found[0]].score == 1.0 and found[1].output == "no"
    assert not list(differences(Scripted(mostly(0.5)), head, records, range(500, 900)))


def test_another_wrong_output_is_another_record(many: Path) -> None:
    """With the same score: asking again compares all that was written."""
    head, records, _ = read_records(many / "sums.jsonl")
    place = next(number for number, record in enumerate(records) if record.score == 0.0)
    changed = [*records[:place], records[place].model_copy(update={"output": "none"}), *records[place + 1 :]]
    assert [number for number, _ in differences(Scripted(mostly(0.5)), head, changed, [place])] == [place]
