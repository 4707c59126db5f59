"""What a run that modifies another model adds to a recipe: the parent, and one of `sft`, `grpo` and `distil`.

A recipe with ``[parent]`` has no ``[model]``: the dimensions are the parent's. A method's own defaults for the common
tables (:data:`DEFAULTS`) stand where the recipe says nothing, and the recorded recipe shows them.
"""

from __future__ import annotations

import ast
import json
import re
from typing import Annotated, Any, Literal

from pydantic import Field, JsonValue, model_validator

from clearseek.config.settings import (
    Fraction,
    List,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Settings,
    refuse,
)

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class ParentConfig(Settings):
    """The model that a run begins with."""

    path: Annotated[str, Field(min_length=1)]
    """A run folder, an exported folder or a release; in a TOML file, from the working directory."""
    sha256: Sha256 | None = None
    """SHA-256 of its weights, as a transcript states it; leave it out to take what is there, which is recorded."""


class CheckConfig(Settings):
    """A call of a program's function, and what it should return."""

    call: Annotated[str, Field(min_length=1, max_length=10_000)]
    """Python expression over the program's names."""
    value: JsonValue
    """Its value as JSON has it: 1, 1.0 and true differ, and a tuple is a list."""

    @model_validator(mode="after")
    def _consistent(self) -> CheckConfig:
        try:
            ast.parse(self.call, mode="eval")  # parsed, not run: a test that cannot be read fails every program
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            raise ValueError(f"call = {self.call[:60]!r}: not a Python expression") from None
        try:
            json.dumps(self.value, allow_nan=False, ensure_ascii=False).encode()
        except (ValueError, RecursionError):
            raise ValueError(f"value = {self.value!r:.60}: not a value that JSON can hold") from None
        return self


class TaskConfig(Settings):
    """A program to write, and how it is checked."""

    prompt: Annotated[str, Field(min_length=1)]
    """What the program should do."""
    tests: Annotated[tuple[CheckConfig, ...], List]
    """Calls with their values, which no prompt shows."""
    solution: str = ""
    """A program that passes, for demonstrations."""

    @model_validator(mode="after")
    def _consistent(self) -> TaskConfig:
        refuse((not self.tests, "tests = []: without a call every program would pass"))
        return self


class ProblemsConfig(Settings):
    """Problems with a checked answer, made by a generator or given in a file, each addressed by seed and number."""

    kind: Literal["addition", "sums", "countdown", "reasoning-gym", "code"]
    """Kind of problem: two numbers to add, several numbers to add, a number to be made of others, a data set of
    reasoning-gym, or programs to write."""
    digits: Annotated[int, Field(ge=1, le=6)] = 2
    """Digits of the numbers in `addition` and `sums`."""
    numbers: Annotated[int, Field(ge=2, le=6)] = 3
    """How many numbers a problem of `sums` or `countdown` has."""
    working: bool = False
    """Whether the demonstrations of `addition` write every column down before the answer."""
    largest: Annotated[int, Field(ge=2, le=999)] = 25
    """Largest of a `countdown`'s numbers; the smallest is 1."""
    largest_target: Annotated[int, Field(ge=2, le=9999)] = 100
    """Largest target of a `countdown`; the smallest is 1."""
    dataset: str | None = None
    """Name of a data set of reasoning-gym (extra `gym`), whose generators are used and whose scorers are not."""
    options: dict[str, JsonValue] | None = None
    """The data set's own settings."""
    file: str | None = None
    """JSON lines of programs to write, from the working directory; the recorded recipe holds them as `tasks`."""
    tasks: Annotated[tuple[TaskConfig, ...], List] = ()
    """Programs to write: `prompt`, `tests` (each with `call` and `value`), and a `solution` for demonstrations."""
    seconds: Annotated[int, Field(ge=1, le=60)] = 2
    """Processor time of a program that a model wrote; by the clock it has four times as much."""
    template: Literal["plain", "chat", "r1-zero"] = "plain"
    """How a problem becomes a prompt: its bare text, DeepSeek-V3.1's chat, or R1-Zero's (arXiv 2501.12948, table 1)."""
    seed: NonNegativeInt = 0
    """Seed of the problems."""
    held_out_fraction: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.1
    """Share of problems that are never trained on, chosen by the hash of their text."""

    @model_validator(mode="after")
    def _consistent(self) -> ProblemsConfig:
        own, fields = OF_KIND[self.kind], type(self).model_fields
        foreign = {name: kinds for name, kinds in _KINDS_OF.items() if name not in own}
        refuse(
            *((getattr(self, name) != fields[name].default, f'{name} goes with kind = {kinds}, not "{self.kind}"')
              for name, kinds in foreign.items()),
            (self.kind == "reasoning-gym" and self.dataset is None,
             'kind = "reasoning-gym" needs dataset, such as "basic_arithmetic"'),
            (self.kind == "code" and not self.tasks, 'kind = "code" needs file, JSON lines of programs to write'),
        )  # fmt: skip
        return self


OF_KIND: dict[str, tuple[str, ...]] = {
    "addition": ("digits", "working"),
    "sums": ("digits", "numbers"),
    "countdown": ("numbers", "largest", "largest_target"),
    "reasoning-gym": ("dataset", "options"),
    "code": ("file", "tasks", "seconds"),
}
"""Settings of one kind of problem or of several; the other settings are of all kinds."""
_KINDS_OF = {
    name: " or ".join(f'"{kind}"' for kind, names in OF_KIND.items() if name in names)
    for name in dict.fromkeys(name for names in OF_KIND.values() for name in names)
}


class SftConfig(Settings):
    """Supervised fine-tuning: learn to write the assistant's part of conversations."""

    messages: str = "messages"
    """Key of a line's list of messages, in OpenAI's form."""
    tools: str = "tools"
    """Key of a line's list of tools that the model may call, where it has one."""
    prompt: str | None = None
    """Key of the user's text, for lines without messages; goes with `answer`."""
    answer: str | None = None
    """Key of the assistant's text, for lines without messages."""
    system: str | None = None
    """Key of the system's text, for lines without messages that have one."""
    strip: str | None = None
    """Regular expression of what is taken out of answers, such as gsm8k's ``<<[^>]*>>``."""
    demonstrations: NonNegativeInt = 0
    """How many problems of ``[problems]`` to learn from, with their solutions, instead of files."""
    thinking: bool = False
    """Whether conversations are rendered with thinking: an answer's `reasoning_content` is learnt before it."""
    too_long: Literal["refuse", "skip", "crop"] = "refuse"
    """What a conversation longer than `data.sequence_length` does: stop all, be left out and counted, or be cut."""

    @model_validator(mode="after")
    def _consistent(self) -> SftConfig:
        fields, of_lines = (
            type(self).model_fields,
            ("messages", "tools", "prompt", "answer", "system", "strip", "thinking"),
        )
        given = [name for name in of_lines if getattr(self, name) != fields[name].default]
        refuse(
            ((self.prompt is None) != (self.answer is None), "prompt and answer go together: give both keys, or none"),
            (self.system is not None and self.prompt is None, "system goes with prompt and answer"),
            (self.demonstrations and given, f"demonstrations are not read from lines: leave {', '.join(given)} out"),
            (self.strip is not None and _wrong_expression(self.strip),
             f"strip = {self.strip!r}: not a regular expression: {_wrong_expression(self.strip or '')}"),
        )  # fmt: skip
        return self


def _wrong_expression(text: str) -> str:
    """What is wrong with a regular expression, or an empty text."""
    try:
        re.compile(text)
    except (re.error, RecursionError, OverflowError) as error:
        return str(error) or "too long"
    return ""


class GrpoConfig(Settings):
    """Group relative policy optimisation (arXiv 2402.03300) and its family, on problems with a checked answer."""

    loss: Literal["grpo", "dr-grpo", "dapo", "gspo", "cispo"] = "dapo"
    """Whose loss: GRPO, Dr. GRPO (2503.20783), DAPO (2503.14476), GSPO (2507.18071) or CISPO (2506.13585)."""
    completions: Annotated[int, Field(ge=2, le=4096)] = 16
    """Completions of each prompt: a group. `train.batch_size` is the number of all completions of a step."""
    updates: PositiveInt = 1
    """Optimiser steps taken with the same completions."""
    max_tokens: PositiveInt = 64
    """Longest completion, in tokens."""
    temperature: Annotated[float, Field(gt=0.0, le=100.0)] = 1.0
    """Divisor of the logits, in sampling and in every log-probability."""
    top_p: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    """Probability that the fewest likeliest tokens, which are drawn from, must hold."""
    advantage: Literal["mean", "std"] = "mean"
    """Reward less the group's mean (Dr. GRPO, DeepSeek-V3.2), or that over the group's standard deviation (GRPO)."""
    clip_low: Annotated[float, Field(ge=0.0, le=1.0)] = 0.2
    """How far below 1 the probability ratio counts; GSPO's ratio is a sequence's, and its paper has 0.0003."""
    clip_high: Annotated[float, Field(ge=0.0)] = 0.28
    """How far above 1 the probability ratio counts (0.28 in DAPO, 0.0004 in GSPO)."""
    beta: Annotated[float, Field(ge=0.0)] = 0.0
    """Weight of the KL divergence from the parent; 0 needs no second model."""
    unbiased_kl: bool = False
    """Whether the KL estimate is corrected by the probability ratio (DeepSeek-V3.2, arXiv 2512.02556, section 3.1)."""
    off_policy_threshold: PositiveFloat | None = None
    """KL from the sampling policy above which a completion of negative advantage is left out (V3.2, section 3.1)."""
    keep_routing: bool = True
    """Whether updates visit the experts that the completions visited when they were sampled (V3.2, section 3.1)."""
    keep_sampling_mask: bool = True
    """Whether log-probabilities are over the tokens that `top_p` left when sampling (V3.2, section 3.1)."""
    entropy: Annotated[float, Field(ge=0.0)] = 0.0
    """Weight of a bonus for entropy, estimated from the drawn tokens."""
    patience: PositiveInt = 20
    """Rounds in a row without any spread of rewards in a group after which the run stops with advice."""
    evaluate_problems: PositiveInt = 512
    """Held-out problems of an evaluation."""
    keep_rollouts: bool = True
    """Whether the completions of every round are kept in the run folder, by which strangers can check them."""

    @model_validator(mode="after")
    def _consistent(self) -> GrpoConfig:
        refuse(
            (self.unbiased_kl and not self.beta, "unbiased_kl goes with beta above 0"),
            (self.loss == "dr-grpo" and self.advantage == "std",
             'loss = "dr-grpo" has no division by the standard deviation: use advantage = "mean"'),
        )  # fmt: skip
        return self


class DistilConfig(Settings):
    """Distillation: learn another model's distributions, or the texts that it writes."""

    teacher: Annotated[str, Field(min_length=1)]
    """A run folder, an exported folder, a release, or for `text` the address of an OpenAI-compatible endpoint."""
    teacher_sha256: Sha256 | None = None
    """SHA-256 of the teacher's weights; leave it out to take what is there, which is recorded."""
    form: Literal["logits", "text", "on-policy"] = "logits"
    """Learn the teacher's distributions over the data, its texts, or its distributions over the student's own texts."""
    divergence: Literal["forward", "reverse", "jsd"] = "forward"
    """KL of the student from the teacher, of the teacher from the student, or generalised Jensen-Shannon."""
    beta: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.5
    """Weight of the teacher in the mixture of `jsd` (GKD, arXiv 2306.13649)."""
    temperature: Annotated[float, Field(gt=0.0, le=100.0)] = 1.0
    """Divisor of both models' logits, and of the teacher's when it writes."""
    top_k: NonNegativeInt = 0
    """Likeliest tokens of the teacher that are compared, the rest as one; 0 for all tokens."""
    hard: Fraction = 0.0
    """Share of the plain loss on the data's tokens."""
    prompt_tokens: NonNegativeInt = 16
    """First tokens of a document, from which `text` and `on-policy` go on."""
    max_tokens: PositiveInt = 64
    """Longest text that teacher or student writes, in tokens."""
    texts: NonNegativeInt = 0
    """How many texts the teacher writes for `text`."""
    correct: bool = False
    """Whether `text` learns only what solves its problem, one text of each (rejection sampling, arXiv 2501.12948)."""
    model_name: str = ""
    """Name of the model at an endpoint; may be left out where there is only one."""

    @property
    def at_endpoint(self) -> bool:
        """Whether the teacher is an endpoint, which shows text alone."""
        return self.teacher.startswith(("http://", "https://"))

    @model_validator(mode="after")
    def _consistent(self) -> DistilConfig:
        text = self.form == "text"
        refuse(
            (self.at_endpoint and not text,
             f'an endpoint shows no distributions: use form = "text", not "{self.form}", or a folder as teacher'),
            (self.at_endpoint and self.teacher_sha256 is not None,
             "teacher_sha256 cannot be checked at an endpoint: leave it out"),
            (not self.at_endpoint and self.model_name, "model_name goes with an endpoint's address as teacher"),
            (text and not self.texts, 'form = "text" needs texts, the number of texts that the teacher writes'),
            (not text and self.texts, f'texts goes with form = "text", not "{self.form}"'),
            (not text and self.correct, f'correct goes with form = "text", not "{self.form}"'),
            (text and self.top_k, 'top_k compares distributions, and form = "text" has none: leave it out'),
            (text and self.hard, 'hard mixes in the plain loss, and form = "text" has no other: leave it out'),
            (self.form == "on-policy" and self.hard,
             'hard learns the data\'s tokens, and with form = "on-policy" they are the student\'s own: leave it out'),
        )  # fmt: skip
        return self


class LoraConfig(Settings):
    """Low-rank adaptation (arXiv 2106.09685): small matrices beside frozen ones."""

    rank: Annotated[int, Field(ge=1, le=1024)] = 8
    """Rank of the update."""
    alpha: PositiveFloat = 16.0
    """Numerator of the update's scale, alpha / rank."""
    targets: Annotated[tuple[str, ...], Field(min_length=1, strict=False)] = ("all",)
    """Groups (`attention`, `dense`, `shared`, `experts`, `all`) or names of the matrices that get an update."""


class ExpertsConfig(Settings):
    """Expert-specialised tuning (arXiv 2407.01906): train only the experts that the data use."""

    share: Annotated[float, Field(gt=0.0, le=1.0)] = 0.2
    """Sum of scores that the fewest chosen experts of a layer must hold."""
    score: Literal["gate", "token"] = "gate"
    """Score of an expert: its mean router weight, or its share of the choices, of a layer's total."""
    batches: PositiveInt = 8
    """Batches of the data that the scores are taken from."""
    layers: dict[str, Annotated[tuple[int, ...], Field(min_length=1, strict=False)]] | None = None
    """Numbers of the experts to train by layer, such as ``"model.layers.1.mlp.experts" = [0, 5]``; leave it out to have
    them chosen by their scores. The recorded recipe has them."""


METHODS = ("sft", "grpo", "distil")
TABLES = ("parent", "problems", *METHODS, "lora", "experts")
"""Tables that a recipe for pre-training does not have, nor its record."""

_QUIET = {"bias_update_speed": 0.0, "balance_loss_weight": 0.0, "mtp_loss_weight": 0.0, "mtp_loss_weight_final": 0.0}
_EBB = [{"shape": "linear", "until": 0.02, "to": 1.0}, {"shape": "linear", "until": 1.0, "to": 0.05}]
_FALL = [{"shape": "linear", "until": 0.05, "to": 1.0}, {"shape": "linear", "until": 1.0, "to": 0.1}]
DEFAULTS: dict[str, dict[str, dict[str, Any]]] = {
    "sft": {"optimizer": {"weight_decay": 0.0, "schedule": _FALL}, "train": {"bias_update_speed": 0.0}},
    "distil": {"optimizer": {"weight_decay": 0.0, "schedule": _FALL}, "train": _QUIET},
    "grpo": {
        "optimizer": {"learning_rate": 1e-3, "muon_learning_rate": 3e-3, "weight_decay": 0.0, "schedule": _EBB},
        "train": _QUIET,
    },
}
"""Defaults of the common tables by method. A policy takes 0.003 under Muon: at pre-training's 0.02 it was destroyed
within 20 steps. Its rates fall from the start, since fewer groups have a spread as it learns, and an optimiser that
divides by the gradient's size would make as long a step of what is then mostly noise (docs/notebook.md)."""


def with_defaults(raw: dict[str, Any]) -> dict[str, Any]:
    """A recipe's tables with its method's defaults where they say nothing; others as they are."""
    for method in METHODS:
        if isinstance(raw.get(method), dict):
            for table, settings in DEFAULTS[method].items():
                given = raw.get(table, {})
                if isinstance(given, dict):
                    raw = raw | {table: settings | given}
    return raw
