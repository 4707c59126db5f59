"""Code: what it takes to train the model again, piece by piece: model, data, training, inference, evaluation, settings.

Code is recognised by what it does, not by what a card says about it: training code computes gradients and steps an
optimiser. It is only read. A repository elsewhere counts as linked if a line names what it holds.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import Final

from clearseek.audit import questions as ask
from clearseek.audit.evidence import Answer, Evidence, Grade, Question, Row
from clearseek.audit.facts import PackagesFact
from clearseek.audit.read.archive import members
from clearseek.audit.read.card import Document, plain
from clearseek.audit.read.program import code_of
from clearseek.audit.read.source import Source, is_test
from clearseek.audit.read.subject import Subject
from clearseek.errors import UserError

LONGEST_SOURCE: Final = 1_000_000
"""Bytes of a source file that are read."""
MOST_SOURCES: Final = 4_000
MOST_SOURCE: Final = 100_000_000
"""Source files, and characters of them in all."""
MOST_PARSED: Final = 3_000_000
"""Characters of Python that are taken apart for each piece: a second's work."""
_ENDINGS = (".py", ".cu", ".cpp", ".rs", ".jl", ".sh", ".ipynb")
_REPOSITORY = re.compile(r"https?://(?:www\.)?(?:github|gitlab|gitee)\.com/[\w.-]+/[\w.-]+")
_NO_CODE = re.compile(r"/issues/|\.(?:svg|png|jpe?g|gif)\b|LICEN[CS]E")


@dataclass(frozen=True, slots=True)
class Piece:
    """One part of the full code."""

    question: Question
    does: tuple[str, ...]
    """Patterns all of which the text of one file shows."""
    path: str
    """Pattern of the paths that may hold it; empty for any."""
    words: str
    """How a card names it on a line with a link."""
    least: int = 10
    """Lines of code that a file has at least which does it."""
    strings: bool = False
    """Whether what it does may show in strings, such as names of files."""


PIECES: Final = (
    Piece(ask.CODE_ARCHITECTURE, (r"class \w{1,80}\((?:\w{1,40}\.){0,6}\w{0,20}Module\)", r"attention|attn"), "",
          r"model(?:l?ing)? code|architecture|source code|(?<!\w)code(?! license)"),
    Piece(ask.CODE_TRAINING,
          (r"\.backward\(|value_and_grad|jax\.grad|autograd\.grad", r"\.step\(|optax\.|apply_updates"), "",
          r"train(?:ing)? (?:code|scripts?|framework|recipes?|repo\w*|pipeline)"
          r"|(?:used to|were|was) (?:pre-?)?train(?:ed)?\b.{0,40}\b(?:with|using)"
          r"|(?:code|scripts?|recipes?|repo|repository) (?:\w+ ){0,3}(?:for|to) (?:\w+ ){0,2}(?:pre-?)?"
          r"train(?!\w* data)"
          r"|(?:code|repo|repository|codebase) ?\([^()]{0,60}\b(?:pre-?)?train(?:ing)?\b(?! data)"),
    Piece(ask.CODE_INFERENCE,
          (r"def (?:generate|sample|decode)\w{0,60}\(", r"argmax|multinomial|categorical|temperature|top_p"), "",
          r"inference|serving|generat|(?:start|launch|run|deploy)\w* (?:\w+ ){0,3}(?:service|server|locally)"),
    Piece(ask.CODE_EVALUATION,
          (r"def \w{0,60}?(?:eval|score|accuracy|perplexity|bits)\w{0,60}\(|lm_eval|lighteval",), r"eval|bench|score",
          r"eval\w* (?:code|scripts?|harness|framework|suite)",
          least=2),
    Piece(ask.CODE_DATA,
          (r"tokeni[sz]e|encode", r"shard|memmap|parquet|jsonl|dedup|documents?\b"), r"data|token|prepar|preprocess",
          r"data (?:code|scripts?|processing|pipeline|curation|toolkit)"
          r"|(?:code|scripts?|toolkit) (?:\w+ ){0,3}(?:for|to) (?:\w+ ){0,3}data",
          strings=True),
)  # fmt: skip
_NAMES: Final = {
    "learning rate": r"learning_rate|\w*lr",
    "batch size": r"\w*batch_size\w*|tokens_per_batch|gradient_accumulation_steps",
    "sequence length": r"\w*seq(?:uence)?_?len(?:gth)?|block_size|context_len(?:gth)?|n_ctx|max_length",
    "steps or tokens": r"\w*steps|(?:num_)?(?:train_)?epochs|(?:max|total|train)_(?:tokens|iters|duration)",
    "optimiser": r"optim(?:izer)?\w*",
    "weight decay": r"weight_decay|wd",
    "schedule": r"\w*warm_?up\w*|\w*schedule\w*",
    "seed": r"\w*seed",
}
"""Settings that a run cannot be repeated without, by the keys that configuration files give them."""
_SETTINGS: Final = {setting: re.compile(keys, re.I) for setting, keys in _NAMES.items()}
_KEY = re.compile(r"(?<![\w.])(\w{1,60})(?:[\"']?\]?\s{0,20}[:=]|\])")
_MOST_KEYS = 20_000


def rows(subject: Subject) -> Iterator[Row]:
    """A row for each piece, for settings and environment, and for the whole."""
    sources = tuple(_sources(subject.source))
    found = [_piece(subject, piece, sources) for piece in PIECES]
    found += [_configuration(subject, sources), _environment(subject, sources)]
    yield from found
    yield _complete(found)


@dataclass(frozen=True, slots=True)
class _Source:
    """A source file of the release, or of an archive in it."""

    path: str
    """Inside the release; for a member of an archive, ``archive.tar.gz!member``."""
    text: str
    evidence: Evidence


def _sources(source: Source) -> Iterator[_Source]:
    count = length = 0
    for path in sorted(source.sizes, key=lambda path: (path.count("/"), path)):
        if _FOREIGN.search(path):
            continue
        if path.lower().endswith((*_ENDINGS, ".toml", ".yaml", ".yml", ".json", ".txt", ".lock")):
            if path.endswith((".json", ".txt", ".yaml", ".yml")) and not _may_be_settings(path):
                continue
            text = source.read(path, LONGEST_SOURCE).decode("utf-8", errors="replace")
            yield _Source(path, text, source.whole(path))
            count, length = count + 1, length + len(text)
        elif path.endswith((".tar.gz", ".tgz", ".tar")) and "/" in path:
            try:
                for member, raw in members(source, path, LONGEST_SOURCE):
                    if member.lower().endswith((*_ENDINGS, ".toml", ".txt", ".lock")):
                        where = Evidence(path, f"member {member}", "", source.sha256(path))
                        yield _Source(f"{path}!{member}", raw.decode("utf-8", errors="replace"), where)
                        count, length = count + 1, length + len(raw)
            except UserError:
                continue
        if count >= MOST_SOURCES or length > MOST_SOURCE:
            return


_FOREIGN = re.compile(r"(?:^|/)(?:dependencies|third[-_]party|vendor|node_modules|site-packages|external)/")


def _may_be_settings(path: str) -> bool:
    base = path.rpartition("/")[2].lower()
    if base in ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"):
        return False
    return bool(
        re.search(r"recipe|train|requirements|constraints|hparams|configs?[/.]|config|environment|lock", path.lower())
    )


@lru_cache(maxsize=64)
def _pattern(text: str) -> re.Pattern[str]:
    return re.compile(text, re.I)


def _piece(subject: Subject, piece: Piece, sources: tuple[_Source, ...]) -> Row:
    short: list[_Source] = []
    holding = list(islice(_holding(piece, sources, short), 4))
    if holding:
        places = tuple(dict.fromkeys(each.evidence for each in holding))
        shown = ", ".join(each.path for each in holding)
        return piece.question.yes(Grade.PRESENT, f"in {shown}", *places)
    links = _linked(subject, piece)
    if links:
        reason = f"not here; named beside a link to {', '.join(list(dict.fromkeys(each.quote for each in links))[:4])}"
        return piece.question.yes(Grade.LINKED, reason, *links[:4])
    if short:
        reason = f"{short[0].path} does it in fewer than {piece.least} lines of code, which is no more than its words"
        return piece.question.no(Grade.CLAIMED, reason, short[0].evidence)
    looked = f"none of the {len(sources)} source files" if sources else "there is no source file"
    reason = f"{looked}{' does it' if sources else ''}, and no line of the documents links to it"
    return piece.question.no(Grade.ABSENT, reason)


def _holding(piece: Piece, sources: tuple[_Source, ...], short: list[_Source]) -> Iterator[_Source]:
    """The files that do it, those first whose names say so; those too short for it go to `short`."""
    hint = piece.question.id.removeprefix("code.")[:5]
    maybe = [
        each
        for each in sources
        if each.path.lower().endswith(_ENDINGS)
        and (not piece.path or _pattern(piece.path).search(each.path))
        and _does(each.text, piece)
    ]
    length = 0
    maybe.sort(key=lambda each: ("test" in each.path, hint not in each.path.rpartition("/")[2], hint not in each.path))
    for each in maybe:
        code = code_of(each.path, each.text, piece.strings)
        if _does(code, piece):
            if sum(1 for line in code.split("\n") if line.strip()) >= piece.least:
                yield each
            else:
                short.append(each)
        length += len(each.text)
        if length > MOST_PARSED:
            return


def _does(text: str, piece: Piece) -> bool:
    return all(_pattern(pattern).search(text) for pattern in piece.does)


def _linked(subject: Subject, piece: Piece) -> list[Evidence]:
    """Lines that name this piece and link to a repository."""

    def is_repository(target: str) -> bool:
        return bool(_REPOSITORY.match(target)) and not _NO_CODE.search(target)

    def names_it(document: Document, number: int) -> bool:
        line = document.lines[number - 1]
        return any(_pattern(piece.words).search(text) for text in {line, plain(line)})

    return subject.links(is_repository, names_it)


def linked_data_code(subject: Subject) -> list[Evidence]:
    """Links to the code that made the data."""
    return next(_linked(subject, piece) for piece in PIECES if piece.question == ask.CODE_DATA)


def _configuration(subject: Subject, sources: tuple[_Source, ...]) -> Row:
    """Files of settings that give at least learning rate and batch size, and what else they give."""
    given_in = ((each, _settings(each.text)) for each in sources if not each.path.endswith(_ENDINGS))
    settings = {each: given for each, given in given_in if {"learning rate", "batch size"} <= given}
    holding = list(settings)
    if not holding:
        return ask.CODE_CONFIGURATION.no(Grade.ABSENT, "no file here gives learning rate and batch size")
    missing = [part for part in _SETTINGS if not any(part in given for given in settings.values())]
    places = tuple(each.evidence for each in holding[:4])
    given = ", ".join(part for part in _SETTINGS if part not in missing)
    reason = f"{given} in {', '.join(each.path for each in holding[:4])}"
    if missing:
        reason += f"; not {', '.join(missing)}"
    return ask.CODE_CONFIGURATION.answer("partly" if missing else "yes", Grade.PRESENT, reason, *places)


def _settings(text: str) -> frozenset[str]:
    """The settings that a file gives."""
    keys = set(islice((match[1] for match in _KEY.finditer(text)), _MOST_KEYS))
    return frozenset(part for part, named in _SETTINGS.items() if any(named.fullmatch(key) for key in keys))


_PIN = re.compile(r"^([\w.-]+)(?:\[[\w,. -]*\])?==([\w.+!-]+)", re.M)
_LOCKED = re.compile(r'^name = "([\w.-]{1,100})"\nversion = "([\w.+!-]{1,100})"', re.M)
_MOST_PACKAGES = 5_000
_FRAMEWORK = re.compile(
    r"(?:torch|pytorch|tensorflow|jax|jaxlib|flax|mxnet|paddlepaddle|mindspore|megatron|transformers|deepspeed|lightning"
    r"|composer|mlx|equinox|oneflow|tinygrad|nemo|keras|colossalai)(?:[-_](?:gpu|cpu|core|lm|toolkit|cuda\w{0,10}))?",
    re.I,
)
_OTHER_PURPOSE = re.compile(r"(?:^|/)(?:docs?|documentation|website|eval\w{0,40}|bench\w{0,40})/")


def _pins(text: str) -> list[tuple[str, str]]:
    """Packages with exact versions, as pip writes them and as lock files do."""
    return [(str(name), str(version)) for name, version in (*_PIN.findall(text), *_LOCKED.findall(text))]


def _environment(subject: Subject, sources: tuple[_Source, ...]) -> Row:
    """Files that pin the software of training: what builds the pages or runs tests and benchmarks is other software."""
    pinned = [
        (each, pins) for each in sources if each.path.lower().endswith((".txt", ".lock")) and (pins := _pins(each.text))
    ]
    other = [each for each, _ in pinned if is_test(each.path) or _OTHER_PURPOSE.search(each.path.lower())]
    pinned = [(each, pins) for each, pins in pinned if each not in other]
    training = [(each, pins) for each, pins in pinned if any(_FRAMEWORK.fullmatch(package) for package, _ in pins)]
    if training:
        places = tuple(each.evidence for each, _ in training[:4])
        shown = ", ".join(f"{len(pins)} packages pinned in {each.path}" for each, pins in training[:4])
        first = PackagesFact(dict(sorted(training[0][1][:_MOST_PACKAGES])))
        return ask.CODE_ENVIRONMENT.yes(Grade.PRESENT, shown, *places, facts=(first,))
    if pinned:
        each, pins = pinned[0]
        reason = f"{len(pins)} packages pinned in {each.path}, and none of them trains a model"
        return ask.CODE_ENVIRONMENT.partly(Grade.CLAIMED, reason, each.evidence)
    for document in subject.documents:
        for number, line in enumerate(document.lines, 1):
            if _PIN.match(line.strip()):
                reason = "a document names versions, for running the model; no file pins them"
                return ask.CODE_ENVIRONMENT.partly(Grade.CLAIMED, reason, document.at(number))
    if other:
        reason = f"{other[0].path} pins what documentation, tests or evaluation need; nothing pins the run's software"
        return ask.CODE_ENVIRONMENT.no(Grade.CLAIMED, reason, other[0].evidence)
    return ask.CODE_ENVIRONMENT.no(Grade.ABSENT, "no lock file and no pinned requirements")


def _complete(parts: list[Row]) -> Row:
    """Everything together: the row that tables of openness call “code”."""
    missing = [row.id.removeprefix("code.") for row in parts if row.answer not in ("yes", "partly")]
    partly = [row.id.removeprefix("code.") for row in parts if row.answer == "partly"]
    answer: Answer = "no" if "training" in missing else "partly" if missing or partly else "yes"
    grade = Grade.ABSENT if missing else min(row.grade for row in parts)
    have = [row.id.removeprefix("code.") for row in parts if row.answer in ("yes", "partly")]
    reason = f"missing: {', '.join(missing)}" if missing else "all parts"
    reason += f"; there is {', '.join(have)}" if have and missing else ""
    reason += f"; in part only: {', '.join(partly)}" if partly else ""
    places = tuple(place for row in parts if row.answer == "yes" for place in row.evidence[:1])[:6]
    return ask.CODE_COMPLETE.answer(answer, grade, reason, *places)
