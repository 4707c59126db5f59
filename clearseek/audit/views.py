"""What the frameworks of openness make of the rows: the Model Openness Framework, OSI's definition, the European index,
article 53 of the AI Act, and the plain question: weights, documents, data, code?

A view judges nothing anew. The frameworks are a table, ``views.toml``, which says what each asks as ids of rows, where
that stands and of what date it is. Each entry is answered twice: *as claimed*, if the publisher's word or link counts,
and *as proven*, if only bytes do. The difference is what openness on paper is worth. A result names what is missing,
and apart from it what is undecided: what is unknown breaks nothing.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from functools import cache
from importlib.resources import files
from typing import Any, Final, Literal

from clearseek.audit.evidence import Answer, Audit, Grade, Row
from clearseek.audit.facts import SummaryFact
from clearseek.audit.questions import DOCUMENTS_DATA_SUMMARY, QUESTIONS


@dataclass(frozen=True, slots=True)
class Entry:
    """One requirement of a framework."""

    name: str
    claimed: Answer
    proven: Answer
    rows: tuple[str, ...]
    """Ids of the rows it rests on."""


@dataclass(frozen=True, slots=True)
class View:
    """A framework's reading."""

    id: str
    name: str
    claimed: str
    """The framework's result if the publisher's word counts."""
    proven: str
    """Its result if only bytes do."""
    entries: tuple[Entry, ...]
    source: str = ""
    """Where the framework's requirements stand."""
    date: str = ""
    """Date of that text."""

    def as_json(self) -> dict[str, Any]:
        """The view as JSON values."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Requirement:
    """An entry of the table; ``views.toml`` says what the fields mean."""

    name: str
    kind: str = ""
    all: tuple[str, ...] = ()
    any: tuple[str, ...] = ()
    licence: str = ""
    or_linked: str = ""
    behind: tuple[str, ...] = ()
    partly: Answer = "partly"
    halved_by: str = ""
    told_by: tuple[str, ...] = ()
    presumed: str = ""
    field: str = ""


@dataclass(frozen=True, slots=True)
class Group:
    """Requirements that have one result."""

    entries: tuple[Requirement, ...]
    name: str = ""
    count: str = ""
    met: str = ""
    not_met: str = ""
    undecided: str = ""


@dataclass(frozen=True, slots=True)
class Framework:
    """A view of the table."""

    id: str
    name: str
    source: str
    date: str
    group: tuple[Group, ...]
    cumulative: bool = False

    @property
    def requirements(self) -> tuple[Requirement, ...]:
        """Those of all groups."""
        return tuple(each for group in self.group for each in group.entries)


Way = Literal["claimed", "proven"]
Rows = dict[str, Row]
Found = list[tuple[Group, list[Entry]]]
_ORDER: Final[tuple[Answer, ...]] = ("no", "unknown", "partly", "yes")


@cache
def frameworks() -> dict[str, Framework]:
    """Id -> framework, as the table has them."""
    table = tomllib.loads((files("clearseek.audit") / "views.toml").read_text(encoding="utf-8"))
    return {each["id"]: _made(Framework, each) for each in table["view"]}


def _made(kind: type, values: dict[str, Any]) -> Any:
    """A row of the table as `kind`, lists as tuples, tables in them as what the field holds."""
    inner = {"group": Group, "entries": Requirement}
    return kind(**{
        name: tuple(_made(inner[name], each) if name in inner else each for each in value)
        if isinstance(value, list) else value
        for name, value in values.items()
    })  # fmt: skip


def views(audit: Audit) -> tuple[View, ...]:
    """All views of an audit."""
    return tuple(view(audit, id) for id in frameworks())


def view(audit: Audit, id: str) -> View:
    """One framework's view of an audit."""
    framework, rows = frameworks()[id], {each.id: audit.row(each) for each in QUESTIONS}
    found = [(group, [_entry(rows, each) for each in group.entries]) for group in framework.group]
    told = _class if framework.cumulative else _results
    entries = tuple(
        replace(each, name=f"{group.name}: {each.name}") if framework.cumulative else each
        for group, held in found
        for each in held
    )
    claimed, proven = told(found, "claimed"), told(found, "proven")
    return View(framework.id, framework.name, claimed, proven, entries, framework.source, framework.date)


def _entry(rows: Rows, asked: Requirement) -> Entry:
    """A requirement, answered both ways."""
    summary = DOCUMENTS_DATA_SUMMARY.id if asked.field else ""
    told = dict.fromkeys(filter(None, (summary, *asked.all, *asked.any, asked.licence, asked.halved_by)))
    return Entry(asked.name, _answered(rows, asked, "claimed"), _answered(rows, asked, "proven"), tuple(told))


def _answered(rows: Rows, asked: Requirement, way: Way) -> Answer:
    """The answer of an entry, by its rows."""
    here = [rows[id] for id in (*asked.all, *asked.any)]
    own_words = asked.field and way == "proven"  # what other documents say fills no field of the summary
    given = [] if own_words else [_answer(row, way) for row in here]
    answer: Answer = (min if asked.all else max)(given, key=_ORDER.index, default="no")
    if asked.field:
        answer = max(answer, _filled(rows[DOCUMENTS_DATA_SUMMARY.id], asked.field, way), key=_ORDER.index)
    if answer == "partly":
        answer = asked.partly
    if asked.or_linked and _is_linked(rows[asked.or_linked]):
        answer = max(answer, "yes" if way == "claimed" else "unknown", key=_ORDER.index)
    if answer == "no" and all(row.grade == Grade.ABSENT for row in here if row.answer == "no"):
        answer = "unknown" if any(_is_linked(rows[id]) for id in asked.behind) else answer
    if asked.licence and any(row.claimed and row.grade >= Grade.PRESENT for row in here):
        answer = min(answer, _answer(rows[asked.licence], way), key=_ORDER.index)
    if answer == "yes" and asked.halved_by and _answer(rows[asked.halved_by], way) == "no":
        answer = "partly"
    if answer in ("no", "unknown") and any(_tells(rows, each) for each in asked.told_by):
        answer = "partly" if way == "claimed" else "unknown"
    return answer


def _answer(row: Row, way: Way) -> Answer:
    """A row's answer at a strictness; only of a licence is nothing asked where the thing is not there."""
    if row.answer == "not applicable":
        return "yes" if row.id.startswith("licence.") else "unknown"
    shown = row.answer not in ("yes", "partly") or way == "claimed" or row.grade >= Grade.PRESENT
    return row.answer if shown else "unknown"


def _is_linked(row: Row) -> bool:
    return row.claimed and row.grade == Grade.LINKED


def _tells(rows: Rows, path: str) -> bool:
    """Whether a row has such a fact, or states anything at all."""
    subject, name, *fact = path.split(".")
    row = rows[f"{subject}.{name}"]
    if fact:
        return any(getattr(each, fact[0], None) is not None for each in row.facts)
    return row.answer != "not applicable" and row.grade >= Grade.CLAIMED


def _filled(row: Row, name: str, way: Way) -> Answer:
    """Whether a summary fills a field of the template; unknown where there is a summary that was not read."""
    facts = row.facts_of(SummaryFact)
    if not facts:
        return "unknown" if row.answer == "unknown" or row.claimed else "no"
    filled = row.answer != "no" and any(name in each.fields for each in facts)
    return "yes" if filled and (way == "claimed" or row.grade >= Grade.PRESENT) else "no"


def _results(found: Found, way: Way) -> str:
    """The results of all groups that have one."""
    return "; ".join(filter(None, (_result(group, [getattr(each, way) for each in held]) for group, held in found)))


def _result(group: Group, given: list[Answer]) -> str:
    """A group's result in words; empty where it has none."""
    if group.count:
        yes, unknown = given.count("yes"), given.count("unknown")
        points, open_ = yes + given.count("partly") / 2, f", {unknown} undecided" if unknown else ""
        return group.count.format(yes=yes, points=f"{points:g}", all=len(given), open=open_)
    held = list(zip(group.entries, given, strict=True))
    presumed = [asked for asked, answer in held if asked.presumed and answer == "unknown"]
    missing, undecided = _lacking((asked.name, answer) for asked, answer in held if asked not in presumed)
    if missing and group.not_met:
        return group.not_met.format(missing=missing) + (f"; undecided: {undecided}" if undecided else "")
    text = group.undecided.format(open=undecided) if undecided else group.met
    return ", ".join((text, *(each.presumed for each in presumed))) if text else ""


def _lacking(answers: Iterable[tuple[str, Answer]]) -> tuple[str, str]:
    """Names of what is missing, or there in part only, and of what is undecided."""
    given = list(answers)
    missing = [
        f"{name} (in part)" if each == "partly" else f"no {name}" for name, each in given if each in ("no", "partly")
    ]
    return ", ".join(missing), ", ".join(name for name, each in given if each == "unknown")


def _class(found: Found, way: Way) -> str:
    """The highest class that is met with all below it, and what stands before the next."""
    reached = ""
    for group, entries in found:
        missing, undecided = _lacking((each.name, getattr(each, way)) for each in entries)
        if missing or undecided:
            state = reached or ("none" if missing else "undecided")
            why = [f"class {group.name}: {missing}"] * bool(missing) + [f"undecided: {undecided}"] * bool(undecided)
            return f"{state}; {'; '.join(why)}" if missing else f"{state}; class {group.name}, {why[0]}"
        reached = f"class {group.name}"
    return reached
