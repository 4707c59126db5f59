"""A release with evaluations: carried, stated on the card, and made again; every change of them is found."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from clearseek.audit.evidence import Grade, Row
from clearseek.data.tokenizer import Tokenizer
from clearseek.evaluate.answerers import Answered, Asked, Local
from clearseek.evaluate.check import faults
from clearseek.evaluate.evaluation import bits, evaluate, listed
from clearseek.evaluate.records import INDEX, Head, Index, Log, Record, identity_of, read_index, read_records
from clearseek.evaluate.tasks import Asking, Task, build
from clearseek.inference.model import Model
from clearseek.release.evaluations import carried
from clearseek.release.make import make_release
from clearseek.train.run import Run
from clearseek.verify import evaluations as verified
from clearseek.verify.evaluations import Again, chosen, evaluation_rows
from clearseek.verify.replay import Release, open_release
from clearseek.verify.run import verify_release
from tests.releases import compared, edit_json
from tests.verify.test_forgery import reseal

ALL = Again("n", None)
Change = Callable[[Head, list[Record]], tuple[Head, list[Record]]]


def local_of(run: Run) -> Local:
    model, _ = run.load_model()
    tokenizer = Tokenizer.load(run.tokenizer)
    packed = Model.of("run", model.config, dict(model.state_dict()), tokenizer, "F32", torch.device("cpu"))
    return Local(packed.without_drafts())


def put(folder: Path, index: Index) -> None:
    """Write an index as a forger does: in place of the one that is there."""
    (folder / INDEX).write_text(json.dumps(index.model_dump(mode="json")), encoding="utf-8")


@pytest.fixture(scope="module")
def evaluated(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A release that carries two evaluations of its run: one greedy, one of several answers to each question."""
    folder, run = tmp_path_factory.mktemp("evaluated"), Run(made.parent / "run")
    local = local_of(run)
    texts = [("heldout.txt", (run.data / "heldout.txt").read_text(encoding="utf-8"))]
    greedy, drawn = Asking(12, texts=texts), Asking(8, 3, 1.0, seed=5)
    names = ("bits-per-byte", "addition", "copying:length=4", "induction", "python:max_tokens=8")
    evaluate(local, [build(name, greedy) for name in names], greedy, folder / "greedy")
    evaluate(local, [build("addition:digits=1", drawn)], drawn, folder / "drawn")
    make_release(run, folder / "Tiny", dtype="fp32", evaluated=[folder / "greedy", folder / "drawn"])
    return folder / "Tiny"


@pytest.fixture
def release(evaluated: Path, tmp_path: Path) -> Release:
    """A copy to spoil."""
    return open_release(Path(shutil.copytree(evaluated, tmp_path / "Tiny")))


def rows(release: Release, again: Again = ALL) -> dict[str, Row]:
    return {row.id.removeprefix("verify."): row for row in evaluation_rows(release, again)}


def answers(release: Release, again: Again = ALL) -> tuple[str, str]:
    found = rows(release, again)
    return found["scores"].answer, found["records"].answer


def forge(release: Release, task: str, change: Change, folder: str = "greedy", rescored: bool = True) -> None:
    """Change a task's records and mend every hash: chain, index and, unless `rescored` is false, its scores."""
    place = release.root / "evaluation" / folder
    index = read_index(place)
    path, old = place / index.tasks[task].file, index.tasks[task].scores
    head, records, _ = read_records(path)
    head, records = change(head, records)
    path.unlink()
    log = Log(path, head)
    log.replace(records)
    made = listed(path, head, records, log.chain)
    tasks = {**index.tasks, task: made if rescored else made.model_copy(update={"scores": old})}
    put(place, index.model_copy(update={"tasks": tasks}))


def at(number: int, **changes: Any) -> Change:
    """One record with other values."""

    def change(head: Head, records: list[Record]) -> tuple[Head, list[Record]]:
        records[number] = records[number].model_copy(update=changes)
        return head, records

    return change


def headed(**changes: Any) -> Change:
    """A head with other values."""
    return lambda head, records: (head.model_copy(update=changes), records)


def elsewhere(change: Change) -> Change:
    """As `change`, of a record that says it was made on another kind of machine."""

    def both(head: Head, records: list[Record]) -> tuple[Head, list[Record]]:
        head, records = change(head, records)
        return head.model_copy(update={"environment": {**head.environment, "numba": "9"}}), records

    return both


# -- honest releases --------------------------------------------------------------------------------------------------


def test_scores_and_records_come_out_again(evaluated: Path) -> None:
    found = {row.id: row for row in verify_release(evaluated, (0, 3), "n", records=None)}
    assert {id: row.answer for id, row in found.items()} == dict.fromkeys(
        ("verify.files", "verify.complete", "verify.evaluation", "verify.scores", "verify.records"), "yes"
    )
    assert found["verify.scores"].grade == Grade.CHECKED
    assert found["verify.scores"].reason.startswith("6 tasks, ")
    assert found["verify.records"].grade == Grade.REEXECUTED
    assert found["verify.records"].reason.startswith("all of ")


def test_the_card_states_what_the_records_come_to(release: Release) -> None:
    found = compared(release.root)
    assert (found["documents.evaluation"].answer, found["documents.evaluation"].grade) == ("yes", Grade.CHECKED)
    card = release.root / "README.md"
    text = card.read_text(encoding="utf-8")
    (line,) = (line for line in text.splitlines() if line.startswith("| python | "))
    value = next(line for line in text.splitlines() if line.startswith("      name: share right of 12 questions"))
    for stated, other in ((line, line.replace("%", "%%", 1)), (value, value.replace("12", "13"))):
        assert text.count(stated) >= 1
        card.write_text(text.replace(stated, other), encoding="utf-8")
        changed = compared(release.root)["documents.evaluation"]
        assert (changed.answer, changed.grade) == ("no", Grade.CLAIMED)


def test_the_nonce_chooses_records_and_every_missing_one(evaluated: Path) -> None:
    greedy = carried(evaluated)[1]
    _, missing, _ = read_records(greedy.folder / greedy.index.tasks["induction"].file)
    assert all(record.missing for record in missing), "its prompts are longer than the model's sequences"
    assert chosen(Again("n", 1), "induction", missing) == list(range(12))
    _, records, _ = read_records(greedy.folder / greedy.index.tasks["addition"].file)
    draws = {tuple(chosen(Again(str(nonce), 3), "addition", records)) for nonce in range(40)}
    assert {len(draw) for draw in draws} == {3}
    assert {number for draw in draws for number in draw} == set(range(12))


# -- changed by who does not mend hashes ------------------------------------------------------------------------------


@pytest.mark.parametrize("old, new", [('"score": 0.0', '"score": 1.0'), ('"seed": ', '"seed": 1'),
                                      ('"prompt": "', '"prompt": "x'), ('"version": 1', '"version": 2')])  # fmt: skip
def test_a_changed_line_breaks_the_chain(release: Release, old: str, new: str) -> None:
    file = release.root / "evaluation/greedy/addition.jsonl"
    text = file.read_text(encoding="utf-8")
    assert old in text
    file.write_text(text.replace(old, new, 1), encoding="utf-8")
    assert answers(release) == ("no", "no")
    assert "addition.jsonl" in rows(release)["scores"].reason


def test_files_that_the_index_does_not_list_are_found(release: Release) -> None:
    edit_json(release.root / "evaluation/greedy/index.json", lambda index: index["tasks"].pop("addition"))
    assert "addition.jsonl: no task of index.json" in rows(release)["scores"].reason


# -- changed by who mends every hash ----------------------------------------------------------------------------------


def swapped(head: Head, records: list[Record]) -> tuple[Head, list[Record]]:
    return head, [records[1], records[0], *records[2:]]


FOUND_WITHOUT_WEIGHTS: dict[str, Change] = {
    "output": at(3, output="12", score=1.0, note="right"),
    "ids": at(3, output_ids=[35]),
    "score": at(3, score=1.0),
    "note": at(3, note="right"),
    "seed": at(3, seed=7),
    "prompt": at(3, prompt="1+1=", prompt_ids=[35, 42, 35, 47]),
    "question": at(3, name="addition 1+1="),
    "answer": at(3, answer="2"),
    "log-probabilities": at(3, logprobs=[-0.1]),
    "end": at(3, ended=True),
    "deleted": lambda head, records: (head, records[:-1]),
    "deleted first": lambda head, records: (head, records[1:]),
    "twice": lambda head, records: (head, [*records, records[-1]]),
    "swapped": swapped,
    "task's version": headed(version=2),
    "questions": headed(questions=11),
    "samples": headed(samples=2),
    "ClearSeek": lambda head, records: (
        head.model_copy(update={"environment": {**head.environment, "clearseek": "0.0.1"}}), records,
    ),
    "settings": lambda head, records: (head.model_copy(update={"settings": {**head.settings, "seed": 1}}), records),
    "missing without a reason": at(3, score=None, note="", logprobs=None),
}  # fmt: skip


@pytest.mark.parametrize("rescored", [True, False], ids=["", "scores-kept"])
@pytest.mark.parametrize("what", FOUND_WITHOUT_WEIGHTS)
def test_a_change_is_found_in_the_records_alone(release: Release, what: str, rescored: bool) -> None:
    forge(release, "addition", FOUND_WITHOUT_WEIGHTS[what], rescored=rescored)
    row = next(iter(evaluation_rows(release, ALL)))
    assert (row.id, row.answer, row.grade) == ("verify.scores", "no", Grade.CLAIMED), what


@pytest.mark.parametrize("change", [{"score": 0.75}, {"right": 3}, {"sampled": [0.0, 0.1]}, {"missing": 1}])
def test_a_changed_score_of_the_index_is_found(release: Release, change: dict[str, Any]) -> None:
    place = release.root / "evaluation/greedy"
    index = read_index(place)
    task = index.tasks["addition"]
    index.tasks["addition"] = task.model_copy(update={"scores": {**task.scores, **change}})
    put(place, index)
    assert "scores in index.json are not those of the records" in rows(release)["scores"].reason


def rewritten(tokens: Sequence[int], text: str, **more: Any) -> Change:
    """Another output, with ids, log-probabilities and score that fit it."""
    logprobs = [-0.5] * len(tokens)
    return at(3, output=text, output_ids=list(tokens), logprobs=logprobs, **more)


def forged_answer(release: Release) -> Change:
    """The right answer to an addition, in ids that give it, ended as an answer should."""
    _, records, _ = read_records(release.root / "evaluation/greedy/addition.jsonl")
    answer = records[3].answer
    ids = Tokenizer.load(release.root / "tokenizer.json").encode(answer)
    assert len(ids) < 6
    return rewritten(ids, answer, score=1.0, note="right", ended=True)


def better_text(head: Head, records: list[Record]) -> tuple[Head, list[Record]]:
    """A text that is said to be likelier, with the bits that follow."""
    logprobs = [each / 2 for each in records[3].logprobs or []]
    return at(3, logprobs=logprobs, score=bits(logprobs))(head, records)


@pytest.mark.parametrize("where", ["here", "elsewhere"])
@pytest.mark.parametrize("what", ["answer", "text"])
def test_an_answer_that_the_model_does_not_give_is_found_by_asking(release: Release, what: str, where: str) -> None:
    """Elsewhere: the forger says that another kind of machine made it, where rounding may differ."""
    change = forged_answer(release) if what == "answer" else better_text
    forge(
        release, "addition" if what == "answer" else "bits-per-byte", change if where == "here" else elsewhere(change)
    )
    found = rows(release)
    assert found["scores"].answer == "yes", found["scores"].reason
    assert (found["records"].answer, found["records"].grade) == ("no", Grade.CLAIMED)
    assert "record 4: " in found["records"].reason


def test_a_wrong_answer_that_is_called_missing_is_always_found(release: Release) -> None:
    forge(release, "addition", at(3, score=None, note="the endpoint was busy", logprobs=None))
    assert answers(release, Again("n", 1)) == ("yes", "no")


def test_rounding_on_another_machine_is_undecided_and_never_a_lie(release: Release) -> None:
    def rounded(head: Head, records: list[Record]) -> tuple[Head, list[Record]]:
        logprobs = [each * (1 - 1e-6) for each in records[3].logprobs or []]
        return at(3, logprobs=logprobs, score=bits(logprobs))(head, records)

    forge(release, "bits-per-byte", elsewhere(rounded))
    found = rows(release)
    assert (found["scores"].answer, found["records"].answer) == ("yes", "unknown")
    assert "1 came out otherwise, by no more than rounding" in found["records"].reason
    assert "numba" in found["records"].reason


def test_the_same_bits_are_made_again_whatever_the_machine(release: Release) -> None:
    forge(release, "addition", elsewhere(lambda head, records: (head, records)))
    found = rows(release)["records"]
    assert (found.answer, found.grade) == ("yes", Grade.REEXECUTED)
    assert "this machine is another (numba" in found.reason


def test_an_evaluation_of_other_weights_is_none_of_this_release(release: Release) -> None:
    place = release.root / "evaluation/drawn"
    index = read_index(place)
    model = {**index.model, "weights_sha256": "0" * 64}
    put(place, index.model_copy(update={"model": model}))
    forge(release, "addition", headed(model=identity_of(model)), "drawn")
    assert answers(release) == ("yes", "no")
    assert "other weights" in rows(release)["records"].reason


def test_what_this_machine_cannot_judge_is_undecided(release: Release, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another ClearSeek, whose task is of another version, whose source the release carries."""
    version = "0.0.1"
    archive = next((release.root / "code").iterdir())
    archive.rename(archive.with_name(f"clearseek-{version}.tar.gz"))
    other = lambda head, records: (  # noqa: E731
        head.model_copy(update={"version": 9, "environment": {**head.environment, "clearseek": version}}), records,
    )  # fmt: skip
    monkeypatch.setattr(verified, "_other_source", lambda release, each: "")
    forge(release, "addition", other)
    found = rows(release)
    assert (found["scores"].answer, found["records"].answer) == ("unknown", "unknown")
    assert "version 9 was asked" in found["scores"].reason


def test_another_pythons_grammar_makes_no_lie(release: Release) -> None:
    def older(head: Head, records: list[Record]) -> tuple[Head, list[Record]]:
        own: Any = head.settings["own"]
        return head.model_copy(update={"settings": {**head.settings, "own": {**own, "grammar": "3.7"}}}), records

    forge(release, "python", older)
    found = rows(release)
    assert (found["scores"].answer, found["records"].answer) == ("unknown", "unknown")
    assert "the grammar of Python 3.7" in found["scores"].reason


def test_the_manifest_finds_what_its_author_did_not_change(release: Release) -> None:
    forge(release, "addition", FOUND_WITHOUT_WEIGHTS["score"])
    assert {row.id: row.answer for row in verify_release(release.root, (0,))} == {"verify.files": "no"}
    reseal(release.root)
    found = {row.id: row.answer for row in verify_release(release.root, (0, 3), "n")}
    assert (found["verify.files"], found["verify.scores"]) == ("yes", "no")


# -- many -------------------------------------------------------------------------------------------------------------


class Calculator:
    """Whoever adds right."""

    model: dict[str, Any] = {"name": "calculator"}  # noqa: RUF012
    environment: dict[str, Any] = {}  # noqa: RUF012
    at_once = 5000

    def answer(self, task: Task, asking: Asking, asked: Sequence[Asked]) -> Any:
        for each in asked:
            yield Answered(each.question.prompt, output=each.question.answer)


def test_one_changed_record_among_ten_thousand_is_found(tmp_path: Path) -> None:
    asking = Asking(10_000)
    evaluate(Calculator(), [build("addition:digits=5", asking)], asking, tmp_path)
    path = tmp_path / "addition.jsonl"
    head, records, _ = read_records(path)
    assert len(records) == 10_000
    changes: dict[int, dict[str, Any]] = {
        17: {"output": "1"}, 2_345: {"score": 0.0}, 5_000: {"seed": 1}, 7_777: {"prompt": "1+1="},
        9_998: {"name": "addition 1+1="}, 9_999: {"note": "wrong"},
    }  # fmt: skip
    for number, change in changes.items():
        records[number] = records[number].model_copy(update=change)
    log = Log(path, head)
    log.replace(records)
    index = read_index(tmp_path)
    index.tasks["addition"] = listed(path, head, records, log.chain)
    put(tmp_path, index)
    found = list(faults(tmp_path))
    assert [int(fault.removeprefix(f"{path}:").partition(":")[0]) for fault in found] == [each + 2 for each in changes]
