"""Code: what it takes to train the model again, piece by piece: model, data, training, inference, evaluation, settings.

Files are judged by what they do (:mod:`clearseek.reading.deeds`), not by what a card says about them, and only the
release's own: tests, and what is somebody else's, are left out. A repository elsewhere counts as linked if it is the
maker's and the words around the link name what it holds. What could not be read is no proof that a piece is missing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import Final, get_args

from clearseek.audit import questions as ask
from clearseek.audit.checks.code_links import CODE, NO_CODE, code_links, is_here
from clearseek.audit.checks.data_sets import data_files
from clearseek.audit.checks.settings import configuration, environment, fenced
from clearseek.audit.checks.terms import per_subject
from clearseek.audit.evidence import Answer, Grade, Question, Row
from clearseek.reading import deeds
from clearseek.reading.card import Document
from clearseek.reading.deeds import Deed
from clearseek.reading.evidence import Evidence
from clearseek.reading.program import Program, read_program
from clearseek.reading.source import is_test
from clearseek.reading.sources import SourceFile, source_files
from clearseek.reading.subject import Subject
from clearseek.reading.words import BENCHMARK, words

_Done = list[tuple[SourceFile, Deed]]
MOST_PARSED: Final = 1_500_000
"""Bytes that are taken apart for each piece: a second's work."""
_ENOUGH: Final = 4
"""Files that are named where there are more."""
_MOST_NAMING: Final = 100
_TUNED = re.compile(
    r"\b(?:is|are|was|were|by) (?:[\w-]+ ){0,4}(?:fine-?tun(?:ed|ing)|post-?trained|distilled)(?: \w+){0,3} "
    r"(?:from|version|on top|using|the|a)\b"
)
_DATA: Final = r"data(?:sets?)?|corpus|corpora"
_NOT_OF_DATA: Final = r"(?!\W(?:data|set|corpus|corpora|mix|tokens|details))"
_PRETRAINED = re.compile(
    r"\bpre-?train(?:ed|ing)\b[^.\n]{0,80}\d ?(?:[bt]|billion|trillion)\b[^.\n]{0,20}\btokens?\b"
    r"|\bfrom scratch\b|\btrillions? (?:of )?tokens\b|\b\d+(?:\.\d+)?t (?:\w+ )?tokens\b"
)
"""Says that a model was not made from another one."""


def _near(these: str, those: str = CODE) -> str:
    between = r"\W{1,3}(?:\w+\W{1,3}){0,6}?"
    return rf"\b(?:{these})\b{between}(?:{those})\b|\b(?:{those})\b{between}(?:{these})\b"


@dataclass(frozen=True, slots=True)
class Piece:
    """One part of the full code."""

    question: Question
    does: Callable[[SourceFile], Deed | None]
    """How a file does it, if it does."""
    words: str
    """How the words around a link say that a repository holds it."""
    hints: tuple[str, ...]
    """What is likely in the names of files that do it."""
    seeds: tuple[str, ...]
    """Lists of words of which a file has one that may do it; others are not taken apart."""
    named: str = ""
    """A list of words; a file with one of them in its path may do it, too."""
    least: int = 10
    """Lines of code that a file has at least which does it itself."""


PIECES: Final = (
    Piece(ask.CODE_ARCHITECTURE, lambda file: deeds.architecture(file.program, file.path),
          rf"{_near(f'model|architecture|modell?ing|(?:pre-?)?training{_NOT_OF_DATA}')}"
          r"|^\W*(?:(?:our|official|source) )*code(?:base)?\W*$|^\W*(?:source )?code\W*:",
          ("model",), ("seeds_architecture",)),
    Piece(ask.CODE_TRAINING, lambda file: deeds.training(file.program, file.path, file.beside),
          _near(rf"(?:pre-?)?train(?:ing)?{_NOT_OF_DATA}")
          + rf"|\btrained (?:\w+ ){{0,3}}(?:with|using|by)\b.{{0,80}}?\b(?:{CODE}|itsname)\b",
          ("train", "tune", "pretrain"), ("seeds_training",), "train"),
    Piece(ask.CODE_INFERENCE, lambda file: deeds.inference(file.program, file.path),
          r"inference|serving|generat|(?:start|launch|run|deploy)\w* (?:\w+ ){0,3}(?:service|server|locally|model)",
          ("infer", "generat", "sampl", "chat"), ("seeds_inference",)),
    Piece(ask.CODE_EVALUATION, lambda file: deeds.evaluation(file.program, file.path),
          _near(r"evaluat\w*|benchmark\w*|eval", rf"{CODE}|harness|suite"),
          ("eval", "bench"), ("harnesses", "seeds_evaluation"), "scoring", 2),
    Piece(ask.CODE_DATA, lambda file: deeds.preparation(file.program, file.path),
          _near(_DATA, r"(?:pre-?)?process(?:ing|ors?)?|tokeni[sz](?:e|ing|ation)|curat(?:ion|ing)|prep(?:aration)?"
                r"|preparing|dedup\w*|filter(?:s|ing)?|clean(?:ing|up)?|synthesis|collecting|constructi(?:ng|on)")
          + rf"|\b(?:{_DATA})[ -](?:code|scripts?)\b|\b(?:code|scripts?) (?:\w+ ){{0,3}}(?:{_DATA})\b",
          ("data", "prep"), ("toolkits",), "prepares"),
)  # fmt: skip


_QUESTIONS: Final = (".jsonl", ".json", ".csv", ".tsv", ".parquet")
_SHOWN: Final = (ask.CODE_ARCHITECTURE, ask.CODE_INFERENCE, ask.CODE_EVALUATION)
"""Pieces that an example in a document may show how to have from a library."""
_PUBLIC: Final = {
    ask.CODE_ARCHITECTURE: re.compile(r"/models?/|modell?ing_|/(?:transformers|vllm|sglang|diffusers)/?$", re.I),
    ask.CODE_EVALUATION: re.compile(r"eval|bench|harness|opencompass|helm", re.I),
}
"""Libraries of others in which a piece may lie that was not made anew."""
_WITHHELD = re.compile(
    r"\btrain\w{0,10}\b.{0,80}\b(?:proprietary|internal|in-house|private|optimi[sz]ed)\b.{0,60}"
    r"\b(?:versions?|code\w{0,8}|frameworks?|librar\w{1,4}|stack|infrastructure|tools?|toolkits?|forks?|pipelines?)\b",
    re.I,
)
"""Says that what trained the model is not what is published."""


def rows(subject: Subject) -> Iterator[Row]:
    """A row for each piece, for settings and environment, and for the whole."""
    sources = source_files(subject.source)
    found = [_piece(subject, piece, sources) for piece in PIECES]
    found[0] = _brought(*found[:2])
    trains = found[1].answer == "yes" and found[1].grade >= Grade.PRESENT
    found += [configuration(subject, sources, trains), environment(subject, sources, trains)]
    yield from found
    yield _complete(found)


def _brought(architecture: Row, training: Row) -> Row:
    """The row of a model that is not defined here and yet trained: what trains it has to know it."""
    if architecture.answer != "no" or training.answer not in ("yes", "partly"):
        return architecture
    if training.grade == Grade.LINKED:
        reason = "no code here; what trains it is linked and was not read: it may define the model"
        return ask.CODE_ARCHITECTURE.unknown(Grade.LINKED, reason, *training.evidence)
    reason = "no code here defines it; what trains it takes it from a library"
    return ask.CODE_ARCHITECTURE.partly(Grade.CLAIMED, reason, *training.evidence[:1])


def _shown(told: Iterable[str]) -> str:
    return "; ".join(list(dict.fromkeys(told))[:_ENOUGH])


def _piece(subject: Subject, piece: Piece, sources: tuple[SourceFile, ...]) -> Row:
    question, (does, short, unread) = piece.question, _search(piece, sources)
    if question == ask.CODE_TRAINING and does:
        does = _for_this_model(subject, sources, does)
    if question == ask.CODE_EVALUATION and any(_has_benchmarks(subject, file.path) for file, _ in does):
        does = [(file, replace(deed, lack="")) for file, deed in does]
    if question == ask.CODE_DATA and data_files(subject):
        does = [(file, replace(deed, lack="")) for file, deed in does]  # the texts are here: no choice is hidden
    demonstrated = [file for file, deed in does if deed.lack == deeds.DEMONSTRATION]
    does = [each for each in does if each[1].lack != deeds.DEMONSTRATION]
    full = [each for each in does if not each[1].lack]
    links = [] if full else list(code_links(subject, piece.words))
    if not full and not links and question == ask.CODE_TRAINING:  # programs that git would put into a folder here
        links = [each.place for each in subject.repositories if each.place.file == ".gitmodules"
                 and each.kind == "code" and deeds.trains_by_name(each.name)]  # fmt: skip
    if full or (does and not links):
        told = (full or does)[:_ENOUGH]
        shown = _shown(f"{file.path} ({deed.told})" if deed.told else file.path for file, deed in told)
        places = dict.fromkeys(_place(file, deed) for file, deed in told)
        return question.answer("yes" if full else "partly", Grade.PRESENT, f"in {shown}", *places)
    if links:
        here = f"; here, in part: {does[0][0].path} ({does[0][1].told})" if does else ""
        reason = f"linked and not read: {_shown(each.quote for each in links)}{here}"
        if question == ask.CODE_TRAINING and (withheld := _withheld(subject)):
            reason += f"; but {withheld.file}, {withheld.where}, says that what trained it was another version"
            return question.partly(Grade.LINKED, reason, withheld, *links[:_ENOUGH])
        shows = question == ask.CODE_DATA and all("/examples/" in each.quote for each in links)
        return question.answer("partly" if shows else "yes", Grade.LINKED, reason, *links[:_ENOUGH])
    if unread:
        shown = _shown(f"{each.path} {each.unread or 'was not looked at'}" for each in unread)
        reason = f"no file that was read does it, and {len(unread)} could not be read: {shown}"
        return question.unknown(Grade.ABSENT, reason, *(each.evidence for each in unread[:_ENOUGH]))
    few = f"names it in fewer than {piece.least} lines of code, too few to do it"
    for file, why in [(each, few) for each in short] + [(each, f"is {deeds.DEMONSTRATION}") for each in demonstrated]:
        return question.no(Grade.CLAIMED, f"{file.path} {why}", file.evidence)
    if row := _named(subject, question):
        return row
    called = [each for each in sources if each.is_code and each.program.lines >= piece.least and not is_test(each.path)
              and any(word.startswith(piece.hints) for word in words(each.path.rpartition("/")[2]))]  # fmt: skip
    if called and question != ask.CODE_DATA:  # a loader makes no data
        reason = f"{_shown(each.path for each in called)} by name; nothing in it that is known here does it"
        return question.unknown(Grade.PRESENT, reason, *(each.evidence for each in called[:_ENOUGH]))
    return _absent(subject, piece, sum(1 for each in sources if each.is_code))


def _place(file: SourceFile, deed: Deed) -> Evidence:
    """Where a file does it: the line and the call, where they are known."""
    if deed.at is None or not deed.at.line or not file.path.endswith(".py"):
        return file.evidence
    where = "; ".join(each for each in (file.evidence.where, f"line {deed.at.line}") if each)
    return replace(file.evidence, where=where, quote=deed.at.name)


def _has_benchmarks(subject: Subject, path: str) -> bool:
    """Whether the folder of a file that scores holds the questions of a benchmark."""
    folder, slash, _ = path.rpartition("/")
    beside = (each for each in subject.source.sizes if slash and each.startswith(folder + slash))
    return any(each.endswith(_QUESTIONS) and BENCHMARK.search(each[len(folder) :]) for each in beside)


def _withheld(subject: Subject) -> Evidence | None:
    """Where a document says that the code which trained the model is not the one that is published."""
    sentences = ((document, each) for document in subject.documents[:_ENOUGH] for each in document.sentences)
    return next((document.at(each.line, each.text) for document, each in sentences
                 if _WITHHELD.search(each.text[:2_000])), None)  # fmt: skip


@per_subject
def _shown_programs(subject: Subject) -> tuple[tuple[Document, int, str, str, Program], ...]:
    """Examples in the first documents, taken apart."""
    blocks = ((document, *block) for document in subject.documents[:_ENOUGH] for block in fenced(document))
    return tuple((*block, read_program(f"a.{block[2]}", block[3].encode())) for block in islice(blocks, _MOST_NAMING))


def _named(subject: Subject, question: Question) -> Row | None:
    """The row of a model that others' code can run, as its configuration or an example in its documents says."""
    config = subject.config_raw.value or {}
    named = config.get("architectures")
    if question == ask.CODE_ARCHITECTURE and isinstance(named, list) and named and "auto_map" not in config:
        reason = f"no code here; config.json names {str(named[0])[:80]}, a class that a library has to bring"
        return question.partly(Grade.CLAIMED, reason, subject.config_key("architectures"))
    for document, line, kind, text, program in _shown_programs(subject) if question in _SHOWN else ():
        where = document.at(line)
        if question == ask.CODE_INFERENCE and (
                any(map(deeds.serves, program.commands)) or (kind == "py" and deeds.inference(program))):  # fmt: skip
            reason = f"no program here; {document.file} shows how to run it with a program or library of others"
            return question.partly(Grade.CLAIMED, reason, where)
        if question == ask.CODE_EVALUATION and (deed := deeds.evaluation(program, "")):
            reason = f"no program here; {document.file} shows how to score it with {deed.how}"
            return question.partly(Grade.CLAIMED, reason, where)
        base = deeds.base(program) if question == ask.CODE_ARCHITECTURE and kind == "py" else ""
        if base and not _is_others(subject, base):
            if "trust_remote_code" in text:
                reason = f"no code here; {document.file} loads {base} with the code that lies there, which was not read"
                return question.unknown(Grade.LINKED, reason, where)
            reason = f"no code here; {document.file} loads {base} with a library, which has to bring it"
            return question.partly(Grade.CLAIMED, reason, where)
    return None


def _absent(subject: Subject, piece: Piece, code: int) -> Row:
    """The row of a piece that is nowhere, or perhaps in a repository of which nothing is said."""
    elsewhere = [] if code else list(code_links(subject, rf"\b(?:{CODE})\b", clear=False))
    elsewhere = [
        each for each in elsewhere if not is_here(subject, subject.kin(each.quote.rstrip("/").rpartition("/")[2]))
    ]
    elsewhere += [each.place for each in subject.repositories if each.kind == "code"  # of the maker, called after it
                  and any(word.startswith(piece.hints) for word in words(each.name)) and subject.is_own(each.address)
                  and subject.kin(each.name) != "same" and not NO_CODE.search(each.place.quote)]  # fmt: skip
    if elsewhere:
        shown = _shown(each.quote for each in elsewhere)
        reason = f"it is not here; {shown} is linked, and nothing says whether it holds this"
        return piece.question.unknown(Grade.LINKED, reason, *elsewhere[:_ENOUGH])
    looked = f"none of the {code} source files does it" if code else "there is no source file"
    others = list(code_links(subject, piece.words, whose=False))
    if public := [each for each in others if (needed := _PUBLIC.get(piece.question)) and needed.search(each.quote)]:
        reason = f"{looked}; {public[0].quote} has it, a library that others keep"
        return piece.question.partly(Grade.LINKED, reason, *public[:_ENOUGH])
    said = "".join(f" ({each.quote} is somebody else's)" for each in others[:1])
    reason = f"{looked}, and no repository of the maker that is said to hold it is linked{said}"
    return piece.question.no(Grade.ABSENT, reason, *others[:1])


def _search(piece: Piece, sources: tuple[SourceFile, ...]) -> tuple[_Done, list[SourceFile], list[SourceFile]]:
    """Files that do it, those first whose names say so; files that hardly do; files that could not be read."""

    def likely(path: str) -> bool:
        return any(hint in path for hint in piece.hints)

    seeds = [word.encode() for each in piece.seeds for word in deeds.WORDS[each]]
    training = piece.question == ask.CODE_TRAINING
    starting = [word.encode() for word in deeds.WORDS["seeds_starting"]] if training else seeds
    commands = training or piece.question == ask.CODE_EVALUATION
    maybe = [
        each for each in sources if (each.is_code or (commands and each.runs)) and (
            not each.raw or (piece.named and deeds.has(each.path, piece.named)) or
            any(seed in each.raw for seed in (seeds if each.path.endswith((".py", ".ipynb")) else starting)))
    ]  # fmt: skip
    if piece.question in (ask.CODE_ARCHITECTURE, ask.CODE_DATA, ask.CODE_INFERENCE):
        maybe = [each for each in maybe if not each.others]
    maybe.sort(key=lambda each: (each.example, not likely(each.path.rpartition("/")[2]), not likely(each.path)))
    does: _Done = []
    short: list[SourceFile] = []
    unread: list[SourceFile] = []
    length = 0
    for each in maybe:
        length += each.cost
        if length > max(MOST_PARSED, each.cost):
            unread.append(each)
            continue
        deed = None if each.example and piece.question == ask.CODE_DATA else piece.does(each)
        if deed and each.example and piece.question in (ask.CODE_TRAINING, ask.CODE_EVALUATION):
            deed = replace(deed, lack=deed.lack or "an example")
        if deed and each.program.lines < (1 if deed.launches else piece.least):
            short.append(each)
        elif deed:
            does.append((each, deed))
        elif each.unread and each.is_code:
            unread.append(each)
        if sum(1 for _, deed in does if not deed.lack) >= _ENOUGH:
            break
    return does, short, unread


def _for_this_model(subject: Subject, sources: tuple[SourceFile, ...], found: _Done) -> _Done:
    """What fine-tuning code is to this model: how it was made, what one may do with it, or another model's."""
    card = "" if subject.card is None else subject.card.text.lower()
    naming = [each for each in sources if each.runs and deeds.has(each.path, "tunes")]
    others = [base for each in naming[:_MOST_NAMING] if _is_others(subject, base := deeds.base(each.program))]
    made = next((base for base in others if base.rpartition("/")[2].lower() in card), "")
    bases = {base for file, _ in found if _is_others(subject, base := deeds.base(file.program))}
    whole = _PRETRAINED.search(card)
    only = len(bases) == 1 and not whole
    ours = (subject.metadata.value or {}).get("base_model") or made or _TUNED.search(card)
    out = []
    goes_on = deeds.started_from_weights(each.program for each in sources if each.runs and b"model_name" in each.raw)
    for file, deed in found:
        if not deed.lack and file.path.rpartition("/")[2] in goes_on:
            deed = replace(deed, lack=deeds.TUNING)
        if deed.lack == deeds.TUNING and ours:
            said = f"fine-tuning{' of ' * bool(made) + made}, by which this model was made"
            deed = replace(deed, lack="fine-tuning, the last part of its training") if whole else Deed(said)
        elif deed.lack == deeds.TUNING and _is_others(subject, base := deeds.base(file.program)):
            said = f"of {base}, which is another maker's"
            deed = Deed(f"fine-tuning {said}") if only else replace(deed, lack=f"fine-tuning {said}")
        if file.example:
            deed = replace(deed, lack=deed.lack or "an example")
        out.append((file, deed))
    return out


def _is_others(subject: Subject, model: str) -> bool:
    """Whether a model on a hub is somebody else's."""
    own = subject.is_own(f"https://huggingface.co/{model}")
    name = model.rpartition("/")[2].lower()  # a copy of the maker's own is not another's
    if any(each.name.lower() == name and subject.is_own(each.address) for each in subject.repositories):
        return False
    if own is None:
        called = set().union(*(words(each) for each in (*subject.names, subject.name)))
        own = any(len(each) > 2 and each in called for each in words(model))
    return bool(model) and not own and not subject.kin(model.rpartition("/")[2])


def linked_data_code(subject: Subject) -> list[Evidence]:
    """Links to the code that made the data."""
    return list(code_links(subject, PIECES[-1].words))


def _complete(parts: list[Row]) -> Row:
    """Everything together: the row that tables of openness call “code”."""
    by = {answer: [row.id.removeprefix("code.") for row in parts if row.answer == answer]
          for answer in get_args(Answer)}  # fmt: skip
    missing, open_, partly = by["no"], by["unknown"], by["partly"]
    answer: Answer = "no" if "training" in missing else "unknown" if "training" in open_ else "partly"
    answer = answer if missing or open_ or partly else "yes"
    grade = Grade.ABSENT if missing or open_ else min(row.grade for row in parts)
    said = (("missing", missing), ("not known", open_), ("there is", by["yes"]), ("in part only", partly))
    reason = "; ".join(f"{what}: {', '.join(ids)}" for what, ids in said if ids)
    places = [place for row in parts if row.answer == "yes" for place in row.evidence[:1]]
    return ask.CODE_COMPLETE.answer(answer, grade, reason if answer != "yes" else "all parts", *places[:6])
