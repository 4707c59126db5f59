"""The settings of a run and the software it used: what somebody needs who has the code and wants the same model.

Settings count wherever people write them: constants, defaults and keywords of Python, options and variables of a shell,
YAML, TOML, JSON; in a card they are a claim. Software counts when its versions are exact.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import islice
from typing import Final

from clearseek.audit import questions as ask
from clearseek.audit.evidence import Answer, Grade, Row
from clearseek.audit.facts import PackagesFact
from clearseek.reading.card import Document
from clearseek.reading.evidence import Evidence, amount
from clearseek.reading.program import LONGEST_SETTINGS, Program, has_number, read_program
from clearseek.reading.sources import SOFTWARE, SourceFile
from clearseek.reading.subject import Subject

MOST_SETTINGS: Final = 3_000_000
"""Bytes that are taken apart in search of settings."""
_NAMES: Final = {
    "learning rate": r"\w*learning_?rates?|\w*_?lr(?:_max|_peak)?|lr_\w*rate|eta",
    "batch size": r"(?!\w*(?:eval|test|val|infer))\w*(?:batch_?size\w*|batchsize|_bsz?)|bsz?|tokens_per_batch"
                  r"|gradient_accumulation_steps|samples_per_gpu",
    "sequence length": r"\w*seq(?:uence)?_?len(?:gth)?s?|block_size|\w*context_(?:len(?:gth)?|size|window)|n_ctx"
                       r"|\w*max_length|cutoff_len|ctx_len|model_max_length|image_size|resolution",
    "steps or tokens": r"\w*steps|\w*epochs?|\w*iters|\w*iterations|(?:max|total|train\w*)_(?:tokens|duration)"
                       r"|train_samples",
    "optimiser": r"\w*optim\w*",
    "weight decay": r"\w*weight_decay|wd",
    "schedule": r"\w*warm_?up\w*|\w*schedule\w*|\w*decay_(?:style|iters|steps)",
    "seed": r"\w*seed",
}  # fmt: skip
"""Settings that a run cannot be repeated without, by the keys that people give them."""
_SETTINGS: Final = {setting: re.compile(keys, re.I) for setting, keys in _NAMES.items()}
_WORDS: Final = ("optimiser", "schedule")
"""Settings whose value may be a word."""
_LEAST: Final = {"learning rate", "batch size"}
_MOST_BLOCKS: Final = 200
_SPARE: Final = 2
"""Settings that may be left to a program's defaults."""
_NOT_A_RUN: Final = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "package.json")
_ITEM = re.compile(r"(?<![\w-])(?<![\w)] )([A-Za-z][\w ()/-]{1,60}?)\s*[:=]\s*(\S.{0,200})")


def configuration(subject: Subject, sources: tuple[SourceFile, ...], trains: bool) -> Row:
    """Files that give at least learning rate and batch size, and what else they give; else what the card gives.

    Where the code that `trains` is here, some may be its defaults.
    """
    question = ask.CODE_CONFIGURATION
    found: dict[str, tuple[Evidence, frozenset[str]]] = {}
    unread: list[SourceFile] = []
    length = 0
    likely = re.compile(r"conf|train|recipe")
    for each in sorted(sources, key=lambda each: (each.example, each.is_code, not likely.search(each.path))):
        no_run = each.path.rpartition("/")[2] in _NOT_A_RUN or (not each.is_code and len(each.raw) > LONGEST_SETTINGS)
        low = b"" if no_run else each.raw[:2_000_000].lower()
        if not (b"lr" in low or b"rate" in low) or not (b"batch" in low or b"bs" in low) or length > MOST_SETTINGS:
            continue
        length += len(each.raw)
        given = settings_of(each.program)
        if given >= _LEAST:
            found[each.path] = each.evidence, given
        elif each.unread:
            unread.append(each)
    if found:
        every = frozenset().union(*(given for _, given in found.values()))
        missing = [part for part in _SETTINGS if part not in every]
        reason = f"{', '.join(part for part in _SETTINGS if part in every)} in {', '.join(list(found)[:4])}"
        reason += f"; not {', '.join(missing)}" if missing else ""
        places = tuple(where for where, _ in list(found.values())[:4])
        answer: Answer = "yes" if len(missing) <= _SPARE * trains else "partly"
        return question.answer(answer, Grade.PRESENT, reason, *places)
    for document in subject.documents:
        for line, given in _told(document):
            if given >= _LEAST:
                told = ", ".join(part for part in _SETTINGS if part in given)
                reason = f"a document gives {told}; no file of settings does"
                return question.partly(Grade.CLAIMED, reason, document.at(line))
    if unread:
        reason = f"{unread[0].path} {unread[0].unread}; no file that was read gives learning rate and batch size"
        return question.unknown(Grade.ABSENT, reason, unread[0].evidence)
    return question.no(Grade.ABSENT, "no file here gives learning rate and batch size, and no document does")


def settings_of(program: Program) -> frozenset[str]:
    """The settings that a program gives values for."""
    given = {part for part, named in _SETTINGS.items() for key, value in program.settings.items()
             if named.fullmatch(key) and (has_number(value) or part in _WORDS)}  # fmt: skip
    if any(call.name.startswith(("torch.optim.", "optax.")) or "adam" in call.last.lower() for call in program.calls):
        given.add("optimiser")
    return frozenset(given)


def _told(document: Document) -> Iterator[tuple[int, frozenset[str]]]:
    """Settings that a document gives: under one heading, in lists and tables, or in a block of code."""
    under: dict[tuple[str, ...], tuple[int, Program]] = {}
    said = [(block.headings, block.line, match[1], match[2])
            for block in document.blocks for match in _ITEM.finditer(block.text[:2_000])]  # fmt: skip
    for cell in document.cells:
        for key in (*cell.row[:1], *cell.header[cell.column :][:1]) if cell.column else ():
            said.append((document.headings[cell.line - 1], cell.line, key, cell.text))
    for path, line, key, value in said:
        under.setdefault(path, (line, Program()))[1].give("_".join(re.findall(r"\w+", key.lower()))[:80], value)
    for line, program in under.values():
        yield line, settings_of(program)
    for line, kind, text in islice(fenced(document), _MOST_BLOCKS):
        yield line, settings_of(read_program(f"a.{kind}", text.encode()))


def fenced(document: Document) -> Iterator[tuple[int, str, str]]:
    """Blocks of code in a document: line, language, text."""
    begin, kind = 0, ""
    for number, line in enumerate(document.lines, 1):
        mark = line.strip()
        if mark.startswith("```") and begin:
            yield begin, kind, "\n".join(document.lines[begin : number - 1])
            begin = 0
        elif mark.startswith("```"):
            begin, kind = number, mark.strip("`").strip().lower().partition(" ")[0]
            kind = {"python": "py", "bash": "sh", "shell": "sh", "console": "sh", "": "sh"}.get(kind, kind)


_PIN = re.compile(
    r"^[ \t\"'-]{0,24}(?:name = \")?([A-Za-z][\w.-]{0,100})(?:\[[\w,. -]{0,80}\])?"
    r"(?:={1,3}|\"\nversion = \"|\": \{[^{}]{0,4000}?\"version\": \"==)(v?\d[\w.+!-]{0,100})", re.M
)  # fmt: skip
"""A package and its exact version, as pip, conda, uv, poetry and pipenv write them."""
_TOLD_PIN = re.compile(
    r"^[ \t*-]{0,8}(Transformers|Py[Tt]orch|TRL|Datasets|Tokenizers|PEFT)[: ]{1,3}(\d[\w.+!-]{0,40})\s*$", re.M
)
_IMAGE = re.compile(
    r"^FROM\s{1,9}(\S{0,200}(?:torch|nemo|jax|tensorflow)\S{0,100}(?::[\w.-]{0,100}\d|@sha256:)[\w.-]{0,100})", re.M
)
_UNPINNED = re.compile(
    r"^[ \t\"'-]{0,24}([A-Za-z][\w.-]{1,100})(?:\[[\w,. -]{0,80}\])?[ \t]{0,8}(?:$|[<>~!;#\"'@]| = \"[\^~>*])", re.M
)
_INSTALLED = re.compile(r"\bpip3? install ((?:[^\n&;|\\]|\\\n)*)")
_LOCK = re.compile(r"(?:^|[/._-])lock(?:$|\.)")
_MOST_PACKAGES: Final = 5_000
_FRAMEWORK = re.compile(
    r"(?:torch|pytorch|tensorflow|jax|jaxlib|flax|mxnet|paddlepaddle|mindspore|megatron|transformers|deepspeed|lightning"
    r"|composer|mlx|equinox|oneflow|tinygrad|nemo|keras|colossalai)(?:[-_](?:gpu|cpu|core|lm|toolkit|cuda\w{0,10}))?",
    re.I,
)
_NO_TRAINING = re.compile(r"infer|serv(?:e|ing|ice)|demo|deploy|eval|bench|(?:^|/)data/")
_OTHER_PURPOSE = re.compile(r"(?:^|/)(?:docs?|documentation|website|eval\w{0,40}|bench\w{0,40}|tests?|examples?)/")


def _pins(file: SourceFile) -> dict[str, str]:
    """Packages with exact versions, as requirements, lock files and images name them."""
    base = file.path.rpartition("/")[2].lower()
    if not base.startswith(SOFTWARE) and not base.endswith(".lock"):
        return {}
    text = file.raw.decode("utf-8", errors="replace")
    return dict([*_PIN.findall(text)[:_MOST_PACKAGES], *(("image", each) for each in _IMAGE.findall(text))])


def _loose(file: SourceFile) -> set[str]:
    """Packages without an exact version, in a list of packages or in the commands of an image."""
    text = file.raw.decode("utf-8", errors="replace")
    if "dockerfile" in file.path.lower():
        given = re.sub(r"(?:^|\s)-[rcfe]\s+\S+", " ", " ".join(_INSTALLED.findall(text)[:_MOST_PACKAGES])).split()
        return {word for word in given if re.match(r"[A-Za-z]", word) and "==" not in word and "/" not in word}
    return set(_UNPINNED.findall(text)[:_MOST_PACKAGES])


def _lacks(file: SourceFile, pins: dict[str, str]) -> str:
    """What keeps a person from building the same software again from a file, in words; empty for nothing."""
    if _LOCK.search(file.path.rpartition("/")[2].lower()):
        return ""
    loose = _loose(file) - set(pins)
    if framework := next((each for each in sorted(loose) if _FRAMEWORK.fullmatch(each)), ""):
        return f"{framework} has no version"
    image = "dockerfile" not in file.path.lower() or "image" in pins
    if len(pins) <= len(loose) or ("image" in pins and loose) or not image:
        return f"{len(loose)} packages have no version" if image else "the image is not named by an exact version"
    return ""


def environment(subject: Subject, sources: tuple[SourceFile, ...], trains: bool) -> Row:
    """Files that pin the software of training: what builds the pages or runs tests and benchmarks is other software.

    A lock file pins all, a list most of what it names, an image by its exact tag what it brings. Without code here that
    `trains`, the software is that of something else.
    """
    question = ask.CODE_ENVIRONMENT
    every = [(each, pins) for each in sources if (pins := _pins(each))]
    pinned = [(each, pins) for each, pins in every if not _OTHER_PURPOSE.search(each.path.lower())]
    training = [(each, pins) for each, pins in pinned if not _NO_TRAINING.search(each.path.lower())
                and any(_FRAMEWORK.fullmatch(name) or name == "image" for name in pins)]  # fmt: skip
    whole = [(each, pins) for each, pins in training if not _lacks(each, pins)]
    if whole and trains:
        shown = ", ".join(f"{amount(len(pins), 'package')} pinned in {each.path}" for each, pins in whole[:4])
        first = PackagesFact(dict(sorted(whole[0][1].items())))
        return question.yes(Grade.PRESENT, shown, *(each.evidence for each, _ in whole[:4]), facts=(first,))
    if pinned:
        each, pins = (training or pinned)[0]
        why = (not whole and _lacks(each, pins)) or "no training code is here that they are for"
        why = why if training else "none of them trains a model"
        reason = f"{amount(len(pins), 'package')} pinned in {each.path}; but {why}"
        return question.partly(Grade.PRESENT if training else Grade.CLAIMED, reason, each.evidence)
    for document in subject.documents:
        for number, line in enumerate(document.lines, 1):
            if ("==" in line and _PIN.match(line.strip())) or _TOLD_PIN.match(line):
                reason = "a document names versions; no file pins them"
                return question.partly(Grade.CLAIMED, reason, document.at(number))
    for each, _ in every:
        reason = f"{each.path} pins what documentation, tests or evaluation need; nothing pins the run's software"
        return question.no(Grade.CLAIMED, reason, each.evidence)
    return question.no(Grade.ABSENT, "no lock file and no pinned requirements")
