"""A model as lm-evaluation-harness asks it: log-likelihoods, rolling log-likelihoods, generated text.

Tokens, truncation, windows and stop texts are those of the harness's own Hugging Face backend (`HFLM`) on the exported
model, so scores can be compared with published ones. Two habits of it are kept for that: prompts get no first token
unless `add_bos` is set, and special tokens that a text spells out become special tokens. What differs is the work: a
prefix that many requests share is read once (:mod:`clearseek.inference.likelihood`, pages of the engine), and logits
are computed for the tokens that are asked for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from lm_eval import utils
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import has_bos_prefix, normalize_gen_kwargs, postprocess_generated_text
from numpy.typing import NDArray

from clearseek.chat.render import render, template
from clearseek.data.tokenizer import BOS, EOS
from clearseek.errors import UserError
from clearseek.inference.engine import Engine
from clearseek.inference.likelihood import Counts, Text, Weighed, log_likelihoods
from clearseek.inference.model import Model, forward_of, pages_for
from clearseek.inference.request import Request, Settings
from clearseek.inference.text import Bytes
from clearseek.inference.text import Text as Written
from clearseek.kernels import PAGE

MOST_TOKENS = 256
"""Most tokens of a generated text where a task names no number, as in `HFLM`."""
_DRAWS = {"top_p", "top_k", "min_p", "repetition_penalty"}
_NEUTRAL = {"do_sample": None, "temperature": None, "use_cache": None, "num_beams": 1, "num_return_sequences": 1}
"""Other settings of generation that are understood; those with a value, at that value alone."""


@dataclass(frozen=True)
class Setup:
    """How a model is asked."""

    max_length: int | None = None
    """Most tokens of a sequence; the model's context where None."""
    add_bos: bool = False
    """Whether texts get the first-token that documents have in training. (`HFLM` calls it `add_bos_token`.)"""
    thinking: bool = False
    """Whether answers to chats begin with thoughts, which are cut off."""
    seed: int = 0
    """Seed of draws, where a task asks for samples; the n-th request draws with seed + n."""
    rows: int = 256
    """Most tokens of a step of the engine."""
    cache: int = 1 << 30
    """Most bytes of the cache, as far as it holds one sequence; 64 sequences need no more."""


class Weighing(NamedTuple):
    """A text that was weighed."""

    prompt: list[int]
    """Tokens before it, after truncation."""
    tokens: list[int]
    result: Weighed


class Generation(NamedTuple):
    """A text that was generated."""

    prompt: list[int]
    """Tokens before it, after truncation."""
    settings: Settings
    until: list[str]
    tokens: list[int]
    logprobs: list[float | None]
    """The model's own, before temperature and filters."""
    finish: str
    text: str
    """What the task gets: up to the first stop text."""


Raw = list[Weighing] | Generation
"""What the model did for one request; several texts where a text was cut into windows."""


class EngineLM(TemplateLM):  # type: ignore[misc]
    """The model behind lm-evaluation-harness's interface. What it did for each request is kept in :attr:`raw`."""

    def __init__(self, model: Model, setup: Setup | None = None) -> None:
        super().__init__()
        self.model, self.setup = model, setup or Setup()
        context = model.config.max_position_embeddings
        self.max_length = context if self.setup.max_length is None else self.setup.max_length
        if not 2 <= self.max_length <= context:
            raise UserError(f"max_length = {self.max_length}: use 2 to {context}, the model's context")
        packed, longest = model.without_drafts().packed, _pages(self.max_length)
        pages = max(longest, min(pages_for(packed, self.setup.cache), 64 * longest))
        self.forward = forward_of(packed, pages, self.setup.rows, self.max_length)
        self.bytes_of = Bytes(model.tokenizer)
        self.raw: dict[int, list[Raw]] = {}
        """By the identity of an instance, what was done for each of its repeats."""
        self.counts = Counts()
        self._known: dict[str, list[int]] = {}

    # --- Tokens -------------------------------------------------------------------------------------------------------

    @property
    def eot_token_id(self) -> int:
        return self.model.tokenizer.eos_id

    @property
    def prefix_token_id(self) -> int:
        return self.model.tokenizer.bos_id

    @property
    def tokenizer_name(self) -> str:
        return f"clearseek-{self.model.tokenizer.sha256}"

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        return template() if chat_template else None

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """The conversation as text; without a prompt for an answer, the last message stays open."""
        rendered = render(
            self.model.tokenizer, chat_history, thinking=self.setup.thinking, prompt=add_generation_prompt,
            continued=not add_generation_prompt,
        )  # fmt: skip
        return self.model.tokenizer.decode(rendered.ids)

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """Token ids of a text; `add_special_tokens` says whether the first-token comes before them."""
        ids = self._known.get(string)
        if ids is None:
            ids = self.model.tokenizer.encode_marked([string])[0]
        bos = (
            self.setup.add_bos and not has_bos_prefix(string, BOS) if add_special_tokens is None else add_special_tokens
        )
        return [self.model.tokenizer.bos_id, *ids] if bos else ids

    def _encode_all(self, texts: Sequence[str]) -> None:
        """Encode texts on all cores, for :meth:`tok_encode` to find."""
        unique = list(dict.fromkeys(texts))
        self._known = dict(zip(unique, self.model.tokenizer.encode_marked(unique), strict=True))

    # --- Log-likelihoods ----------------------------------------------------------------------------------------------

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        texts = []
        for context, continuation in (request.args for request in requests):
            if not continuation:
                raise UserError(f"{_place(requests, context)}: an empty continuation has no likelihood: leave it out")
            # the harness moves spaces at the end of a context to the continuation
            texts += [context + continuation, context.rstrip()] if context else [continuation]
        self._encode_all(texts)
        found: list[tuple[float, bool]] = super().loglikelihood(requests, disable_tqdm=True)
        for request, each in zip(requests, self._weighings, strict=True):
            self.raw.setdefault(id(request), []).append([each])
        return found

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], **_: Any
    ) -> list[tuple[float, bool]]:
        """Sums of log-probabilities of continuations, and whether each token is the likeliest."""
        longest = max((len(own) for _, _, own in requests), default=0)
        if longest > self.max_length:
            raise UserError(
                f"a continuation has {longest} tokens, and the model's context {self.max_length}: the task does not "
                "suit the model"
            )
        cut = [(context + own)[-(self.max_length + 1) :] for _, context, own in requests]
        texts = [Text(tokens, len(tokens) - len(own)) for tokens, (_, _, own) in zip(cut, requests, strict=True)]
        weighed = log_likelihoods(self.forward, texts, self.counts)
        self._weighings = [
            Weighing([*text.tokens[: text.first]], own, each)
            for text, (_, _, own), each in zip(texts, requests, weighed, strict=True)
        ]
        return [(float(each.logp.sum()), bool(each.likeliest.all())) for each in weighed]

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """Log-likelihoods of whole texts, in windows of the model's context that overlap by one token."""
        self._encode_all([request.args[0] for request in requests])
        windows: list[tuple[None, list[int], list[int]]] = []
        ends = []
        for request in requests:
            pairs = utils.get_rolling_token_windows(
                self.tok_encode(request.args[0]), self.prefix_token_id, self.max_length, context_len=1
            )
            windows += [(None, *utils.make_disjoint_window(pair)) for pair in pairs]
            ends.append(len(windows))
        sums = [total for total, _ in self._loglikelihood_tokens(windows)]
        totals, start = [], 0
        for request, end in zip(requests, ends, strict=True):
            totals.append(sum(sums[start:end]))
            self.raw.setdefault(id(request), []).append(self._weighings[start:end])
            start = end
        return totals

    # --- Generation ---------------------------------------------------------------------------------------------------

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Texts that follow prompts, up to a stop text; greedy unless the task asks for samples."""
        self._encode_all([request.args[0] for request in requests])
        asked: list[tuple[Request, _Stops]] = []
        for number, request in enumerate(requests):
            context, given = request.args
            settings, until = self._settings(given, self.setup.seed + number)
            room = self.max_length - settings.max_tokens
            if room < 1:
                raise UserError(
                    f"task {request.task_name} asks for {settings.max_tokens} tokens, and the model's context has "
                    f"{self.max_length}: set max_gen_toks to at most {self.max_length - 1}"
                )
            prompt = self.tok_encode(context)[-room:] or [self.prefix_token_id]
            stops = _Stops(self.bytes_of, until)
            asked.append((Request(prompt, settings, guide=stops), stops))
        if asked:
            longest = max(len(request.prompt) + request.settings.max_tokens for request, _ in asked)
            # so many that no one is put back; neighbours share the longest prefixes
            engine = Engine(self.forward, most_running=max(1, self.forward.page_count // _pages(longest)))
            engine.run(request for request, _ in sorted(asked, key=lambda pair: pair[0].prompt))
        return [self._written(instance, *pair) for instance, pair in zip(requests, asked, strict=True)]

    def _settings(self, given: Mapping[str, Any], seed: int) -> tuple[Settings, list[str]]:
        """Settings of a task's generation, and its stop texts.

        Raises UserError for a setting that the engine does not have.
        """
        kwargs = dict(normalize_gen_kwargs(dict(given), MOST_TOKENS))
        until, most = [*kwargs.pop("until")], kwargs.pop("max_gen_toks")
        wrong = [
            f"{name} = {value!r}"
            for name, value in kwargs.items()
            if name not in _DRAWS and not (name in _NEUTRAL and _NEUTRAL[name] in (None, value))
        ]
        if wrong:
            raise UserError(
                f"generation_kwargs: {', '.join(wrong)}: not supported: leave it out, or use {sorted(_DRAWS)}"
            )
        temperature = float(kwargs.get("temperature", 0.0)) if kwargs.get("do_sample") else 0.0
        draws = {name: kwargs[name] for name in _DRAWS & kwargs.keys()}
        stop = frozenset({self.eot_token_id})
        settings = Settings(most, temperature, seed=seed, stop_tokens=stop, logprobs=0, **draws)
        return settings, [*dict.fromkeys([*until, EOS])]

    def _written(self, instance: Instance, request: Request, stops: _Stops) -> str:
        """The text of an ended request, and its note."""
        if request.finish == "error":
            raise UserError(f"task {instance.task_name}: {request.error}")
        tokens = [chosen.token for chosen in request.answer]
        text: str = postprocess_generated_text(
            self.model.tokenizer.decode(tokens, skip_control=True), stops.until,
            "</think>" if self.setup.thinking else None,
        )  # fmt: skip
        logprobs = [chosen.logprob for chosen in request.answer]
        done = Generation(request.prompt, request.settings, stops.until, tokens, logprobs, str(request.finish), text)
        self.raw.setdefault(id(instance), []).append(done)
        return text


class _Stops:
    """Stop texts of an answer."""

    def __init__(self, bytes_of: Bytes, until: list[str]) -> None:
        self.until = until
        self._text = Written(bytes_of, until)

    def allow(self, logits_V: NDArray[np.float32]) -> NDArray[np.float32]:
        return logits_V

    def saw(self, token: int) -> bool:
        self._text.add(token)
        return self._text.stopped is not None


def _pages(tokens: int) -> int:
    return -(-tokens // PAGE)


def _place(requests: Sequence[Instance], context: str) -> str:
    """Task and document of the request with this context."""
    found = next(request for request in requests if request.args[0] == context)
    return f"task {found.task_name}, document {found.doc_id}"
