"""Evaluations: kept sample by sample, whatever comes between; and what they come to."""

from __future__ import annotations

import json
import math
import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from multiprocessing.context import ForkServerContext
from pathlib import Path

import pytest

from clearseek.errors import UserError
from clearseek.evaluate.answerers import Answered, Asked
from clearseek.evaluate.evaluation import StoppedError, evaluate, recorded, wanted
from clearseek.evaluate.records import read_records
from clearseek.evaluate.scores import read_scores, refuse_uneven, summary, versus
from clearseek.evaluate.statistics import exact_interval, fixed_questions, sampled_questions, wilson_interval
from clearseek.evaluate.tasks import Asking, Task, build
from tests.evaluate.scripted import Scripted, mostly, right

ASKING = Asking(questions=40)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_scores_are_those_of_the_records(tmp_path: Path) -> None:
    tasks = [build(name, ASKING) for name in ("addition", "induction")]
    index = evaluate(Scripted(mostly(0.7)), tasks, ASKING, tmp_path)
    for name in ("addition", "induction"):
        said = index.tasks[name].scores
        head, records, _ = read_records(tmp_path / f"{name}.jsonl")
        count = sum(record.output == record.answer for record in records)
        assert (said["right"], said["score"], said["questions"]) == (count, count / 40, 40)
        assert said["sampled"] == list(wilson_interval(count, 40)) and said["exact"] == list(exact_interval(count, 40))
        assert head.questions == len(records) == 40 and 10 < count < 40


def test_several_samples(tmp_path: Path) -> None:
    asking = replace(ASKING, samples=4, temperature=1.0)
    index = evaluate(Scripted(mostly(0.5)), [build("sums", asking)], asking, tmp_path)
    said = index.tasks["sums"].scores
    _, records, _ = read_records(tmp_path / "sums.jsonl")
    right = [sum(record.score or 0 for record in records if record.question == number) for number in range(40)]
    assert said["right"] == sum(right) and len(records) == 160 and len({record.seed for record in records}) == 160
    assert said["fixed"] == list(fixed_questions([int(k) for k in right], 4))
    assert said["sampled"] == list(sampled_questions([int(k) for k in right], 4))
    assert said["pass_at"]["1"] == said["score"] < said["pass_at"]["2"] < said["pass_at"]["4"]
    assert said["pass_at"]["4"] == sum(k > 0 for k in right) / 40
    with pytest.raises(UserError, match="at temperature 0 all are alike"):
        evaluate(Scripted(right_always), [build("sums", ASKING)], replace(ASKING, samples=2), tmp_path / "other")


def right_always(asked: object) -> str:
    return "1"


def test_what_never_came_is_missing_and_not_wrong(tmp_path: Path) -> None:
    lost = Scripted(lambda asked: None if asked.number % 4 == 0 else asked.question.answer)
    folder = tmp_path / "again"
    said = evaluate(lost, [build("addition", ASKING)], ASKING, folder).tasks["addition"].scores
    assert (said["questions"], said["missing"], said["score"], said["right"]) == (30, 10, 1.0, 30)
    again = Scripted(right)
    said = evaluate(again, [build("addition", ASKING)], ASKING, folder).tasks["addition"].scores
    assert (said["missing"], said["score"]) == (0, 1.0)
    assert sorted(each.number for each in again.asked) == [*range(0, 40, 4)]  # only those are asked again
    evaluate(Scripted(right), [build("addition", ASKING)], ASKING, tmp_path / "whole")
    assert contents(tmp_path / "whole") == contents(folder)


def test_nothing_at_all_came(tmp_path: Path) -> None:
    said = (
        evaluate(Scripted(lambda asked: None), [build("addition", ASKING)], ASKING, tmp_path).tasks["addition"].scores
    )
    assert said["score"] is None and said["questions"] == 0 and said["missing"] == 40


def test_a_fault_keeps_what_came(tmp_path: Path) -> None:
    def say(asked: object) -> str:
        if len(away.asked) == 14:
            raise UserError("the endpoint is gone")
        return "1"

    away = Scripted(say)
    with pytest.raises(UserError, match="is gone"):
        evaluate(away, [build("addition", ASKING)], ASKING, tmp_path)
    assert len(read_records(tmp_path / "addition.jsonl")[1]) == 13
    evaluate(Scripted(right_always), [build("addition", ASKING)], ASKING, tmp_path)
    evaluate(Scripted(right_always), [build("addition", ASKING)], ASKING, tmp_path / "whole")
    assert (tmp_path / "whole" / "addition.jsonl").read_bytes() == (tmp_path / "addition.jsonl").read_bytes()


def test_a_log_probability_that_is_no_number_is_missing() -> None:
    asking = Asking(questions=1, texts=[("t", "a line of text\n" * 99)])
    task = build("bits-per-byte:passage=64", asking)
    for wrong in (float("nan"), float("-inf")):
        found = recorded(task, wanted(task, asking)[0], Answered("", output="x", logprobs=[-1.0, wrong]))
        assert found.missing and "no number" in found.note and found.logprobs is None


def test_told_to_stop(tmp_path: Path) -> None:
    answers = Scripted(right)
    with pytest.raises(StoppedError):
        evaluate(answers, [build("addition", ASKING)], ASKING, tmp_path, stopped=lambda: len(answers.asked) >= 16)
    assert len(read_records(tmp_path / "addition.jsonl")[1]) == 16


def go_slowly(folder: Path) -> None:
    """The evaluation of :func:`test_a_kill_changes_no_byte`, at a pace at which it can be killed."""

    def say(asked: Asked) -> str:
        time.sleep(0.005)
        return mostly(0.5)(asked)

    asking = Asking(questions=100)
    evaluate(Scripted(say, at_once=4), [build(name, asking) for name in ("sums", "copying")], asking, folder)


def test_a_kill_changes_no_byte(tmp_path: Path, processes: ForkServerContext) -> None:
    """SIGKILL in the first task, at its end and in the second."""
    asking = Asking(questions=100)
    tasks = [build(name, asking) for name in ("sums", "copying")]
    evaluate(Scripted(mostly(0.5)), tasks, asking, tmp_path / "whole")
    size = sum(map(len, contents(tmp_path / "whole").values()))
    folder = tmp_path / "killed"
    folder.mkdir()
    for share in (0.01, 0.3, 0.5, 0.8):
        process = processes.Process(target=go_slowly, args=(folder,))
        process.start()
        while process.is_alive() and sum(map(len, contents(folder).values())) < share * size:
            time.sleep(0.002)
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
    evaluate(Scripted(mostly(0.5)), tasks, asking, folder)
    assert contents(folder) == contents(tmp_path / "whole")


def test_two_models(tmp_path: Path) -> None:
    asking = Asking(questions=200)
    tasks = [build(name, asking) for name in ("addition", "sums")]
    others = mostly(0.87, 7)  # right at other questions than the good one
    for name, say in (("good", mostly(0.9)), ("bad", mostly(0.6)), ("fair", others)):
        evaluate(Scripted(say, name), tasks, asking, tmp_path / name)
    good, bad, fair = (read_scores(tmp_path / name) for name in ("good", "bad", "fair"))
    assert [each.found.verdict for each in versus(good, bad)] == ["better", "better"]
    assert [each.found.verdict for each in versus(bad, good)] == ["worse", "worse"]
    assert {each.found.verdict for each in versus(good, fair)} == {"cannot be told apart"}
    assert all("times as many would be needed" in each.sentence() for each in versus(good, fair))
    twice = versus(good, bad)
    alone = versus({"sums": good["sums"]}, {"sums": bad["sums"]})
    assert twice[1].found.p >= alone[0].found.p  # Holm's


def test_models_that_were_asked_other_questions(tmp_path: Path) -> None:
    for name, asking in (("one", Asking(questions=40)), ("two", Asking(questions=30)), ("three", Asking(seed=5))):
        evaluate(Scripted(right, name), [build("addition", asking)], asking, tmp_path / name)
    one, two, three = (read_scores(tmp_path / name) for name in ("one", "two", "three"))
    with pytest.raises(UserError, match="40 and 30, of which 30 are the same"):
        versus(one, two)
    with pytest.raises(UserError, match="are the same: evaluate both with the same options"):
        versus(one, three)
    with pytest.raises(UserError, match="no task in common"):
        versus(one, {})
    evaluate(Scripted(lambda asked: None if asked.number < 15 else "1", "gaps"), [build("addition", ASKING)], ASKING,
             tmp_path / "gaps")  # fmt: skip
    (found,) = versus(one, read_scores(tmp_path / "gaps"))
    assert found.found.questions == 25 and found.alone == 15


def test_models_that_were_asked_in_other_ways(tmp_path: Path) -> None:
    for name, task, asking in (
        ("one", "addition", ASKING),
        ("longer", "addition:max_tokens=40", ASKING),
        ("warm", "addition", replace(ASKING, temperature=1.0)),
        ("chat", "addition", replace(ASKING, template="chat")),
    ):
        evaluate(Scripted(right, name), [build(task, asking)], asking, tmp_path / name)
    one, longer, warm, chat = (read_scores(tmp_path / name) for name in ("one", "longer", "warm", "chat"))
    with pytest.raises(UserError, match=r"asked in other ways \(own\)"):
        versus(one, longer)
    with pytest.raises(UserError, match=r"asked in other ways \(temperature\)"):
        versus(one, warm)
    (found,) = versus(one, chat)
    assert found.sentence().endswith("; templates: plain for the first, chat for the other")


class Reader(Scripted):
    """A model that finds a text so probable: bits of each character."""

    def __init__(self, name: str, bits: float) -> None:
        super().__init__(right, name)
        self._bits = bits

    def answer(self, task: Task, asking: Asking, asked: Sequence[Asked]) -> Iterator[Answered]:
        for each in asked:
            target = each.question.target
            bits = [-self._bits * math.log(2) * (1 + (each.number % 5) / 50)] * len(target)
            yield Answered(each.question.prompt, output=target, logprobs=bits)


def test_bits_per_byte_of_two_models_are_those_of_the_table(tmp_path: Path) -> None:
    lines = [f"{number:0{20 + number % 60}}\n" for number in range(2000)]
    text, other = "".join(lines), "".join(lines).replace("7", "8")
    found = {}
    for name, bits, read in (("good", 2.0, text), ("bad", 2.003, text), ("elsewhere", 2.0, other)):
        asking = replace(ASKING, texts=[("heldout.txt", read)])
        evaluate(Reader(name, bits), [build("bits-per-byte:passage=64", asking)], asking, tmp_path / name)
        found[name] = read_scores(tmp_path / name)
    score = {name: summary(*found[name]["bits-per-byte"])["score"] for name in found}
    (versed,) = versus(found["good"], found["bad"])
    said = versed.values()
    assert (said["first"], said["second"]) == (pytest.approx(score["good"]), pytest.approx(score["bad"]))
    assert said["interval"][0] < score["good"] - score["bad"] < said["interval"][1] < 0
    assert said["sentence"].startswith("better: by 0.0031 bits per byte with 40 questions (-0.003")
    with pytest.raises(UserError, match=r"asked in other ways \(own\)"):  # texts of one name and form
        versus(found["good"], found["elsewhere"])


def test_a_question_with_too_many_answers_is_refused(tmp_path: Path) -> None:
    evaluate(Scripted(right), [build("addition", ASKING)], ASKING, tmp_path)
    head, records, _ = read_records(tmp_path / "addition.jsonl")
    with pytest.raises(UserError, match="more or fewer than 1 answers"):
        refuse_uneven(head, [*records, records[0]])


def test_two_at_once_are_refused(tmp_path: Path) -> None:
    def say(asked: Asked) -> str:
        with pytest.raises(UserError, match="another process is writing here"):
            evaluate(Scripted(right), [build("sums", ASKING)], ASKING, tmp_path)
        return "1"

    evaluate(Scripted(say), [build("addition", Asking(questions=1))], Asking(questions=1), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["addition.jsonl", "index.json"]


def test_tasks_of_one_model_gather(tmp_path: Path) -> None:
    for name in ("addition", "sums", "addition"):
        index = evaluate(Scripted(right), [build(name, ASKING)], ASKING, tmp_path)
        assert list(index.tasks) == [name]
    assert list(read_scores(tmp_path)) == ["addition", "sums"]


def test_the_index_says_which_model(tmp_path: Path) -> None:
    evaluate(Scripted(right, "a name"), [build("addition", ASKING)], ASKING, tmp_path)
    assert json.loads((tmp_path / "index.json").read_text())["model"] == {"name": "a name"}
    before = contents(tmp_path)
    for task in ("addition", "sums"):  # another task would leave the first model's records in no index
        with pytest.raises(UserError, match='name "a name" there, "another" here'):
            evaluate(Scripted(right, "another"), [build(task, ASKING)], ASKING, tmp_path)
    assert contents(tmp_path) == before


def test_what_was_missing_is_asked_again_and_kept(tmp_path: Path) -> None:
    """Also where a fault, or Ctrl-C, ends the second attempt."""
    task = build("addition", ASKING)
    evaluate(Scripted(lambda asked: None if asked.number % 2 else right(asked)), [task], ASKING, tmp_path)

    def breaks(asked: Asked) -> str:
        if asked.number == 21:
            raise UserError("the line broke")
        return right(asked)

    def missing() -> int:
        return sum(record.missing for record in read_records(tmp_path / "addition.jsonl")[1])

    assert missing() == 20
    with pytest.raises(UserError, match="the line broke"):
        evaluate(Scripted(breaks), [task], ASKING, tmp_path)
    assert missing() == 10
    looks = iter([False, True])
    with pytest.raises(StoppedError):
        evaluate(Scripted(right, at_once=4), [task], ASKING, tmp_path, stopped=lambda: next(looks))
    assert missing() == 6
    assert evaluate(Scripted(right), [task], ASKING, tmp_path).tasks["addition"].scores["right"] == 40
    evaluate(Scripted(right), [task], ASKING, tmp_path / "at once")
    assert contents(tmp_path / "at once") == {name: (tmp_path / name).read_bytes() for name in
                                             ("addition.jsonl", "index.json")}  # fmt: skip
