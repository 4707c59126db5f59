"""Code: what it takes to train the model again, piece by piece: model, data, training, inference, evaluation, settings.

Files are judged by what they do (:mod:`clearseek.audit.read.deeds`), not by what a card says about them, and only the
release's own: tests, and what is somebody else's, are left out. A repository elsewhere counts as linked if it is the
maker's and the words around the link name what it holds. What could not be read is no proof that a piece is missing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, get_args

from clearseek.audit import questions as ask
from clearseek.audit.checks.settings import configuration, environment, fenced
from clearseek.audit.evidence import Answer, Evidence, Grade, Question, Row
from clearseek.audit.read import deeds
from clearseek.audit.read.card import Document, Link
from clearseek.audit.read.deeds import Deed
from clearseek.audit.read.program import read_program, words
from clearseek.audit.read.sources import SourceFile, source_files
from clearseek.audit.read.subject import Subject

MOST_PARSED: Final = 1_500_000
"""Bytes that are taken apart for each piece: a second's work."""
_ENOUGH: Final = 4
"""Files that are named where there are more."""
_REPOSITORY = re.compile(
    r"(?:https?:)?//(?:www\.)?(?:github|gitlab|gitee|bitbucket|codeberg)\.(?:com|org)/[\w.-]+/[\w.-]+"
)
_NO_CODE = re.compile(
    r"/(?:issues|discussions|wiki|releases|actions|pulls?|stargazers|graphs|commits)\b|\.(?:svg|png|jpe?g|gif|pdf|md|bib)\b|#L\d"
    r"|LICEN[CS]E",
    re.I,
)
_CODE: Final = (
    r"code|scripts?|recipes?|repo|repository|codebase|pipeline|framework|implementation|github|toolkit|librar(?:y|ies)"
)
_OURS = re.compile(r"\bour\b|\bwe (?:\w+ )?(?:release|publish|provide|share|open)|\bofficial\b", re.I)
_POSSESSED = re.compile(
    rf"\bour (?:own )?(?:[\w-]+ ){{0,4}}?(?:{_CODE})\b|\bwe (?:have )?(?:developed|built|wrote|created|maintain)", re.I
)
_BASED = re.compile(r"\b(?:based on|built (?:up)?on|adapted|fork|thank|from|inspired)", re.I)
_OFFERED = re.compile(
    r"such as|e\.g|example|suggest|recommend|\blike\b|\busing\b|\bwith\b|\bvia\b|third|communit|other|thank|based on"
    r"|adapted|inspired|compar|\bfrom\b|support",
    re.I,
)
"""Words by which a card speaks of what others made."""


def _near(these: str, those: str) -> str:
    between = r"\W{1,3}(?:\w+\W{1,3}){0,6}?"
    return rf"\b(?:{these})\b{between}(?:{those})\b|\b(?:{those})\b{between}(?:{these})\b"


@dataclass(frozen=True, slots=True)
class Piece:
    """One part of the full code."""

    question: Question
    does: Callable[[SourceFile], Deed | None]
    """How a file does it, if it does."""
    may: Callable[[str, bytes], bool]
    """Whether a file may do it, by its path and some words in it; others are not taken apart."""
    words: str
    """How the words around a link say that a repository holds it."""
    hints: tuple[str, ...]
    """What is likely in the names of files that do it."""
    least: int = 10
    """Lines of code that a file has at least which does it itself."""


PIECES: Final = (
    Piece(ask.CODE_ARCHITECTURE, lambda file: deeds.architecture(file.program),
          deeds.may_define,
          rf"{_near('model|architecture|modell?ing|(?:pre-?)?training', _CODE)}"
          r"|^\W*(?:our |official |source )*code(?:base)?\W*$"
          r"|^\W*(?:source )?code\W*:", ("model",)),
    Piece(ask.CODE_TRAINING, lambda file: deeds.training(file.program, file.path, file.beside),
          deeds.may_train,
          _near(r"(?:pre-?)?train(?:ing)?(?!\W(?:data|set|corpus|corpora|mix|tokens|details))", _CODE)
          + rf"|\btrained (?:\w+ ){{0,3}}(?:with|using|by)\b.{{0,80}}?\b(?:{_CODE}|itsname)\b", ("train", "tune")),
    Piece(ask.CODE_INFERENCE, lambda file: deeds.inference(file.program),
          deeds.may_run,
          r"inference|serving|generat|(?:start|launch|run|deploy)\w* (?:\w+ ){0,3}(?:service|server|locally|model)",
          ("infer", "generat", "sampl", "chat")),
    Piece(ask.CODE_EVALUATION, lambda file: deeds.evaluation(file.program, file.path), deeds.may_score,
          _near(r"evaluat\w*|benchmark\w*|eval", rf"{_CODE}|harness|suite"), ("eval", "bench"), 2),
    Piece(ask.CODE_DATA, lambda file: deeds.preparation(file.program, file.path), deeds.may_prepare,
          _near(r"data|corpus|dataset", rf"{_CODE}|process\w*|curat\w*|prepar\w*|filter\w*"), ("data", "prep")),
)  # fmt: skip


def rows(subject: Subject) -> Iterator[Row]:
    """A row for each piece, for settings and environment, and for the whole."""
    sources = source_files(subject.source)
    found = [_piece(subject, piece, sources) for piece in PIECES]
    found += [configuration(subject, sources), environment(subject, sources)]
    yield from found
    yield _complete(found)


def _piece(subject: Subject, piece: Piece, sources: tuple[SourceFile, ...]) -> Row:
    found, short, unread = _search(piece, sources)
    if piece.question == ask.CODE_TRAINING:
        found = _for_this_model(subject, sources, found)
    question, full = piece.question, [each for each in found if not each[1].lack]
    links = [] if full else _linked(subject, piece)
    if full or (found and not links):
        told = full or found
        shown = "; ".join(f"{file.path} ({deed.told})" if deed.told else file.path for file, deed in told[:_ENOUGH])
        places = tuple(dict.fromkeys(file.evidence for file, _ in told[:_ENOUGH]))
        return question.answer("yes" if full else "partly", Grade.PRESENT, f"in {shown}", *places)
    if links:
        here = f"; here, in part: {found[0][0].path} ({found[0][1].told})" if found else ""
        shown = ", ".join(list(dict.fromkeys(each.quote for each in links))[:_ENOUGH])
        return question.yes(Grade.LINKED, f"linked and not read: {shown}{here}", *links[:_ENOUGH])
    if unread:
        shown = "; ".join(f"{each.path} {each.unread or 'was not looked at'}" for each in unread[:_ENOUGH])
        reason = f"no file that was read does it, and {len(unread)} could not be read: {shown}"
        return question.unknown(Grade.ABSENT, reason, *(each.evidence for each in unread[:_ENOUGH]))
    if short:
        reason = f"{short[0].path} names it in fewer than {piece.least} lines of code, too few to do it"
        return question.no(Grade.CLAIMED, reason, short[0].evidence)
    if row := _named(subject, piece):
        return row
    code = sum(1 for each in sources if each.is_code)
    elsewhere = [] if code else list(_links(subject, re.compile(rf"\b(?:{_CODE})\b", re.I), clear=False))
    if elsewhere:
        shown = ", ".join(list(dict.fromkeys(each.quote for each in elsewhere))[:_ENOUGH])
        reason = f"there is no code here; {shown} is linked, and nothing says whether it holds this"
        return question.unknown(Grade.LINKED, reason, *elsewhere[:_ENOUGH])
    looked = f"none of the {code} source files does it" if code else "there is no source file"
    others = list(_links(subject, re.compile(piece.words, re.I), whose=False))
    said = f" ({others[0].quote} is somebody else's)" if others else ""
    return question.no(
        Grade.ABSENT, f"{looked}, and no repository of the maker that is said to hold it is linked{said}", *others[:1]
    )


def _named(subject: Subject, piece: Piece) -> Row | None:
    """The row of a model that others' code can run, as its configuration or an example in its documents says."""
    if piece.question == ask.CODE_ARCHITECTURE:
        config = subject.config_raw.value or {}
        named = config.get("architectures")
        if isinstance(named, list) and named and isinstance(named[0], str) and "auto_map" not in config:
            reason = f"no code here; config.json names {named[0][:80]}, a class that a library has to bring"
            return piece.question.partly(Grade.CLAIMED, reason, subject.config_key("architectures"))
    if piece.question == ask.CODE_INFERENCE:
        for document in subject.documents[:_ENOUGH]:
            for line, kind, text in fenced(document):
                if kind == "py" and deeds.inference(read_program("a.py", text.encode())):
                    reason = f"no program here; {document.file} shows how to run it with a library"
                    return piece.question.partly(Grade.CLAIMED, reason, document.at(line))
    return None


def _search(
    piece: Piece, sources: tuple[SourceFile, ...]
) -> tuple[list[tuple[SourceFile, Deed]], list[SourceFile], list[SourceFile]]:
    """Files that do it, those first whose names say so; files that hardly do; files that could not be read."""

    def likely(path: str) -> bool:
        return any(hint in path for hint in piece.hints)

    commands = piece.question in (ask.CODE_TRAINING, ask.CODE_EVALUATION)
    maybe = [each for each in sources if (each.is_code or (commands and each.runs)) and piece.may(each.path, each.raw)]
    maybe.sort(key=lambda each: (each.example, not likely(each.path.rpartition("/")[2]), not likely(each.path)))
    found: list[tuple[SourceFile, Deed]] = []
    short: list[SourceFile] = []
    unread: list[SourceFile] = []
    length = good = 0
    for each in maybe:
        length += each.cost
        if length > max(MOST_PARSED, each.cost):
            unread.append(each)
            continue
        deed = piece.does(each)
        if deed and not deed.lack and each.example and piece.question == ask.CODE_TRAINING:
            deed = Deed(deed.how, "an example", deed.launches)
        if deed and each.program.lines < (1 if deed.launches else piece.least):
            short.append(each)
        elif deed:
            found.append((each, deed))
            good += not deed.lack
        elif each.unread and each.is_code:
            unread.append(each)
        if good >= _ENOUGH:
            break
    return found, short, unread


def _for_this_model(
    subject: Subject, sources: tuple[SourceFile, ...], found: list[tuple[SourceFile, Deed]]
) -> list[tuple[SourceFile, Deed]]:
    """What fine-tuning code is to this model: how it was made, what one may do with it, or another model's."""
    if all(deed.lack != deeds.TUNING for _, deed in found):
        return found
    card = "" if subject.card is None else subject.card.text.lower()
    keys = (b"model_name", b"base_model", b"from_pretrained", b"model_id")
    naming = [each for each in sources if each.runs and deeds.tunes(each.path) and any(key in each.raw for key in keys)]
    others = [
        base for each in naming[:_MOST_NAMING] if (base := deeds.base(each.program)) and _is_others(subject, base)
    ]
    made = next((base for base in others if base.rpartition("/")[2].lower() in card), "")
    if (subject.metadata.value or {}).get("base_model") or made or _TUNED.search(card):
        how = Deed(f"fine-tuning{' of ' * bool(made) + made}, by which this model was made")
        return [(file, how if deed.lack == deeds.TUNING else deed) for file, deed in found]
    out = []
    for file, deed in found:
        base = deeds.base(file.program)
        if deed.lack == deeds.TUNING and base and _is_others(subject, base):
            if file.example:
                continue
            deed = Deed(deed.how, f"it fine-tunes {base}, which the card does not name", deed.launches)
        out.append((file, deed))
    return out


_MOST_NAMING: Final = 100


def _is_others(subject: Subject, model: str) -> bool:
    """Whether a model on a hub is somebody else's."""
    own = subject.is_own(f"https://huggingface.co/{model}")
    if own is None:
        called = set().union(*(words(each) for each in (*subject.names, subject.name)))
        own = any(len(each) > 2 and each in called for each in words(model))
    return not own and not subject.kin(model.rpartition("/")[2])


_TUNED = re.compile(
    r"\b(?:is|are|was|were|by) (?:[\w-]+ ){0,4}(?:fine-?tun(?:ed|ing)|post-?trained|distilled)(?: \w+){0,3} "
    r"(?:from|version|on top|using|the|a)\b"
)


def _linked(subject: Subject, piece: Piece) -> list[Evidence]:
    """Links to repositories of the maker, among words that name this piece."""
    return list(_links(subject, re.compile(piece.words, re.I)))


def _links(subject: Subject, words: re.Pattern[str], clear: bool = True, whose: bool = True) -> Iterator[Evidence]:
    """Links to repositories among these words: the maker's, or others'; if `clear`, only those that surely are."""
    for document in subject.documents:
        for text, link in _told(document):
            if not _REPOSITORY.match(link.target) or _NO_CODE.search(link.target):
                continue
            name = link.target.rstrip("/").rpartition("/")[2]
            called = bool(link.text) and re.sub(r"\W", "", link.text.lower()) == re.sub(r"\W", "", name.lower())
            said = text.replace(link.text, f"{link.text} itsname") if called else text  # a tool that goes by its name
            if not words.search(said) or (not clear and not subject.kin(name)):
                continue
            if _is_own(subject, link.target, text, clear) == whose:
                yield Evidence(document.file, f"line {link.line}", link.target)


def _is_own(subject: Subject, target: str, text: str, clear: bool) -> bool:
    """Whether a repository is the maker's, by its owner or by the words around the link."""
    own = subject.is_own(target)
    if own is None:
        return not clear or bool(_OURS.search(text)) or not _OFFERED.search(text)
    return own or (bool(_POSSESSED.search(text)) and not _BASED.search(text))


def _told(document: Document) -> Iterator[tuple[str, Link]]:
    """Each link with what is said about it: its part of a sentence and the heading above, or its row of a table."""
    for each in document.sentences:
        links = each.links
        above = each.headings[-1] if each.headings and len(each.text.split()) < 9 else ""
        for before, link, after in zip((None, *links), links, (*links[1:], None), strict=False):
            begin = before.place + len(before.text) - each.begin if before else 0
            end = after.place - each.begin if after else len(each.text)
            yield f"{above}: {each.text[max(0, begin) : end]}", link
    for cell in document.cells:
        head = cell.header[cell.column] if cell.column < len(cell.header) else ""
        for link in cell.links:
            yield f"{head}: {' '.join(cell.row)}", link


def linked_data_code(subject: Subject) -> list[Evidence]:
    """Links to the code that made the data."""
    return next(_linked(subject, piece) for piece in PIECES if piece.question == ask.CODE_DATA)


def _complete(parts: list[Row]) -> Row:
    """Everything together: the row that tables of openness call “code”."""
    by = {
        answer: [row.id.removeprefix("code.") for row in parts if row.answer == answer] for answer in get_args(Answer)
    }
    missing, open_, partly = by["no"], by["unknown"], by["partly"]
    answer: Answer = "no" if "training" in missing else "unknown" if "training" in open_ else "partly"
    answer = answer if missing or open_ or partly else "yes"
    grade = Grade.ABSENT if missing or open_ else min(row.grade for row in parts)
    said = (("missing", missing), ("not known", open_), ("there is", by["yes"]), ("in part only", partly))
    reason = "; ".join(f"{what}: {', '.join(ids)}" for what, ids in said if ids)
    places = tuple(place for row in parts if row.answer == "yes" for place in row.evidence[:1])[:6]
    return ask.CODE_COMPLETE.answer(answer, grade, reason if answer != "yes" else "all parts", *places)
