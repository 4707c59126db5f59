"""Training data: how far an outsider could come to having the same.

A ladder, each step of which someone calls "open data": 0 nothing is said, 1 described, 2 sources named, 3 data sets
linked, 4 with proportions, 5 the scripts that made them, 6 the bytes, hashed. Complete means 6 with a list of what
there is, or 3 and up where nothing says that more was used: what is linked is not read. A model made from another was
trained on that one's data too, so what a tuning used is a part; so is what leaves data out that are kept back.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from clearseek.audit import questions as ask
from clearseek.audit.checks.code import linked_data_code
from clearseek.audit.checks.weights import weight_links
from clearseek.audit.evidence import Answer, Evidence, Grade, Row
from clearseek.audit.read.card import Document, plain
from clearseek.audit.read.listing import Listing, listing
from clearseek.audit.read.presence import Sifted, sift
from clearseek.audit.read.source import is_test
from clearseek.audit.read.subject import Subject
from clearseek.audit.read.tables import table_cells

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
_BENCHMARK = re.compile(r"mmlu|gsm8k|\bc?math\b|math-?500|humaneval|arc-|hellaswag|bbh|aime|gpqa|winogrande|piqa", re.I)
SMALLEST_SET: Final = 100_000
"""Bytes that training data have at least, where no manifest lists them with sizes and counts."""
_PROPORTION = re.compile(r"tokens|%|percent|proportion|weight|share|ratio|epochs|sampling|比例", re.I)
_HELD_BACK = re.compile(
    r"\b(?:proprietary|in-house|internal|undisclosed|non-public|private(?:ly)?)\s(?:[\w-]{1,30}\s){0,3}"
    r"(?:data(?:sets?)?|corpus|corpora)\b",
    re.I,
)
_DENIED = re.compile(r"\b(?:no|not|nor|never|without|neither|free of|instead of|remov\w+|exclud\w+|filter\w*)\b", re.I)
_TUNED = re.compile(r"fine-?tun|post-?train|\bsft\b|\bdpo\b|rlhf|instruct|align|prefer", re.I)
_PRETRAINED = re.compile(r"pre-?train", re.I)
_FROM_ANOTHER = re.compile(r"\bfine-?tuned (?:version of|from)\b", re.I)
_HELD_OUT = re.compile(r"\.(?:jsonl?|parquet|bin|arrow|npy|csv|tsv|txt|tfrecord|offsets)(?:\.gz|\.zst)?$")
_DATA_FILES = re.compile(r"\.(?:parquet|jsonl(?:\.gz|\.zst)?|arrow|bin|npy|tfrecord|tar\.zst)$")


def rows(subject: Subject) -> Iterator[Row]:
    """The training data, their sources, the tokenizer, the data of the evaluation."""
    yield _training(subject)
    yield _sources(subject)
    yield _tokenizer(subject)
    yield _evaluation(subject)


def _evaluation(subject: Subject) -> Row:
    found = sift(subject.source, (path for path in subject.source.sizes if _is_held_out(path)), "data", 4)
    if found.real:
        return found.here(subject.source, ask.DATA_EVALUATION, 4)
    for document in subject.documents:
        named: dict[str, int] = {}
        for cell in table_cells(document):
            label = next((text for text in cell.row[1::-1] if len(text) < 100 and _BENCHMARK.search(text)), "")
            if label and len(cell.row) > 1 and "://" not in label:
                named.setdefault(label, cell.line)
        if named:
            shown = sorted(named)
            reason = f"public benchmarks by name: {', '.join(shown[:6])}" + (", …" if len(shown) > 6 else "")
            return ask.DATA_EVALUATION.yes(Grade.CLAIMED, reason, document.at(named[shown[0]]))
    return found.missing(subject.source, ask.DATA_EVALUATION, "neither files nor names of public benchmarks")


def _is_held_out(path: str) -> bool:
    """Whether a file is evaluation data, by its name or its folder's."""
    folder, _, base = path.lower().rpartition("/")
    if is_test(path) or not _HELD_OUT.search(base):
        return False
    if re.search(r"held-?out", path.lower()) or re.search(r"(?:^|/)validation(?:/|$)", folder):
        return True
    return re.search(r"eval\w*(?:/|$)", folder) is not None and bool(
        re.search(r"\.(?:jsonl|parquet|bin|arrow)(?:\.gz|\.zst)?$", base)
    )


def _training(subject: Subject) -> Row:
    found = sift(subject.source, data_files(subject), "data")
    here = _bytes(subject, found) if found.real else None
    linked = _linked(subject)
    if linked and (here is None or here.answer != "yes"):  # a sample of what is linked
        return _links(subject, linked)
    if here is not None:
        return here
    if found.hollow or found.unread:
        return found.missing(subject.source, ask.DATA_TRAINING, "")
    for level, pattern in ((2, _SOURCES), (1, _DESCRIBED)):
        places = tuple(_lines(subject, pattern))
        if places:
            reason = f"level {level}, {LEVELS[level]}, and no more: no data here, no list of data sets, no link to one"
            return ask.DATA_TRAINING.no(Grade.ABSENT, reason, *places[:4])
    return ask.DATA_TRAINING.no(Grade.ABSENT, f"level 0: {LEVELS[0]}")


def _bytes(subject: Subject, found: Sifted) -> Row:
    """Files of data that are here: whether they can be all of it."""
    size = sum(subject.source.sizes[path] for path in found.real)
    places = tuple(subject.source.whole(path) for path in found.real[:6])
    reason = f"level 6, {LEVELS[6]}: {len(found.real)} files, {size:,} bytes"
    stated = max(subject.stated("tokens"), key=lambda claim: claim.value, default=None)
    if stated is not None and size < BYTES_PER_TOKEN * stated.value:
        reason += f", which cannot hold the {stated.text} tokens that are stated"
        return ask.DATA_TRAINING.partly(Grade.CLAIMED, reason, *places, stated.evidence)
    known = listing(subject.source)
    problem = _incomplete(found, known)
    if size < SMALLEST_SET and (known is None or not known.counted):
        reason += ": too few for a training set, and no manifest lists them with their sizes and counts of tokens"
        return ask.DATA_TRAINING.partly(Grade.CLAIMED, reason, *places)
    if problem:
        return ask.DATA_TRAINING.partly(Grade.PRESENT, f"{reason}; {problem}", *places)
    return ask.DATA_TRAINING.yes(Grade.PRESENT, reason, *places)


def _incomplete(found: Sifted, known: Listing | None) -> str:
    """What stands against these being all of the data; empty where nothing does."""
    not_real = {**found.hollow, **found.unread}
    if not_real and not (known is not None and known.counted and not known.problem):  # an empty split, listed as one
        path, why = next(iter(not_real.items()))
        return f"{path} {why}"
    if known is None:
        return "no manifest"
    return known.problem


def _links(subject: Subject, linked: list[Evidence]) -> Row:
    """Data sets that are linked: how much more is told of them, and whether something says that they are not all."""
    shown = ", ".join(list(dict.fromkeys(each.quote for each in linked))[:16])
    proportions, scripts = _proportions(subject), linked_data_code(subject)
    level = 5 if scripts else 4 if proportions else 3
    reason = f"level {level}, {LEVELS[level]}: {shown}; none was read"
    places = tuple(linked[:6])
    if proportions:
        reason += "; proportions in a table" if scripts else ""
        places += (proportions,)
    places += tuple(scripts[:1])
    base = _base(subject)
    if base is not None and not _covers_base(subject):
        reason += f"; it was made from {base.quote}, and what that was trained on is not among them"
        return ask.DATA_TRAINING.partly(Grade.LINKED, reason, *places, base)
    kept = _held_back(subject)
    if kept is not None:
        reason += "; a document speaks of data that are kept back"
        return ask.DATA_TRAINING.partly(Grade.LINKED, reason, *places, kept)
    return ask.DATA_TRAINING.yes(Grade.LINKED, reason, *places)


def _proportions(subject: Subject) -> Evidence | None:
    """A table that says how much of each source there was."""
    for document in subject.documents:
        rows: dict[tuple[str, ...], set[str]] = {}
        for cell in table_cells(document):
            if (
                cell.column
                and re.fullmatch(r"[~≈]?\d[\d,.]*\s?(?:%|[KMBT]|GB|TB)?", cell.text)
                and len(cell.header) > 1
            ):
                header = cell.header[cell.column][:80] if cell.column < len(cell.header) else ""
                source = cell.row[0][:200]
                named = _SOURCES.search(source) or _ON_HUB.search(source)
                if named and _PROPORTION.search(header):
                    rows.setdefault(cell.header, set()).add(source)
                    if len(rows[cell.header]) > 1:
                        return document.at(cell.line)
    return None


def _base(subject: Subject) -> Evidence | None:
    """The model that this one was made from, where the card says so."""
    card = subject.card
    if card is None:
        return None
    named = (subject.metadata.value or {}).get("base_model")
    for each in named if isinstance(named, list) else [named]:
        if isinstance(each, str) and each.strip():
            line = next((n for n, text in enumerate(card.lines, 1) if each in text), 1)
            return Evidence(card.file, f"line {line}, key base_model", each[:200], card.sha256)
    said = next((n for n, text in enumerate(card.lines, 1) if _FROM_ANOTHER.search(text)), None)
    return None if said is None else card.at(said)


def _covers_base(subject: Subject) -> bool:
    """Whether a data set is linked where a document speaks of what came before the tuning."""
    for document in subject.documents:
        for number in sorted({link.line for link in document.links if _DATASET.match(link.target)}):
            text = document.lines[number - 1] + " " + " ".join(document.headings[number - 1])
            if _PRETRAINED.search(text) and not _TUNED.search(text):
                return True
    return False


def _held_back(subject: Subject) -> Evidence | None:
    """A line about training on data that nobody else has."""
    for document in subject.documents:
        for number, line in enumerate(document.lines, 1):
            match = _HELD_BACK.search(line)
            if match and _TRAINED.search(line) and not _DENIED.search(line[: match.start()]):
                return document.at(number)
    return None


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
    hashes = {document.file: document.sha256 for document in subject.documents}
    linked = subject.links(_DATASET.match, _about_training)
    return out + [replace(each, sha256=hashes[each.file]) for each in linked]


def _sources(subject: Subject) -> Row:
    """The data sets that are named, looked up on the hub where the release is."""
    linked = _linked(subject)
    if not linked:
        return ask.DATA_SOURCES.not_applicable("no data set is named")
    named: dict[str, Evidence] = {}
    for each in linked:
        match = _ON_HUB.search(each.quote) or _HUB_NAME.fullmatch(each.quote)
        if match:
            named.setdefault(match[1], each)
    found = {each: subject.source.data_set(each) for each in list(named)[:_MOST_LOOKED_UP]}
    known = {each: what for each, what in found.items() if what is not None}
    if not known:
        reason = f"{len(linked)} named or linked; nothing beyond this folder was asked for them"
        return ask.DATA_SOURCES.unknown(Grade.LINKED, reason, *linked[:6])
    missing = [each for each, what in known.items() if not what]
    shown = "; ".join(f"{each}: {what or 'not there, or private'}" for each, what in known.items())
    places = tuple(named[each] for each in (missing or list(known)))[:6]
    answer: Answer = "no" if len(missing) == len(known) else "partly" if missing else "yes"
    return ask.DATA_SOURCES.answer(answer, Grade.LINKED, shown[:1500], *places)


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


def _tokenizer(subject: Subject) -> Row:
    named = subject.source.find("tokenizer.json", "tokenizer.model", "*.tiktoken", "vocab.json", "spiece.model")
    found = sift(subject.source, (path for path in named if not is_test(path)), "tokenizer", 4)
    if found.real:
        return found.here(subject.source, ask.DATA_TOKENIZER, 4)
    if links := weight_links(subject):
        return ask.DATA_TOKENIZER.yes(Grade.LINKED, "not here; it comes with the linked weights", *links[:2])
    return found.missing(subject.source, ask.DATA_TOKENIZER, "no file of one")
