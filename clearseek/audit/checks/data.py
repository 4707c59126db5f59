"""Training data: how far an outsider could come to having the same.

What counts as published is what a reader of the release can take: files that are here, or places that its documents
link as what the model was trained on. What is linked is not read. A model that was tuned from another's is judged by
the data of the tuning; its base's are a question about the base. That the maker keeps data back, or publishes a sample,
is in the maker's words or in none.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import partial
from typing import Final

from clearseek.audit import questions as ask
from clearseek.audit.checks.code import linked_data_code
from clearseek.audit.checks.data_sets import (
    CUES,
    SMALLEST_SET,
    DataSet,
    data_files,
    data_sets,
    is_evaluation_data,
)
from clearseek.audit.checks.evaluations import BENCHMARK, score_cells
from clearseek.audit.checks.papers import own_papers
from clearseek.audit.checks.weights import weight_links
from clearseek.audit.evidence import Answer, Evidence, Grade, Row
from clearseek.audit.read.card import Sentence
from clearseek.audit.read.claims import normalise
from clearseek.audit.read.listing import Listing, listing
from clearseek.audit.read.mentions import is_model_name, of_another, own_documents
from clearseek.audit.read.presence import Sifted, sift
from clearseek.audit.read.source import is_test
from clearseek.audit.read.subject import Subject

BYTES_PER_TOKEN: Final = 0.02
"""Fewest that published data can have for each token that a model was trained on: compressed, and read many times."""
_MOST_LOOKED_UP: Final = 20
_HUB_NAME = re.compile(r"[\w.-]{1,96}(?:/[\w.-]{1,96})?")
_DATA = r"(?:data(?:\b|-?sets?)|corp(?:us|ora)|训练数据|数据集|语料)"
_DESCRIBED = re.compile(rf"tokens|{_DATA}|samples|数据", re.I)
_PUBLIC = re.compile(
    r"\b(?:the pile|c4|mc4|redpajama|slimpajama|refinedweb|fineweb(?:-edu)?|dolma|openwebtext|starcoderdata|the stack"
    r"|roots corpus|oscar|culturax|dclm|nemotron-cc|minipile|tinystories|ultrachat|ultrafeedback|openhermes"
    r"|metamathqa|oasst1?|openassistant|dolly-15k|slimorca|flan collection|bookcorpus|wikitext(?:-103)?|enwik8)\b",
    re.I,
)  # fmt: skip
"""Data sets that anybody can have under the name that sentences give them."""
_TRAINED_ON = re.compile(
    r"(?:train|tun)(?:ed|ing)\b[^.;]{0,60}?\b(?:on|with|using|over)\b|\btrain\b[^.;,]{0,50}\bon\b"
    r"|train(?:ing)? (?:data|corpus|set)|训练",
    re.I,
)
_NOT_GIVEN = re.compile(
    r"\b(?:not|n't|n\u2019t|cannot|unable|never|no (?:plans?|intention))\b[^.;]{0,40}?(?:\b(?:releas|publish|shar"
    r"|disclos|open-?sourc|distribut|provid)\w*|\b(?:publicly )?(?:available|public|open)\b)|\b(?:is|are|remains?"
    r"|kept) (?:strictly |fully )?(?:proprietary|confidential|undisclosed|closed|private)\b|\bwithh(?:e|o)ld|(?:不|未"
    r"|无法|暂不|没有)(?:会|予|能|便)?(?:开源|公开|发布|提供|共享)",
    re.I,
)
"""Words of a maker who does not give something out."""
_NOT_ABOUT = re.compile(
    r"\b(?:only|just|yet another|unlike|personal|private information|user|evaluation|benchmark|test|weights|responsib"
    r"|guarantee|licen[cs]e|third[- ]part|remov\w+|filter\w*|web page)\b|if the",
    re.I,
)
_HELD_BACK = re.compile(
    r"\b(?:proprietary|in-house|internal|undisclosed|non-public|closed"
    r"|private(?:ly)?)\s(?:[\w-]{1,30}\s){0,3}(?:data(?:sets?)?|corpus|corpora|mix(?:ture)?)\b|(?:自有|私有"
    r"|内部)(?:训练)?数据",
    re.I,
)
_DENIED = re.compile(r"\b(?:no|not|nor|never|without|neither|free of|instead of|remov\w+|exclud\w+|filter\w*)\b", re.I)
_PART = re.compile(
    rf"\b(?:sample|subset|part|portion|fraction|excerpt|preview|selection|some|half"
    rf"|\d{{1,2}} ?%)\s(?:\w+\s)?of\b(?:\s(?:the|our|its|this|all))?(?:\s[\w-]+){{0,3}}?\s{_DATA}|(?:部分|一部分"
    rf"|抽样)[^。]{{0,8}}数据",
    re.I,
)
_GIVEN = re.compile(
    r"releas|publish|provid|open-?sourc|shar|available|download|upload|contain|here|开源|发布|下载", re.I
)
_OPEN = re.compile(
    r"^(?=.*\b(?:releas|publish|open-?sourc|publicly available|includes?\b|fully open))"
    rf"(?:.*\btraining {_DATA}|(?=.*\b(?:weights|checkpoints|code)\b).*\bdata-?sets\b)",
    re.I,
)
"""A maker's words that the training data are given out."""
_PRETRAINED = re.compile(
    r"\bpre-?train\w*\b|\btrained from scratch\b|\b(?:train\w*|on|over) (?:on )?(?:\w+ ){0,3}?[\d.,]+ ?(?:T|B"
    r"|trillion|billion)\+? (?:[\w-]+ ){0,4}tokens|预训练|预訓練",
    re.I,
)
_FROM_ANOTHER = re.compile(
    r"\b(?:fine-?tuned|tuned|adapted|distilled|trained) (?:version of|from) (?P<of>[\w./ -]{2,60})|\b(?:fine-?tuned"
    r"|by fine-?tuning) (?:the )?(?P<it>[\w./-]*\d[\w./-]*)|\bbased on (?P<on>[\w./-]*\d+\.?\d*b)\b"
    r"|\binitiali[sz]ed from (?P<init>[\w./-]{2,60})",
    re.I,
)


def rows(subject: Subject) -> Iterator[Row]:
    """The training data, their sources, the tokenizer, the data of the evaluation."""
    yield _training(subject)
    yield _sources(subject)
    yield _tokenizer(subject)
    yield _evaluation(subject)


# -- data.training --------------------------------------------------------------------------------------------------


def _training(subject: Subject) -> Row:
    found = sift(subject.source, data_files(subject), "data")
    here = _bytes(subject, found) if found.real else None
    linked = [each for each in data_sets(subject) if each.use in ("trained", "listed") and not each.file]
    if linked and (here is None or here.answer != "yes"):  # a sample of what is linked
        return _links(subject, linked)
    if here is not None:
        return here
    if refused := _said(subject, _is_refusal):
        reason = f"the maker says that the training data are not given out: “{refused.quote}”"
        return ask.DATA_TRAINING.no(Grade.CLAIMED, reason, refused)
    if found.hollow or found.unread:
        return found.missing(subject.source, ask.DATA_TRAINING, "")
    if place := _said(subject, partial(_is_trained_on, pattern=_PUBLIC)):
        reason = f"public data sets are named, not linked, as what it was trained on: “{place.quote}”"
        return ask.DATA_TRAINING.partly(Grade.CLAIMED, reason, place)
    if place := _said(subject, partial(_is_trained_on, pattern=_DESCRIBED)):
        reason = f"no training data here and no link to any; they are described in words only: “{place.quote}”"
        return ask.DATA_TRAINING.no(Grade.ABSENT, reason, place)
    reason = "no training data here, no link to any, and no document says what they were"
    return ask.DATA_TRAINING.no(Grade.ABSENT, reason)


def _bytes(subject: Subject, found: Sifted) -> Row:
    """Files of data that are here: whether they can be all of it."""
    size = sum(subject.source.sizes[path] for path in found.real)
    places = tuple(subject.source.whole(path) for path in found.real[:6])
    named = {each.name: each.evidence for each in data_sets(subject) if each.file and each.use == "trained"}
    places += tuple(dict.fromkeys(named[path] for path in found.real if path in named))[:2]
    reason = f"the training data are in {len(found.real)} files here, {size:,} bytes: {', '.join(found.real[:4])}"
    reason += ", …" if len(found.real) > 4 else ""
    stated = max(subject.stated("tokens"), key=lambda claim: claim.value, default=None)
    if stated is not None and size < BYTES_PER_TOKEN * stated.value and _base(subject) is None:
        reason += f", which cannot hold the {stated.text} tokens that are stated"
        return ask.DATA_TRAINING.partly(Grade.CLAIMED, reason, *places, stated.evidence)
    known = listing(subject.source)
    if size < SMALLEST_SET and (known is None or not known.counted):
        reason += ": too few for a training set, and no list gives their sizes and counts of tokens"
        return ask.DATA_TRAINING.partly(Grade.CLAIMED, reason, *places)
    if part := _said(subject, _is_part):
        return ask.DATA_TRAINING.partly(
            Grade.PRESENT, f"{reason}; a document says that they are a part: “{part.quote}”", *places, part
        )
    if all(path in named for path in found.real) and not found.hollow and not found.unread:
        return ask.DATA_TRAINING.yes(
            Grade.PRESENT, f"{reason}, which the documents name as what it was trained on", *places
        )
    if problem := _incomplete(found, known):
        return ask.DATA_TRAINING.partly(Grade.PRESENT, f"{reason}; {problem}", *places)
    return ask.DATA_TRAINING.yes(Grade.PRESENT, reason, *places)


def _incomplete(found: Sifted, known: Listing | None) -> str:
    """What stands against these being all of the data; empty where nothing does."""
    not_real = {**found.hollow, **found.unread}
    if not_real and not (known is not None and known.counted and not known.problem):  # an empty split, listed as one
        path, why = next(iter(not_real.items()))
        return f"{path} {why}"
    return "no list says which files there should be" if known is None else known.problem


def _links(subject: Subject, linked: list[DataSet]) -> Row:
    """Data sets that are linked: how much more is told of them, and what says that they are not all."""
    linked = sorted(linked, key=lambda each: each.use != "trained")
    names = list(dict.fromkeys(each.name for each in linked))
    trained = [each for each in linked if each.use == "trained"]
    told = bool(trained) or _said(subject, _is_release) is not None
    reason = "the documents link what it was trained on" if told else "the documents link data sets of its maker"
    reason += f": {', '.join(names[:12])}{', …' if len(names) > 12 else ''} (not read)"
    places = tuple({each.evidence.quote: each.evidence for each in linked[:40]}.values())[:6]
    if scripts := linked_data_code(subject):
        reason += "; the code that made them is linked"
        places += tuple(scripts[:1])
    base, pretrained = _base(subject), _said(subject, lambda text, _: _PRETRAINED.search(text))
    missing: list[tuple[str, Evidence | None]] = []
    if base is None and trained and all(each.stage == "fine-tuning" for each in trained):
        missing.append(("these are the data of the fine-tuning; those of the pre-training are not linked", pretrained))
    elif not told and (pretrained or not any(each.sentence for each in linked)):
        missing.append(
            ("no sentence says that they are all that it was trained on", pretrained if base is None else None)
        )
    for words, kind in (
        ("a document speaks of data that are kept back", _is_held_back),
        ("the maker does not give out other data", _is_refusal),
        ("what is published is said to be a part", _is_part),
    ):
        if place := _said(subject, kind):
            missing.append((f"{words}: “{place.quote}”", place))
    if base is not None:
        reason += f"; it was made from {base.quote}, whose own training data are a question about that model"
        places += (base,)
    if missing:
        reason = "; ".join((reason, *(words for words, _ in missing)))
        return ask.DATA_TRAINING.partly(Grade.LINKED, reason, *places, *(each for _, each in missing if each))
    return ask.DATA_TRAINING.yes(Grade.LINKED, reason, *places)


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
    for sentence in card.sentences[:400]:
        found = _FROM_ANOTHER.search(sentence.text[:600])
        name = next(filter(None, found.groups()), "") if found else ""
        if found and is_model_name(name) and not subject.kin(name.rpartition("/")[2].strip()):
            return card.at(sentence.line_at(found.start()), name.strip())
    return None


def _said(subject: Subject, kind: Callable[[str, Sentence], re.Match[str] | None]) -> Evidence | None:
    """The first sentence of a kind in the release's own documents that is not about another model."""
    names = frozenset(map(normalise, subject.names))
    for document in own_documents(subject):
        for sentence in document.sentences if "/" not in document.file else ():
            found = kind(sentence.text[:1_000], sentence)
            if found and not of_another(sentence.text[: found.start()], names):
                return document.at(sentence.line, sentence.text[:240])
    return None


def _is_trained_on(text: str, sentence: Sentence, pattern: re.Pattern[str]) -> re.Match[str] | None:
    return _TRAINED_ON.search(text) if pattern.search(re.sub(r"https?://\S+", "", text)) else None


def _is_refusal(text: str, sentence: Sentence) -> re.Match[str] | None:
    found = _NOT_GIVEN.search(text)
    if found is None or _NOT_ABOUT.search(text) or not re.search(_DATA, text, re.I):
        return None
    trains = any(map(CUES["trained"].search, (text, *sentence.headings[-1:])))
    return found if trains or re.search(r"\b(?:the|our|its) (?:\w+ )?data(?:-?sets?)?\b", text, re.I) else None


def _is_held_back(text: str, sentence: Sentence) -> re.Match[str] | None:
    found = _HELD_BACK.search(text)
    return found if found and CUES["trained"].search(text) and not _DENIED.search(text[: found.start()]) else None


def _is_part(text: str, sentence: Sentence) -> re.Match[str] | None:
    other = CUES["evaluated"].search(text) or _DENIED.search(text) or not _GIVEN.search(text)
    return None if other else _PART.search(text)


def _is_release(text: str, sentence: Sentence) -> re.Match[str] | None:
    return None if _DENIED.search(text) else _OPEN.search(text)


# -- the other rows -------------------------------------------------------------------------------------------------


def _sources(subject: Subject) -> Row:
    """The data sets that are named, looked up on the hub where the release is."""
    linked = [each for each in data_sets(subject) if each.use in ("trained", "listed") and not each.file]
    if not linked:
        return ask.DATA_SOURCES.not_applicable("no data set is named that it was trained on")
    named: dict[str, Evidence] = {}
    for each in linked:
        if _HUB_NAME.fullmatch(each.name):
            named.setdefault(each.name, each.evidence)
    found = {each: subject.source.data_set(each) for each in list(named)[:_MOST_LOOKED_UP]}
    known = {each: what for each, what in found.items() if what is not None}
    if not known:
        reason = f"{len(linked)} links to data sets; none was followed, for only this folder was read"
        return ask.DATA_SOURCES.unknown(Grade.LINKED, reason, *(each.evidence for each in linked[:6]))
    missing = [each for each, what in known.items() if not what]
    shown = "; ".join(f"{each}: {what or 'not there, or private'}" for each, what in known.items())
    places = tuple(named[each] for each in (missing or list(known)))[:6]
    answer: Answer = "no" if len(missing) == len(known) else "partly" if missing else "yes"
    return ask.DATA_SOURCES.answer(answer, Grade.LINKED, shown[:1500], *places)


_TOKENIZERS: Final = (
    "tokenizer.json", "tokenizer*.model", "*.tiktoken", "vocab.json", "vocab.txt", "spiece.model", "tekken.json",
    "*tokenizer*.txt", "sentencepiece*.model", "*bpe*.model", "*vocab*.txt",
)  # fmt: skip
_LOADED = re.compile(r"Tokenizer\.from_pretrained\(\s*[\"'][\w.-]{1,96}/[\w.-]{1,96}[\"']")


def _tokenizer(subject: Subject) -> Row:
    named = subject.source.find(*_TOKENIZERS)
    found = sift(subject.source, (path for path in named if not is_test(path)), "tokenizer", 4)
    if found.real:
        return found.here(subject.source, ask.DATA_TOKENIZER, 4)
    if links := weight_links(subject):
        return ask.DATA_TOKENIZER.yes(Grade.LINKED, "not here; it comes with the linked weights", *links[:2])
    for document in subject.documents:
        line = next((number for number, text in enumerate(document.lines, 1) if _LOADED.search(text)), None)
        if line is not None:
            return ask.DATA_TOKENIZER.yes(
                Grade.LINKED, "not here; a document says where it is loaded from", document.at(line)
            )
    reason = (
        "no tokenizer's file here (tokenizer.json, tokenizer.model, …), and no link to weights that it would come with"
    )
    return found.missing(subject.source, ask.DATA_TOKENIZER, reason)


def _evaluation(subject: Subject) -> Row:
    found = sift(
        subject.source, (path for path in subject.source.sizes if is_evaluation_data(subject.source, path)), "data", 4
    )
    if found.real:
        return found.here(subject.source, ask.DATA_EVALUATION, 4)
    linked = [each for each in data_sets(subject) if each.use == "evaluated" and not each.file]
    named: dict[str, Evidence] = {}
    for document in own_documents(subject):
        for cell in score_cells(document):
            for label in (*cell.row[:2], *cell.header[cell.column : cell.column + 1]):
                if label not in named and len(label) < 60 and BENCHMARK.search(label) and len(named) < 50:
                    named[label] = document.at(cell.line)
        for sentence in document.sentences if not named else ():
            if (match := BENCHMARK.search(sentence.text[:2_000])) and CUES["evaluated"].search(
                " ".join((sentence.text[:2_000], *sentence.headings))
            ):
                named.setdefault(match[0], document.at(sentence.line))
    if linked:
        reason = f"linked, not read: {', '.join(dict.fromkeys(each.name for each in linked[:6]))}"
        return ask.DATA_EVALUATION.yes(Grade.LINKED, reason, *(each.evidence for each in linked[:4]))
    if named:
        shown = sorted(named)
        reason = f"public benchmarks by name: {', '.join(shown[:6])}" + (", …" if len(shown) > 6 else "")
        return ask.DATA_EVALUATION.yes(Grade.CLAIMED, reason, *dict.fromkeys(named[each] for each in shown[:4]))
    if own := own_papers(subject):
        reason = "no evaluation data here and no benchmark by name; the model's own report is linked and was not read"
        return ask.DATA_EVALUATION.unknown(Grade.ABSENT, reason, own[0].evidence)
    reason = "no files of evaluation data, no link to any, and no public benchmark by name"
    return found.missing(subject.source, ask.DATA_EVALUATION, reason)
