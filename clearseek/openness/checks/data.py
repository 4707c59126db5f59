"""Training data: how far an outsider could come to having the same.

A ladder, each step of which someone calls "open data": 0 nothing is said, 1 described, 2 sources named, 3 data sets
linked, 4 with proportions, 5 the scripts that made them, 6 the bytes, hashed. Complete means 6, or 3 and up where
what is linked is said to be all.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from clearseek.openness.card import Document, plain
from clearseek.openness.checks.weights import weight_links
from clearseek.openness.evidence import Answer, Evidence, Grade, Row
from clearseek.openness.source import is_test
from clearseek.openness.subject import Subject

LEVELS = (
    "nothing is said", "described in words", "sources named", "data sets linked", "with proportions",
    "scripts published", "bytes published",
)  # fmt: skip
_DATASET = re.compile(
    r"https?://(?:huggingface\.co|hf\.co)/datasets/[\w.-]+/[\w.-]+|https?://(?:the-eye\.eu|pile\.eleuther\.ai|commoncrawl\.org|data\.together\.xyz)\S*"
)
_ON_HUB = re.compile(r"(?:huggingface\.co|hf\.co)/datasets/([\w.-]+/[\w.-]+)")
_HUB_NAME = re.compile(r"([\w.-]{1,96}(?:/[\w.-]{1,96})?)")
_MOST_LOOKED_UP: Final = 20
_URL = re.compile(r"https?://[^\s)]+")
_TRAINED = re.compile(r"(?:pre-?|fine-?)?train(?:ed|ing)?\b", re.I)
_DESCRIBED = re.compile(r"tokens|corpus|corpora|data ?sets?\b|training data|samples", re.I)
_SOURCES = re.compile(
    r"common ?crawl|wikipedia|github|arxiv|stack ?exchange|the pile|dolma|c4\b|refinedweb|fineweb|redpajama|books", re.I
)
BYTES_PER_TOKEN: Final = 0.02
"""Fewest that published data can have for each token that a model was trained on: compressed, and read many times."""
_BENCHMARK = re.compile(r"mmlu|gsm8k|math|humaneval|arc-|hellaswag|bbh|aime|gpqa|winogrande|piqa", re.I)
_NOT_DATA = (".py", ".sh", ".md", ".yaml", ".yml", ".toml", ".ipynb", ".cfg", ".png", ".safetensors")
_DATA_FILES = re.compile(r"\.(?:parquet|jsonl(?:\.gz|\.zst)?|arrow|bin|npy|tfrecord|tar\.zst)$")


def rows(subject: Subject) -> Iterator[Row]:
    """The training data, their order, the tokenizer."""
    yield _training(subject)
    yield _sources(subject)
    yield _order(subject)
    yield _tokenizer(subject)
    yield _evaluation(subject)


def _evaluation(subject: Subject) -> Row:
    title, name = "The data it was evaluated on are published", "data.evaluation"
    files = tuple(
        path
        for path in subject.source.sizes
        if re.search(r"held-?out|eval\w*/.*\.(?:jsonl|parquet|bin|arrow)$|validation/.*\.\w+$", path.lower())
        and not path.lower().endswith(_NOT_DATA)
        and not is_test(path)
    )
    if files:
        places = tuple(subject.source.whole(path) for path in files[:4])
        return Row(name, "definition", title, "yes", Grade.PRESENT, ", ".join(files[:4]), places)
    for document in subject.documents:
        found = sorted(
            {cell.row[1] for cell in document.cells() if len(cell.row) > 2 and _BENCHMARK.search(cell.row[1])}
        )
        if found:
            line = next(cell.line for cell in document.cells() if len(cell.row) > 2 and cell.row[1] == found[0])
            reason = f"public benchmarks by name: {', '.join(found[:6])}" + (", …" if len(found) > 6 else "")
            return Row(name, "definition", title, "yes", Grade.CLAIMED, reason, (document.at(line),))
    return Row(name, "definition", title, "no", Grade.ABSENT, "neither files nor names of public benchmarks")


def _training(subject: Subject) -> Row:
    title, name = "The complete training data are published", "data.training"
    files = data_files(subject)
    if files:
        size = sum(subject.source.sizes[path] for path in files)
        places = tuple(subject.source.whole(path) for path in files[:6])
        reason = f"level 6, {LEVELS[6]}: {len(files)} files, {size:,} bytes"
        stated = max(subject.stated("tokens"), key=lambda claim: claim.value, default=None)
        if stated is not None and size < BYTES_PER_TOKEN * stated.value:
            reason += f", which cannot hold the {stated.text} tokens that are stated"
            return Row(name, "definition", title, "partly", Grade.CLAIMED, reason, (*places, stated.evidence))
        if not any(_lists_data(path) for path in subject.source.sizes):
            return Row(name, "definition", title, "partly", Grade.PRESENT, f"{reason}; no manifest", places)
        return Row(name, "definition", title, "yes", Grade.PRESENT, reason, places)
    linked = _linked(subject)
    if linked:
        reason = f"level 3, {LEVELS[3]}: {', '.join(dict.fromkeys(each.quote for each in linked))}; none was read"
        return Row(name, "definition", title, "yes", Grade.LINKED, reason, tuple(linked[:6]))
    for level, pattern in ((2, _SOURCES), (1, _DESCRIBED)):
        places = tuple(_lines(subject, pattern))
        if places:
            reason = f"level {level}, {LEVELS[level]}, and no more: no data here, no list of data sets, no link to one"
            return Row(name, "definition", title, "no", Grade.ABSENT, reason, places[:4])
    reason = f"level 0: {LEVELS[0]}"
    return Row(name, "definition", title, "no", Grade.ABSENT, reason)


def _lists_data(path: str) -> bool:
    """Whether a file says what the data consist of, by its name."""
    folder, _, base = path.lower().rpartition("/")
    return base in ("manifest.json", "croissant.json", "dataset_info.json", "dataset_infos.json") and "data" in folder


def data_files(subject: Subject) -> tuple[str, ...]:
    """Files of training data."""
    return tuple(path for path in subject.source.sizes if is_data(path))


def is_data(path: str) -> bool:
    """Whether a file is training data, by its name: in a folder of data, and of a kind that holds them."""
    folder = re.match(r"(?:.*/)?(?:data(?:sets?)?|corpus|training_data)/", path.lower())
    return folder is not None and _DATA_FILES.search(path.lower()) is not None


def _linked(subject: Subject) -> list[Evidence]:
    """Data sets that the metadata or a line about training links to."""
    out = []
    metadata = subject.metadata.value or {}
    named = metadata.get("datasets")
    card = subject.card
    if card is not None and isinstance(named, list):
        for each in named[:50]:
            if isinstance(each, str):
                line = next((n for n, text in enumerate(card.lines, 1) if each in text), 1)
                out.append(Evidence(card.file, f"line {line}, key datasets", each, card.sha256))
    for document in subject.documents:
        for link in document.links:
            if _DATASET.match(link.target) and _about_training(document, link.line):
                out.append(Evidence(document.file, f"line {link.line}", link.target, document.sha256))
    return out


def _sources(subject: Subject) -> Row:
    """The data sets that are named, looked up on the hub where the release is."""
    title, name = "The data sets that are named can be had", "data.sources"
    linked = _linked(subject)
    if not linked:
        return Row(name, "impact", title, "not applicable", Grade.ABSENT, "no data set is named")
    named: dict[str, Evidence] = {}
    for each in linked:
        match = _ON_HUB.search(each.quote) or _HUB_NAME.fullmatch(each.quote)
        if match:
            named.setdefault(match[1], each)
    found = {each: subject.source.data_set(each) for each in list(named)[:_MOST_LOOKED_UP]}
    known = {each: what for each, what in found.items() if what is not None}
    if not known:
        reason = f"{len(linked)} named or linked; nothing beyond this folder was asked for them"
        return Row(name, "impact", title, "unknown", Grade.LINKED, reason, tuple(linked[:6]))
    missing = [each for each, what in known.items() if not what]
    shown = "; ".join(f"{each}: {what or 'not there, or private'}" for each, what in known.items())
    places = tuple(named[each] for each in (missing or list(known)))[:6]
    answer: Answer = "no" if len(missing) == len(known) else "partly" if missing else "yes"
    return Row(name, "impact", title, answer, Grade.LINKED, shown[:1500], places)


def _about_training(document: Document, line: int) -> bool:
    text = document.lines[line - 1] + " " + " ".join(document.headings[line - 1])
    return bool(_TRAINED.search(text)) and not re.search(r"evaluat|benchmark", text, re.I)


def _lines(subject: Subject, pattern: re.Pattern[str]) -> Iterator[Evidence]:
    """Lines about training on something."""
    for document in subject.documents:
        for number, line in enumerate(document.lines, 1):
            if re.search(
                r"train(?:ed)?\b.{0,60}\bon\b|fine-?tuned\b.{0,40}\bwith\b|training data", line, re.I
            ) and pattern.search(plain(_URL.sub("", line))):
                yield document.at(number)


def _order(subject: Subject) -> Row:
    title, name = "The order in which the data were used is published", "data.order"
    files = subject.source.find("*order*.npy", "*indices*.npy", "data_order*", "*index_map*")
    if files:
        places = tuple(subject.source.whole(path) for path in files[:4])
        return Row(name, "definition", title, "yes", Grade.PRESENT, ", ".join(files[:4]), places)
    transcripts = subject.source.find("transcript.jsonl")
    if transcripts and data_files(subject):
        place = subject.source.whole(transcripts[0])
        reason = f"a function of data fingerprint, seed and step, which {transcripts[0]} records"
        return Row(name, "definition", title, "yes", Grade.PRESENT, reason, (place,))
    return Row(name, "definition", title, "no", Grade.ABSENT, "no file of indices, and nothing to compute it from")


def _tokenizer(subject: Subject) -> Row:
    title, name = "The tokenizer is published", "data.tokenizer"
    found = subject.source.find("tokenizer.json", "tokenizer.model", "*.tiktoken", "vocab.json", "spiece.model")
    files = tuple(path for path in found if not is_test(path))
    if files:
        places = tuple(subject.source.whole(path) for path in files[:4])
        answer: Answer = "yes"
        return Row(name, "definition", title, answer, Grade.PRESENT, ", ".join(files[:4]), places)
    links = weight_links(subject)
    if links:
        places = tuple(Evidence(file, f"line {link.line}", link.target) for file, link in links[:2])
        return Row(name, "definition", title, "yes", Grade.LINKED, "not here; it comes with the linked weights", places)
    return Row(name, "definition", title, "no", Grade.ABSENT, "no file of one")
