"""Training data: how far an outsider could come to having the same.

What counts as published is what a reader of the release can take: files that are here, or places that its documents
link as what the model was trained on. What is linked is not read. A model that was tuned from another's is judged by
the data of the tuning; its base's are a question about the base. That the maker keeps data back, or publishes a sample,
is in the maker's words or in none.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import chain, islice
from typing import Final, NamedTuple

from clearseek.audit import questions as ask
from clearseek.audit.checks.code import linked_data_code
from clearseek.audit.checks.data_sets import (
    CUES,
    SMALLEST_SET,
    DataSet,
    data_files,
    data_sets,
    is_evaluation_data,
    trained_on,
)
from clearseek.audit.checks.evaluations import score_cells
from clearseek.audit.checks.papers import own_papers
from clearseek.audit.checks.weights import may_lie_elsewhere, weight_links
from clearseek.audit.evidence import Answer, Grade, Row
from clearseek.audit.presence import Sifted, sift
from clearseek.reading.claims import normalise
from clearseek.reading.evidence import Evidence, amount
from clearseek.reading.listing import listing
from clearseek.reading.mentions import is_model_name, mentions, of_another, own_documents, tagged
from clearseek.reading.source import is_test
from clearseek.reading.subject import Subject
from clearseek.reading.words import BENCHMARK, WORDS, any_of, cue

BYTES_PER_TOKEN: Final = 0.02
"""Fewest that published data can have for each token that a model was trained on: compressed, and read many times."""
_MOST_LOOKED_UP: Final = 20
_HUB_NAME = re.compile(r"[\w.-]{1,96}(?:/[\w.-]{1,96})?")
_URL = re.compile(r"https?://\S+")


class Said(NamedTuple):
    """A kind of statement that a maker makes of the data, by the words that its sentence has."""

    words: re.Pattern[str]
    also: tuple[re.Pattern[str], ...] = ()
    """What the sentence, or the heading above, has beside them."""
    but: tuple[re.Pattern[str], ...] = ()
    """What the sentence does not have."""
    first: re.Pattern[str] | None = None
    """What it has at least, where that is quicker to see."""


_DENIED = cue("denied")
_ON_PUBLIC = Said(cue("trained_on"), (any_of(WORDS["names"]["data_sets"], around=r"\b{}\b"),))
"""On data sets that anybody can have under the name that sentences give them."""
_NAMED = Said(any_of(WORDS["names"]["data_sets"], around=r"\b{}\b"), but=(CUES["evaluated"],))
"""On such data sets, without a word on what they are to the model."""
_TRAINS = re.compile(rf"\b{WORDS['parts']['train']}(?:ed|ing|s)?\b", re.I)
_LIST: Final = 30
"""Lines in which a list follows the sentence that announces it."""
_DESCRIBED = Said(cue("described"), but=(cue("not_described"),))
_TOLD = _DESCRIBED._replace(also=(cue("data_told"),))
"""Sentences that also say how much the data are, or where they are from."""
_REFUSAL = Said(cue("not_given"), (cue("data"), cue("trained", "data_of_ours")), (cue("not_about"),))
_HELD_BACK = Said(cue("held_back"), (CUES["trained"],), (_DENIED,))
_PART = Said(cue("part"), (cue("given"),), (CUES["evaluated"], _DENIED))
_RELEASE = Said(cue("all_given"), but=(_DENIED,))
_PRETRAINED = Said(cue("pretrained"))
_FROM_ANOTHER = cue("from_another")


def rows(subject: Subject) -> Iterator[Row]:
    """The training data, their sources, the tokenizer, the data of the evaluation."""
    yield _training(subject)
    yield _sources(subject)
    yield _tokenizer(subject)
    yield _evaluation(subject)


# -- data.training --------------------------------------------------------------------------------------------------


def _training(subject: Subject) -> Row:
    question, found = ask.DATA_TRAINING, sift(subject.source, data_files(subject), "data")
    here = _bytes(subject, found) if found.real else None
    linked = trained_on(subject)
    if linked and (here is None or here.answer != "yes"):  # a sample of what is linked
        return _links(subject, linked)
    if here is not None:
        return here
    if refused := _said(subject, _REFUSAL):
        reason = f"the maker says that the training data are not given out: “{refused.quote}”"
        return question.no(Grade.CLAIMED, reason, refused)
    if found.hollow or found.unread:
        return found.missing(subject.source, question, "")
    if away := [each.evidence for each in data_sets(subject) if each.use == "withheld"]:
        reason = "no training data here; the link to some says that they are not given out there, or not yet"
        return question.no(Grade.CLAIMED, reason, *away[:4])
    if place := _said(subject, _ON_PUBLIC):
        reason = f"public data sets are named, not linked, as what it was trained on: “{place.quote}”"
        return question.partly(Grade.CLAIMED, reason, place)
    place, named = _said(subject, _TOLD) or _said(subject, _DESCRIBED), _said(subject, _NAMED)
    if named is not None:
        under = place is not None and place.file == named.file and 0 <= _line(named) - _line(place) <= _LIST
        if under or _TRAINS.search(named.quote):
            reason = f"public data sets are named, not linked, as what it was trained on: “{named.quote}”"
            return question.partly(Grade.CLAIMED, reason, named)
        reason = f"a public data set is named, and nothing clearly says whether it was trained on that: “{named.quote}”"
        return question.unknown(Grade.CLAIMED, reason, named)
    badges = [each for each in data_sets(subject)
              if each.use == "other" and not each.file and 0 < len(each.sentence.split()) < 3
              and re.fullmatch(r"[\w.-]+/[\w.-]+", each.name)]  # fmt: skip
    if unclear := [each.evidence for each in badges]:
        reason = f"nothing says whether it was trained on the data set that is linked: {unclear[0].quote}"
        return question.unknown(Grade.LINKED, reason, *unclear[:4])
    if place:
        reason = f"no training data here and no link to any; they are described in words only: “{place.quote}”"
        return question.no(Grade.ABSENT, reason, place)
    return question.no(Grade.ABSENT, "no training data here, no link to any, and no document says what they were")


def _line(place: Evidence) -> int:
    """A place's line, or 0 where it has none."""
    found = re.match(r"line (\d+)", place.where)
    return int(found[1]) if found else 0


def _bytes(subject: Subject, found: Sifted) -> Row:
    """Files of data that are here: whether they can be all of it."""
    question, size = ask.DATA_TRAINING, sum(subject.source.sizes[path] for path in found.real)
    named = {each.name: each.evidence for each in data_sets(subject) if each.file and each.use == "trained"}
    places = [subject.source.whole(path) for path in found.real[:6]]
    places += list(dict.fromkeys(named[path] for path in found.real if path in named))[:2]
    shown = ", ".join(found.real[:4]) + (", …" if len(found.real) > 4 else "")
    reason = f"the training data are in {amount(len(found.real), 'file')} here, {size:,} bytes: {shown}"
    stated = max(subject.stated("tokens"), key=lambda claim: claim.value, default=None)
    if stated is not None and size < BYTES_PER_TOKEN * stated.value and _base(subject) is None:
        reason += f", which cannot hold the {stated.text} tokens that are stated"
        return question.partly(Grade.CLAIMED, reason, *places, stated.evidence)
    known = listing(subject.source)
    counted = known is not None and known.counted
    if size < SMALLEST_SET and not counted:
        reason += ": too few for a training set, and no list gives their sizes and counts of tokens"
        return question.partly(Grade.CLAIMED, reason, *places)
    if part := _said(subject, _PART):
        reason += f"; a document says that they are a part: “{part.quote}”"
        return question.partly(Grade.PRESENT, reason, *places, part)
    others = [f"{path} {why}" for path, why in (found.hollow | found.unread).items()]
    problem = "no list says which files there should be" if known is None else known.problem
    if others and (problem or not counted):  # else an empty split, listed as one
        problem = others[0]
    if problem and (others or not named.keys() >= set(found.real)):
        return question.partly(Grade.PRESENT, f"{reason}; {problem}", *places)
    return question.yes(Grade.PRESENT, reason, *places)


def _links(subject: Subject, linked: list[DataSet]) -> Row:
    """Data sets that are linked: how much more is told of them, and what says that they are not all."""
    linked = sorted(linked, key=lambda each: each.use != "trained")
    names = list(dict.fromkeys(each.name for each in linked))
    trained = [each for each in linked if each.use == "trained"]
    told = bool(trained) or _said(subject, _RELEASE) is not None
    reason = "the documents link what it was trained on" if told else "the documents link data sets of its maker"
    reason += f": {', '.join(names[:12])}{', …' if len(names) > 12 else ''} (not read)"
    places = list({each.evidence.quote: each.evidence for each in linked[:40]}.values())[:6]
    if scripts := linked_data_code(subject):
        reason += "; the code that made them is linked"
        places += scripts[:1]
    base, pretrained = _base(subject), _said(subject, _PRETRAINED)
    missing: list[tuple[str, Evidence | None]] = []
    if base is None and trained and all(each.stage == "fine-tuning" for each in trained):
        missing.append(("these are the data of the fine-tuning; those of the pre-training are not linked", pretrained))
    elif not told and (pretrained or not any(each.sentence for each in linked)):
        missing.append(("no sentence says that they are all that it was trained on", pretrained))
    if all(each.part for each in trained or linked):
        missing.append(("a sample, or another part, is linked, and no more", None))
    for words, kind in (
        ("a document speaks of data that are kept back", _HELD_BACK),
        ("the maker does not give out other data", _REFUSAL),
        ("what is published is said to be a part", _PART),
    ):
        if place := _said(subject, kind):
            missing.append((f"{words}: “{place.quote}”", place))
    if base is not None:
        reason += f"; it was made from {base.quote}, whose own training data are a question about that model"
        places.append(base)
    reason = "; ".join((reason, *(words for words, _ in missing)))
    places += [place for _, place in missing if place]
    return ask.DATA_TRAINING.answer("partly" if missing else "yes", Grade.LINKED, reason, *places)


def _base(subject: Subject) -> Evidence | None:
    """The model that this one was made from, where the card says so."""
    card = subject.card
    if card is None:
        return None
    for _, place in tagged(subject, "base_model"):
        return place
    for sentence in card.sentences[:400]:
        if found := _FROM_ANOTHER.search(sentence.text[:600]):
            name = next(filter(None, found.groups()), "").strip()
            if is_model_name(name) and not subject.kin(name.rpartition("/")[2]):
                return card.at(sentence.line_at(found.start()), name)
    return None


def _said(subject: Subject, kind: Said) -> Evidence | None:
    """The first sentence of a kind in the release's own documents that is not about another model."""
    names = frozenset(map(normalise, subject.names))
    for document in own_documents(subject):
        for sentence in document.sentences if "/" not in document.file else ():
            text = sentence.text[:1_000]
            text = _URL.sub("", text) if "://" in text else text
            found = kind.words.search(text) if kind.first is None or kind.first.search(text) else None
            if found is None or any(each.search(text) for each in kind.but):
                continue
            about = " ".join((*sentence.headings[-1:], text))
            if all(each.search(about) for each in kind.also) and not of_another(text[: found.start()], names):
                return document.at(sentence.line, sentence.text[:240])
    return None


# -- the other rows -------------------------------------------------------------------------------------------------


def _sources(subject: Subject) -> Row:
    """The data sets that are named, looked up on the hub where the release is."""
    question, linked = ask.DATA_SOURCES, trained_on(subject)
    if not linked:
        return question.not_applicable("no data set is named that it was trained on")
    named = {each.name: each.evidence for each in reversed(linked) if _HUB_NAME.fullmatch(each.name)}
    found = {each: subject.source.data_set(each) for each in list(named)[::-1][:_MOST_LOOKED_UP]}
    known = {each: what for each, what in found.items() if what is not None}
    if not known:
        reason = f"{amount(len(linked), 'link')} to data sets; none was followed, for only this folder was read"
        return question.unknown(Grade.LINKED, reason, *(each.evidence for each in linked[:6]))
    missing = [each for each, what in known.items() if not what]
    shown = "; ".join(f"{each}: {what or 'not there, or private'}" for each, what in known.items())
    answer: Answer = "no" if len(missing) == len(known) else "partly" if missing else "yes"
    return question.answer(answer, Grade.LINKED, shown[:1500], *(named[each] for each in (missing or list(known))[:6]))


_TOKENIZERS: Final = (
    "tokenizer.json", "tokenizer*.model", "*.tiktoken", "vocab.json", "vocab.txt", "spiece.model", "tekken.json",
    "*tokenizer*.txt", "sentencepiece*.model", "*bpe*.model", "*vocab*.txt",
)  # fmt: skip
_LOADED = re.compile(
    r"Tokenizer\w*\.from_pretrained\(\s*[\"'][\w.-]{1,96}/[\w.-]{1,96}[\"']"
    r"|tiktoken\.(?:get_encoding|encoding_for_model)\(\s*[\"']"
)
_CALLED = re.compile(r"tokeni[sz]er\b(?!s\b)", re.I)
_NAMED_TOKENIZER: Final = Said(
    re.compile(cue("tokenizer_named").pattern), but=(_DENIED,), first=re.compile("tokeni|bpe|_?base|0k|vocab|词", re.I)
)
_MOST_PROGRAMS: Final = 300


def _tokenizer(subject: Subject) -> Row:
    question, named = ask.DATA_TOKENIZER, subject.source.find(*_TOKENIZERS)
    found = sift(subject.source, (path for path in named if not is_test(path)), "tokenizer", 4)
    if found.real:
        return found.here(subject.source, question, 4)
    if links := weight_links(subject):
        return question.yes(Grade.LINKED, "not here; it comes with the linked weights", *links[:2])
    for each in mentions(subject):
        if (
            not each.withheld
            and _CALLED.search(f"{each.target} {each.link.text}")
            and subject.is_own(each.target) is not False
        ):
            return question.yes(Grade.LINKED, f"linked, not read: {each.target}", each.place)
    programs = subject.source.readable(islice(subject.source.find("*.py"), _MOST_PROGRAMS))
    for document in chain(subject.documents, programs):
        line = next((number for number, text in enumerate(document.lines, 1) if _LOADED.search(text)), None)
        if line is not None:
            reason = f"not here; {document.file} says where it is loaded from"
            return question.yes(Grade.LINKED, reason, document.at(line))
    if (place := _said(subject, _NAMED_TOKENIZER)) is not None:
        return question.partly(Grade.CLAIMED, f"not here; another's is named: “{place.quote}”", place)
    if places := may_lie_elsewhere(subject):
        reason = "not here; whether it comes with the models that are linked is not said"
        return question.unknown(Grade.LINKED, reason, *places[:2])
    reason = "no tokenizer's file here (tokenizer.json, tokenizer.model, …), and no link to weights with one"
    return found.missing(subject.source, question, reason)


def _evaluation(subject: Subject) -> Row:
    question, source = ask.DATA_EVALUATION, subject.source
    found = sift(source, (path for path in source.sizes if is_evaluation_data(source, path)), "data", 4)
    if found.real:
        return found.here(source, question, 4)
    if linked := [each for each in data_sets(subject) if each.use == "evaluated" and not each.file]:
        reason = f"linked, not read: {', '.join(dict.fromkeys(each.name for each in linked[:6]))}"
        return question.yes(Grade.LINKED, reason, *(each.evidence for each in linked[:4]))
    if named := _benchmarks(subject):
        shown = sorted(named)
        reason = f"public benchmarks by name: {', '.join(shown[:6])}" + (", …" if len(shown) > 6 else "")
        return question.yes(Grade.CLAIMED, reason, *dict.fromkeys(named[each] for each in shown[:4]))
    if own := own_papers(subject):
        reason = "no evaluation data here and no benchmark by name; the model's own report is linked and was not read"
        return question.unknown(Grade.ABSENT, reason, own[0].evidence)
    reason = "no files of evaluation data, no link to any, and no public benchmark by name"
    return found.missing(source, question, reason)


def _benchmarks(subject: Subject) -> dict[str, Evidence]:
    """Public benchmarks that head scores in tables or, where none does, that a sentence on evaluation names."""
    named: dict[str, Evidence] = {}
    for document in own_documents(subject):
        for cell in score_cells(document):
            for label in (*cell.row[:2], *cell.header[cell.column : cell.column + 1]):
                if label not in named and len(label) < 60 and BENCHMARK.search(label) and len(named) < 50:
                    named[label] = document.at(cell.line)
        for sentence in document.sentences if not named else ():
            text = sentence.text[:2_000]
            if (match := BENCHMARK.search(text)) and CUES["evaluated"].search(" ".join((text, *sentence.headings))):
                named.setdefault(match[0], document.at(sentence.line))
    return named
