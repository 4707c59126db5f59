"""The licences of a release as they lie there: texts by what they cover, and what is said elsewhere of the weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Final, TypeVar
from weakref import WeakKeyDictionary

from clearseek.audit.evidence import Evidence
from clearseek.audit.read.card import shorten
from clearseek.audit.read.licensed import Statement, statements
from clearseek.audit.read.prose import said_in_policy, said_of_use
from clearseek.audit.read.subject import Subject
from clearseek.licences.clauses import RESTRICTING, Clause
from clearseek.licences.markup import without_markup
from clearseek.licences.match import Match, identify
from clearseek.licences.places import covers, is_licence, is_policy
from clearseek.licences.table import Kind, Licence

T = TypeVar("T")
_MOST_FILES = 40
"""Licences, and policies, that are read."""
KINDS: Final[tuple[Kind, ...]] = ("weights", "code", "data", "documents")
NOBODY = Licence("", "", "permissive", frozenset())
"""Stands for a licence that is not known."""


@dataclass(frozen=True)
class Text:
    """A licence file and what it is."""

    file: str
    match: Match
    evidence: Evidence
    text: str

    @property
    def limits(self) -> tuple[Clause, ...]:
        """Clauses that limit who may use a thing, or what for."""
        return tuple(clause for clause in self.match.clauses if clause.flag in RESTRICTING)


@dataclass(frozen=True)
class Said:
    """A restriction that stands elsewhere than in the licence."""

    file: str
    clause: Clause
    sure: bool = True
    """Another licence file may cover something else."""

    @property
    def words(self) -> str:
        """With its place."""
        return f"{self.file}, line {self.clause.line}, says “{shorten(self.clause.quote, 160)}”"


def per_subject(make: Callable[[Subject], T]) -> Callable[[Subject], T]:
    """Keep what was found in a release for as long as the release is kept."""
    kept: WeakKeyDictionary[Subject, T] = WeakKeyDictionary()

    @wraps(make)
    def get(subject: Subject) -> T:
        if subject not in kept:
            kept[subject] = make(subject)
        return kept[subject]

    return get


@per_subject
def licence_files(subject: Subject) -> tuple[Text, ...]:
    """The files named as licences, wherever they lie: those at the top first, and there those named so and no more."""
    found: list[Text] = []
    named = [path for path in subject.source.sizes if is_licence(path)]
    plain = ("license", "licence", "copying")
    named.sort(key=lambda path: (path.count("/"), path.rpartition("/")[2].lower().split(".")[0] not in plain, path))
    for document in subject.source.readable(named[:_MOST_FILES]):
        text = without_markup(document.text)
        found.append(Text(document.file, identify(text), subject.source.whole(document.file), text))
    return tuple(found)


def covered(subject: Subject, text: Text) -> tuple[Kind, ...] | None:
    """What a licence file is for: by its name, or by the weights that lie beside it in a folder."""
    kinds, folder = covers(text.file), text.file.rpartition("/")[0]
    if kinds is None and folder and "/" not in folder:
        beside = any(path.startswith(f"{folder}/") for path in subject.weight_files)
        return ("weights",) if beside else None
    return kinds


@per_subject
def licence_texts(subject: Subject) -> dict[Kind, Text]:
    """The licence file that covers each kind: one named after it, or else the general one."""
    found: dict[Kind, Text] = {}
    own = [(text, kinds) for text in licence_files(subject) if (kinds := covers(text.file)) is not None]
    for text, kinds in own:
        for kind in kinds:
            found.setdefault(kind, text)
    general = [text for text, kinds in own if not kinds]
    # a file that only points to others ("under either of LICENSE.APACHE and LICENSE.BSD") is read after them
    general.sort(key=lambda text: text.match.basis == "title" and not (text.match.licence or NOBODY).restricted)
    for kind in KINDS if general else ():
        found.setdefault(kind, general[0])
    return found


@per_subject
def said_elsewhere(subject: Subject) -> tuple[Said, ...]:
    """Restrictions of the weights in the card, in policies, and in licences beside the one that covers them."""
    found: list[Said] = []
    if subject.card is not None:
        found += [Said(subject.card.file, clause) for clause in said_of_use(subject.card)]
    for document in subject.source.readable([path for path in subject.source.sizes if is_policy(path)][:_MOST_FILES]):
        found += [Said(document.file, clause) for clause in said_in_policy(document)]
    chosen = licence_texts(subject).get("weights")
    for text in licence_files(subject):
        kinds = covers(text.file)
        if chosen is None or text is chosen or kinds is None or "weights" not in (kinds or KINDS):
            continue
        if bool(kinds) == bool(covers(chosen.file)):  # one that is named after the weights goes before the general one
            found += [Said(text.file, clause, sure=False) for clause in text.limits]
    return tuple(found)


def is_free(licence: Licence) -> bool:
    """Whether anybody may use, change and pass on for any purpose what is under a licence."""
    return not licence.restricted and not licence.no_derivatives and "arXiv" not in licence.id


def contradicting(subject: Subject, licence: Licence | None) -> tuple[Said, ...]:
    """What is said elsewhere against a licence that restricts nothing: first what is sure."""
    if licence is None or not is_free(licence):
        return ()
    return tuple(sorted(said_elsewhere(subject), key=lambda said: not said.sure))


def stated_of(subject: Subject, kind: Kind) -> list[Statement]:
    """What the card says of this kind; where it says nothing of it in particular, what it says of the whole release."""
    every = statements(subject)
    own = [each for each in every if kind in each.kinds]
    return own or [each for each in every if not each.kinds and (kind != "data")]


def quote(file: str, clause: Clause) -> Evidence:
    """A clause as evidence."""
    return Evidence(file, f"line {clause.line}", shorten(clause.quote))


def weights_licence(subject: Subject) -> Licence | None:
    """The licence that the weights are under, by their text or by word."""
    if (text := licence_texts(subject).get("weights")) is not None:
        return text.match.licence
    return next((each.deciding for each in stated_of(subject, "weights") if each.deciding), None)
