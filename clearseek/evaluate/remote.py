"""A model behind an OpenAI-compatible API, of which nothing is trusted (:mod:`clearseek.endpoint`).

What does not come after some tries is *missing*, never wrong. An endpoint that stays away, or whose model changes in
the middle, ends the evaluation; what came is kept. What the endpoint says it serves is recorded, so that an evaluation
does not go on with another model: of its list of models in the head, of each answer beside it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any, Final

from clearseek.endpoint import Endpoint, Named, NoAnswerError
from clearseek.errors import UserError
from clearseek.evaluate.answerers import Answered, Asked
from clearseek.evaluate.tasks import Asking, Task

NAMED: Final = Named("MODEL", "--model-name", "CLEARSEEK_API_KEY")
AT_ONCE: Final = 4
"""Requests at the same time."""
AWAY: Final = 8
"""Requests in a row that bring no answer before the endpoint is given up."""
SECONDS: Final = 120.0
TRIES: Final = 4
_LIST_SECONDS: Final = 10.0
"""Most seconds of the list of models, which is asked for once: an evaluation goes on without it."""
_SAID: Final = ("owned_by", "root", "parent", "weights_sha256")
"""What is recorded of a model in an endpoint's list; `root` and `parent` are vLLM's, the last is ClearSeek's."""
_LONGEST_NAME: Final = 300
_CHARACTERS: Final = 256
"""Most characters that a token is taken to have; a longer answer is of more tokens than were asked for."""


class Remote:
    """A model behind an API."""

    at_once = 2 * AT_ONCE

    def __init__(self, address: str, name: str = "", endpoint: Endpoint | None = None) -> None:
        """Raises UserError where the address is none, or nothing answers there."""
        self._endpoint = endpoint or Endpoint(address, name, NAMED, seconds=SECONDS, tries=TRIES)
        self.model: dict[str, Any] = {
            "name": self._endpoint.model, "address": self._endpoint.address, "listed": _listed(self._endpoint),
        }  # fmt: skip
        self.environment: dict[str, Any] = {"sums": "unknown: behind an API"}
        self._served: str | None = None
        self._away = 0

    def answer(self, task: Task, asking: Asking, asked: Sequence[Asked]) -> Iterator[Answered]:
        """The answers, in order."""
        with ThreadPoolExecutor(AT_ONCE) as pool:
            one = self._read if task.reads else self._written
            for found in pool.map(lambda each: self._careful(one, task, asking, each), asked):
                self._away = self._away + 1 if found.missing else 0
                if self._away >= AWAY:
                    pool.shutdown(cancel_futures=True)
                    raise UserError(
                        f"{AWAY} questions in a row brought no answer; the last: {found.missing}"
                        + ("; if the texts are too long for it: bits-per-byte:passage=128" if task.reads else "")
                    )
                yield found

    def _careful(self, one: Any, task: Task, asking: Asking, each: Asked) -> Answered:
        prompt = each.question.chat if asking.template == "chat" and not task.reads else each.question.prompt
        try:
            found: Answered = one(task, asking, each, prompt)
            return found
        except NoAnswerError as error:
            return Answered(prompt, missing=str(error))

    def _written(self, task: Task, asking: Asking, each: Asked, prompt: str) -> Answered:
        chat = asking.template == "chat"
        path = "/chat/completions" if chat else "/completions"
        body: dict[str, Any] = {
            "model": self._endpoint.model, "max_tokens": task.max_tokens, "temperature": asking.temperature,
            "seed": each.seed, "n": 1,
        }  # fmt: skip
        body |= {"messages": [{"role": "user", "content": prompt}]} if chat else {"prompt": prompt}
        body |= {"stop": list(task.stops[:4])} if task.stops else {}  # OpenAI's API takes four
        choice, served = self._choice(path, body)
        text = choice.get("message", {}).get("content") if chat else choice.get("text")
        if not isinstance(text, str):
            raise NoAnswerError(f"{self._endpoint.address}{path}: an answer without text")
        if len(text) > _CHARACTERS * (task.max_tokens + 16):
            raise NoAnswerError(
                f"{self._endpoint.address}{path}: {len(text):,} characters, more than {task.max_tokens:,} tokens have"
            )
        found = [place for stop in task.stops if (place := text.find(stop)) >= 0]
        text = text[: min(found)] if found else text
        return Answered(prompt, output=text, ended=bool(found) or choice.get("finish_reason") == "stop",
                        served=served)  # fmt: skip

    def _read(self, task: Task, asking: Asking, each: Asked, prompt: str) -> Answered:
        """Log-probabilities of the target, from an endpoint that echoes its prompt with them."""
        target, text = each.question.target, prompt + each.question.target
        choice, served = self._choice("/completions", {
            "model": self._endpoint.model, "prompt": text, "max_tokens": 1, "temperature": 0, "echo": True,
            "logprobs": 1, "n": 1,
        })  # fmt: skip
        told = choice.get("logprobs")
        if not isinstance(told, dict) or not told.get("token_logprobs"):
            raise UserError(
                f"{self._endpoint.address}/completions: gives no log-probabilities of its prompt (echo with logprobs), "
                f"which {task.name} needs: leave {task.name} out"
            )
        places, logprobs = told.get("text_offset"), told["token_logprobs"]
        if not isinstance(places, list) or not isinstance(logprobs, list) or len(places) != len(logprobs):
            raise NoAnswerError(f"{self._endpoint.address}/completions: log-probabilities without their places")
        if not _is_order(places) or sum(place >= len(text) for place in places) > 1:  # of what it wrote, one token
            raise NoAnswerError(
                f"{self._endpoint.address}/completions: places that are none of its prompt's characters"
            )
        # A token that begins in the prompt and reaches into the target counts: half of one has no probability.
        kept = [value for place, end, value in zip(places, [*places[1:], len(text)], logprobs, strict=True)
                if max(place, end - 1) >= len(prompt) and place < len(text)]  # fmt: skip
        if (
            not kept
            or len(kept) > len(target.encode()) + 1
            or not all(type(value) in (int, float) and math.isfinite(value) and value <= 0 for value in kept)
        ):
            raise NoAnswerError(f"{self._endpoint.address}/completions: a log-probability that is none")
        return Answered(prompt, output=target, logprobs=[float(value) for value in kept], served=served)

    def _choice(self, path: str, body: dict[str, Any]) -> tuple[dict[str, Any], str]:
        """An answer's only choice, and the model that it says it is of."""
        answer = self._endpoint.send(path, body)
        served = answer.get("model")
        if isinstance(served, str):
            self._served = self._served or served
            if served != self._served:
                raise UserError(
                    f"{self._endpoint.address}: the model changed between requests, from {self._served!r:.80} to "
                    f"{served!r:.80}: evaluate one of them"
                )
        choices = answer.get("choices")
        if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
            raise NoAnswerError(f"{self._endpoint.address}{path}: an answer without choices")
        choice: dict[str, Any] = choices[0]
        if not isinstance(choice.get("message", {}), dict):
            raise NoAnswerError(f"{self._endpoint.address}{path}: a message that is none")
        return choice, self._endpoint.hidden(served)[:_LONGEST_NAME] if isinstance(served, str) else ""


def _listed(endpoint: Endpoint) -> dict[str, str] | None:
    """What an endpoint's list of models says of its model; None where it has no list, or the model is not in it.

    Not when it was `created`: ClearSeek says when its server started, and vLLM and llama.cpp when they were asked.
    """
    try:
        listed = endpoint.send("/models", None, seconds=_LIST_SECONDS, tries=1).get("data")
    except UserError:  # a list that cannot be had
        return None
    for each in listed if isinstance(listed, list) else ():
        if isinstance(each, dict) and each.get("id") == endpoint.model:
            said = {name: each[name] for name in _SAID if isinstance(each.get(name), str)}
            return {name: endpoint.hidden(value)[:_LONGEST_NAME] for name, value in said.items()}
    return None


def _is_order(places: list[Any]) -> bool:
    """Whether places of tokens are whole numbers that never fall."""
    return all(type(place) is int and place >= 0 for place in places) and all(a <= b for a, b in pairwise(places))
