"""Models behind an API: our own server, and servers that misbehave."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from clearseek.cli.scores import named
from clearseek.endpoint import Endpoint
from clearseek.errors import UserError
from clearseek.evaluate.answerers import Answered, Local
from clearseek.evaluate.check import faults
from clearseek.evaluate.evaluation import evaluate, wanted
from clearseek.evaluate.records import read_index, read_records
from clearseek.evaluate.remote import AWAY, NAMED, Remote
from clearseek.evaluate.scores import refuse_uneven
from clearseek.evaluate.tasks import Asking, build

TEXT = "".join(f"the quick brown fox {n}, hello world é, how are you?\n" for n in range(40))
Reply = tuple[int, Any]


@contextmanager
def api(
    reply: Callable[[int, dict[str, Any]], Reply], listed: Callable[[], Reply] = lambda: (501, b"")
) -> Iterator[Remote]:
    """A model whose server answers the n-th request by a function, and lists its models by another."""
    count = iter(range(10**6))
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                number = next(count)
            self._send(*reply(number, body))

        def do_GET(self) -> None:
            self._send(*listed())

        def _send(self, status: int, content: Any) -> None:
            raw = content if isinstance(content, bytes) else json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}/v1"
    try:
        yield opened(address)
    finally:
        server.shutdown()
        server.server_close()


def opened(address: str) -> Remote:
    """The model of a server, as a new process meets it."""
    return Remote(address, "m", Endpoint(address, "m", NAMED, seconds=5, tries=2, sleep=lambda _: None))


def solved(body: dict[str, Any]) -> str:
    return str(sum(map(int, body["prompt"].rstrip("=").split("+"))))


def said(text: Any, **more: Any) -> Reply:
    return 200, {"model": "m", "choices": [{"text": text, "finish_reason": "stop"}], **more}


ASKING = Asking(questions=24)


def test_right_answers_are_counted(tmp_path: Path) -> None:
    with api(lambda number, body: said(solved(body))) as remote:
        scores = evaluate(remote, [build("sums", ASKING)], ASKING, tmp_path).tasks["sums"].scores
    assert (scores["right"], scores["missing"]) == (24, 0)


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ((500, b"oh"), "status 500"),
        ((429, {"error": {"message": "slow down"}}), "slow down"),
        ((400, {"error": "too long"}), "too long"),
        ((200, b'{"choices": [{"te'), "not valid JSON"),
        ((200, {"choices": []}), "without choices"),
        ((200, {"choices": [{"text": None}]}), "without text"),
        ((200, {"choices": [{"text": "1", "message": 3}]}), "message that is none"),
        ((200, [1]), "must be a JSON object"),
    ],
)
def test_what_never_comes_is_missing(tmp_path: Path, fault: Reply, told: str) -> None:
    """Every fifth question fails however often it is asked."""

    def reply(number: int, body: dict[str, Any]) -> Reply:
        return fault if int(solved(body)) % 5 == 0 else said(solved(body))

    with api(reply) as remote:
        scores = evaluate(remote, [build("sums", ASKING)], ASKING, tmp_path).tasks["sums"].scores
    _, records, _ = read_records(tmp_path / "sums.jsonl")
    lost = [record for record in records if record.missing]
    assert 0 < len(lost) == scores["missing"] < 12 and scores["score"] == 1.0
    assert all(int(record.answer) % 5 == 0 and told in record.note for record in lost)


def test_an_empty_answer_is_an_answer(tmp_path: Path) -> None:
    with api(lambda number, body: said("")) as remote:
        scores = evaluate(remote, [build("sums", ASKING)], ASKING, tmp_path).tasks["sums"].scores
    assert (scores["missing"], scores["score"]) == (0, 0.0)


def test_an_endpoint_that_stays_away(tmp_path: Path) -> None:
    """After eight questions in a row without an answer; those before are kept."""
    with (
        api(lambda number, body: said("1") if number < 10 else (503, b"")) as remote,
        pytest.raises(UserError, match=f"{AWAY} questions in a row brought no answer; the last: .*status 503"),
    ):
        evaluate(remote, [build("sums", ASKING)], ASKING, tmp_path)
    _, records, _ = read_records(tmp_path / "sums.jsonl")
    assert sum(not record.missing for record in records) == 10


def test_a_refused_key_ends_at_once(tmp_path: Path) -> None:
    with (
        api(lambda number, body: (401, {"error": "no"})) as remote,
        pytest.raises(UserError, match=r"401 .*CLEARSEEK_API_KEY"),
    ):
        evaluate(remote, [build("sums", ASKING)], ASKING, tmp_path)


def test_a_model_that_changes(tmp_path: Path) -> None:
    with (
        api(lambda number, body: said("1", model="m" if number < 5 else "m-2")) as remote,
        pytest.raises(UserError, match="changed between requests, from 'm' to 'm-2'"),
    ):
        evaluate(remote, [build("sums", ASKING)], ASKING, tmp_path)


def test_a_model_that_changes_between_two_processes(tmp_path: Path) -> None:
    """The endpoint keeps its name and address, and says in its answers that it serves another model."""
    served: list[str | None] = ["m-1"]

    def reply(number: int, body: dict[str, Any]) -> Reply:
        return said(solved(body), model=served[-1]) if number != 10 else (401, {"error": "closed"})

    first, both = [build("sums", ASKING)], [build(name, ASKING) for name in ("sums", "addition")]
    with api(reply) as remote:
        with pytest.raises(UserError, match="401"):
            evaluate(remote, first, ASKING, tmp_path)
        before = (tmp_path / "sums.jsonl").read_bytes()
        served.append("m-2")
        address = remote.model["address"]
        with pytest.raises(UserError, match="of the model 'm-1', as the endpoint said, and now it says 'm-2'"):
            evaluate(opened(address), first, ASKING, tmp_path)  # a task that goes on
        assert (tmp_path / "sums.jsonl").read_bytes() == before
        served.append("m-1")
        evaluate(opened(address), first, ASKING, tmp_path)
        served.append("m-2")
        with pytest.raises(UserError, match="let it serve the first one again, or give another --out"):
            evaluate(opened(address), both, ASKING, tmp_path)  # another task of the same folder
        served.append(None)
        evaluate(opened(address), both, ASKING, tmp_path)
    (head, records, _), (_, others, _) = (read_records(tmp_path / f"{name}.jsonl") for name in ("sums", "addition"))
    assert head.model["listed"] is None and {each.served for each in records} == {"m-1"}
    assert {each.served for each in others} == {""}, "it said nothing, and that is recorded"
    assert named(tmp_path) == "m, served as m-1"
    mixed = [records[0].model_copy(update={"served": "m-2"}), *records[1:]]
    with pytest.raises(UserError, match="answers of several models, as the endpoint said: 'm-1', 'm-2'"):
        refuse_uneven(head, mixed)


def test_a_list_that_names_another_model(tmp_path: Path) -> None:
    """The same name and address; vLLM's path of the weights, or ClearSeek's hash of them, is another."""
    listed: dict[str, Any] = {"id": "m", "owned_by": "vllm", "root": "/models/one", "created": 1, "parent": None}
    with api(lambda number, body: said(solved(body)), lambda: (200, {"data": [{"id": "n"}, listed]})) as remote:
        evaluate(remote, [build("sums", ASKING)], ASKING, tmp_path)
        assert remote.model["listed"] == {"owned_by": "vllm", "root": "/models/one"}
        listed["created"] = 2  # when it was asked
        address = remote.model["address"]
        evaluate(opened(address), [build("addition", ASKING)], ASKING, tmp_path)
        listed["root"] = "/models/two"
        with pytest.raises(UserError, match=r'another model: root "/models/one" there, "/models/two" here'):
            evaluate(opened(address), [build("copying", ASKING)], ASKING, tmp_path)


FORBIDDEN: Reply = (403, {"error": "not for you"})
ONE, TWO = ({"owned_by": "vllm", "root": f"/models/{name}"} for name in ("one", "two"))


def a_list(said: dict[str, str] | None) -> Reply:
    return FORBIDDEN if said is None else (200, {"data": [{"id": "m", **said}]})


@pytest.mark.parametrize(
    ("first", "second", "known"),
    [
        (ONE, None, ONE),
        (None, ONE, ONE),
        ({"owned_by": "vllm"}, ONE, ONE),
        (ONE, {"owned_by": "vllm"}, ONE),
        ({"root": "/models/one"}, {"owned_by": "vllm"}, ONE),
    ],
)
def test_a_list_that_comes_or_goes(
    tmp_path: Path, first: dict[str, str] | None, second: dict[str, str] | None, known: dict[str, str]
) -> None:
    """What only one list says is no other model: a task goes on, its file as it was, and nothing is forgotten."""
    lists, whole = [first], tmp_path / "whole"

    def reply(number: int, body: dict[str, Any]) -> Reply:
        return said(solved(body)) if number != 34 else (401, {"error": "closed"})

    sums, addition = build("sums", ASKING), build("addition", ASKING)
    with api(reply, lambda: a_list(lists[-1])) as remote:
        address = remote.model["address"]
        evaluate(remote, [sums], ASKING, tmp_path)
        with pytest.raises(UserError, match="401"):
            evaluate(remote, [addition], ASKING, tmp_path)  # a head without an entry in the index
        before, sums_before = ((tmp_path / f"{name}.jsonl").read_bytes() for name in ("addition", "sums"))
        lists.append(second)
        evaluate(opened(address), [sums, addition], ASKING, tmp_path)
        assert (tmp_path / "sums.jsonl").read_bytes() == sums_before
        assert (tmp_path / "addition.jsonl").read_bytes().startswith(before) and before
        assert read_index(tmp_path).model["listed"] == known and list(faults(tmp_path)) == []
        lists.append(first)
        evaluate(opened(address), [sums, addition], ASKING, whole)
        assert (whole / "addition.jsonl").read_bytes() == (tmp_path / "addition.jsonl").read_bytes()
        lists.append(TWO)
        index = (tmp_path / "index.json").read_bytes()
        with pytest.raises(UserError, match='another model: root "/models/one" there, "/models/two" here: give'):
            evaluate(opened(address), [build("copying", ASKING)], ASKING, tmp_path)
        assert (tmp_path / "index.json").read_bytes() == index


def test_an_index_from_before_has_no_list(tmp_path: Path) -> None:
    """Nor has the head; another stated key is still another model."""
    with api(lambda number, body: said(solved(body)), lambda: a_list(ONE)) as remote:
        old = {key: value for key, value in remote.model.items() if key != "listed"}
        before, task = opened(remote.model["address"]), build("sums", ASKING)
        before.model = old
        evaluate(before, [task], ASKING, tmp_path)
        content = (tmp_path / "sums.jsonl").read_bytes()
        assert b"listed" not in content
        evaluate(remote, [task], ASKING, tmp_path)
        assert (tmp_path / "sums.jsonl").read_bytes() == content and list(faults(tmp_path)) == []
        assert read_index(tmp_path).model["listed"] == ONE
        remote.model["name"] = "other"
        with pytest.raises(UserError, match='another model: name "m" there, "other" here: give'):
            evaluate(remote, [task], ASKING, tmp_path)
        (tmp_path / "index.json").unlink()
        with pytest.raises(UserError, match=r'asked otherwise \(name "m" there, "other" here\): give'):
            evaluate(remote, [task], ASKING, tmp_path)


def test_a_list_that_hangs_is_asked_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, go_on = [], threading.Event()

    def listed() -> Reply:
        asked.append(1)
        go_on.wait(20)
        return 200, {"data": []}

    monkeypatch.setattr("clearseek.evaluate.remote._LIST_SECONDS", 0.2)
    with api(lambda number, body: said("1"), listed) as remote:
        go_on.set()
        assert remote.model["listed"] is None and len(asked) == 1


@pytest.mark.parametrize("listed", [(404, b""), (200, {"data": 3}), (200, {"data": [3, {"id": "n"}]}), (200, b"no")])
def test_a_list_that_says_nothing(listed: Reply) -> None:
    with api(lambda number, body: said("1"), lambda: listed) as remote:
        assert remote.model["listed"] is None


def weighed(prompt: str, logprob: Any = -1.0) -> Reply:
    """An answer that echoes its prompt, a token a character."""
    told = {"text_offset": [*range(len(prompt) + 1)], "token_logprobs": [None, *[logprob] * len(prompt)]}
    return 200, {"model": "m", "choices": [{"text": prompt + "x", "logprobs": told}]}


def test_bits_of_an_echo(tmp_path: Path) -> None:
    asking = Asking(questions=5, texts=[("t", TEXT)])
    task = build("bits-per-byte:passage=64", asking)
    with api(lambda number, body: weighed(body["prompt"])) as remote:
        for asked, found in zip(wanted(task, asking), remote.answer(task, asking, wanted(task, asking)), strict=True):
            assert found.logprobs == [-1.0] * len(asked.question.target) and found.output == asked.question.target
    with api(lambda number, body: said("x")) as remote, pytest.raises(UserError, match="no log-probabilities"):
        evaluate(remote, [task], asking, tmp_path)
    for wrong in (float("nan"), "a", 1.0, None, True):
        with api(lambda number, body, wrong=wrong: weighed(body["prompt"], wrong)) as remote:  # type: ignore[misc]
            found = list(remote.answer(task, asking, wanted(task, asking)))
            assert all("log-probability that is none" in each.missing or "not valid" in each.missing for each in found)


def test_an_answer_that_is_longer_than_was_asked_for_is_missing(tmp_path: Path) -> None:
    """Kept, 256 of them would fill the memory, and a line of the records' file have no end."""
    with api(lambda number, body: said("1" * 10**6 if number % 5 == 0 else solved(body))) as remote:
        scores = evaluate(remote, [build("sums", ASKING)], ASKING, tmp_path).tasks["sums"].scores
    _, records, _ = read_records(tmp_path / "sums.jsonl")
    assert scores["missing"] == 5 and all("1,000,000 characters" in each.note for each in records if each.missing)


def test_a_token_across_the_border_counts(tmp_path: Path) -> None:
    """Such as a line's end with the next line's spaces: left out, the text behind it would be too cheap."""

    def reply(number: int, body: dict[str, Any]) -> Reply:
        _, answer = weighed(body["prompt"])
        told = answer["choices"][0]["logprobs"]
        told["text_offset"], told["token_logprobs"] = told["text_offset"][::2], told["token_logprobs"][::2]
        return 200, answer

    asking = Asking(questions=20, texts=[("t", TEXT)])
    task = build("bits-per-byte:passage=64", asking)
    with api(reply) as remote:
        every = wanted(task, asking)
        for asked, found in zip(every, remote.answer(task, asking, every), strict=True):
            begins, size = len(asked.question.prompt), len(asked.question.target)
            assert found.logprobs == [-1.0] * ((begins + size + 1) // 2 - begins // 2)
    for places in ([*range(3, 900)], [0, 5, 4], [0, 1.5, 2], [0, True, 2]):  # of bytes, say, or no places
        told = {"text_offset": places, "token_logprobs": [-1.0] * len(places)}
        choice = {"text": "x", "logprobs": told}
        with api(lambda number, body, choice=choice: (200, {"choices": [choice]})) as remote:  # type: ignore[misc]
            found = next(iter(remote.answer(task, asking, every[:1])))
            assert "places that are none" in found.missing


def test_our_own_server_answers_as_the_engine_does() -> None:
    from tests.serve.served import serving, tiny_model

    model = tiny_model()
    asking = Asking(questions=6, texts=[("t", TEXT)])
    with serving(model) as served:
        remote = Remote(served.url + "/v1")
        assert remote.model["listed"] == {"owned_by": "clearseek", "weights_sha256": model.weights_sha256}
        for name, chat in (("sums", asking), ("copying", asking), ("sums", Asking(questions=4, template="chat"))):
            task = build(name, chat)
            ours = list(Local(model.without_drafts()).answer(task, chat, wanted(task, chat)))
            theirs = list(remote.answer(task, chat, wanted(task, chat)))
            # A server tells thoughts apart and leaves their marks out; a record keeps what was written.
            unmarked = [[(each.output.replace("</think>", ""), each.ended) for each in both] for both in (ours, theirs)]
            assert unmarked[0] == unmarked[1]
        task = build("bits-per-byte:passage=64", asking)
        ours = list(Local(model).answer(task, asking, wanted(task, asking)))
        theirs = list(remote.answer(task, asking, wanted(task, asking)))
        for one, other in zip(ours, theirs, strict=True):
            assert sum(logprobs(one)) == pytest.approx(sum(logprobs(other)), rel=0.05)  # tokens at the border differ


def logprobs(found: Answered) -> list[float]:
    assert found.logprobs is not None
    return found.logprobs
