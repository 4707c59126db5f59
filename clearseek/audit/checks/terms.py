"""The licences of a release as they lie there: texts by what they cover, and what is said elsewhere of the weights."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Final, TypeVar

from clearseek.licences.clauses import RESTRICTING, Clause
from clearseek.licences.markup import without_markup
from clearseek.licences.match import Match, identify
from clearseek.licences.places import (
    covers,
    is_elsewhere,
    is_licence,
    is_notice_file,
    is_policy,
    perhaps_of_weights,
)  # fmt: skip
from clearseek.licences.table import Kind, Licence
from clearseek.reading.card import shorten
from clearseek.reading.evidence import Evidence
from clearseek.reading.licensed import KIND_WORDS, Statement, own_names, statements
from clearseek.reading.prose import said_in_policy, said_of_use
from clearseek.reading.subject import Subject

T = TypeVar("T")
_MOST_FILES = 40
"""Licences, and policies, that are read."""
_MOST_CHARACTERS = 500_000
"""Characters of licences that are compared with known texts: the largest release of a licence each is far below."""
KINDS: Final[tuple[Kind, ...]] = ("weights", "code", "data", "documents")


@dataclass(frozen=True)
class Text:
    """A licence file and what it is."""

    file: str
    match: Match
    evidence: Evidence
    text: str
    kinds: tuple[Kind, ...] | None
    """What it is for; empty: all that has no other; None: somebody else's."""
    beside: bool = False
    """It is for weights in the same folder."""
    perhaps: bool = False
    """It lies elsewhere, and by its name it may be for the weights."""

    @property
    def limits(self) -> tuple[Clause, ...]:
        """Clauses that limit who may use a thing, or what for."""
        return tuple(clause for clause in self.match.clauses if clause.flag in RESTRICTING)

    @property
    def points(self) -> bool:
        """Whether it only names a licence that restricts nothing: "under either of LICENSE.APACHE and LICENSE.BSD"."""
        return self.match.basis == "title" and self.match.licence is not None and is_free(self.match.licence)


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
    """Keep what was found in the releases that were looked at last."""
    return lru_cache(maxsize=2)(make)


def _named(subject: Subject) -> list[str]:
    plain = ("license", "licence", "copying")
    named = [path for path in subject.source.sizes if is_licence(path)]
    return sorted(named, key=lambda path: (path.count("/"), path.rpartition("/")[2].lower().split(".")[0] not in plain,
                                           path))  # fmt: skip


def unread_licence(subject: Subject, kind: Kind) -> str:
    """The first licence that may cover this kind and was not read, for there are too many or too long ones."""
    read = {text.file for text in licence_files(subject)}
    left = (path for path in _named(subject) if path not in read and (kinds := covers(path)) is not None
            and (kind in kinds or not kinds))  # fmt: skip
    return next(left, "")


@per_subject
def licence_files(subject: Subject) -> tuple[Text, ...]:
    """The files named as licences, wherever they lie: those at the top first, and there those named so and no more."""
    found: list[Text] = []
    named = _named(subject)
    pointed = {each.file: each.kinds for each in statements(subject) if each.file and "weights" in each.kinds}
    code = {path.rpartition("/")[0] for path in subject.source.sizes if path.endswith(".py")}
    own = _own_folders(subject, named)
    read = 0
    for document in subject.source.readable(named[:_MOST_FILES]):
        text, file = without_markup(document.text), document.file
        kinds, folder = covers(file), file.rpartition("/")[0]
        if found and read + len(text) > _MOST_CHARACTERS:
            continue
        read += len(text)
        beside = kinds is None and any(path.rpartition("/")[0] == folder for path in subject.weight_files)
        called = kinds is None and not is_elsewhere(file) and folder not in code and folder in own
        called = called and covers(file.rpartition("/")[2]) == ()
        kinds = ("weights",) if beside or called else kinds
        if not kinds and (told := pointed.get(file)):
            kinds = tuple(kind for kind in KINDS if kind in told)
        if kinds and folder and own and not called and covers(f"{folder}/LICENSE") is None:
            kinds = None  # the folder of another model
        perhaps = kinds is None and folder not in code and perhaps_of_weights(file)
        found.append(Text(file, identify(text), subject.source.whole(file), text, kinds, beside, perhaps))
    if any(not text.kinds and text.match.licence and is_free(text.match.licence) for text in found):
        return tuple(replace(text, kinds=("weights",)) if _of_models(text) else text for text in found)
    return tuple(found)


def _own_folders(subject: Subject, named: list[str]) -> frozenset[str]:
    """The folders with licences that are called after the model, and of several generations after this one."""
    name, near = _letters(subject.name), dict[str, int]()
    for folder in {path.rpartition("/")[0] for path in named} - {""}:
        last = folder.rpartition("/")[2]
        if subject.kin(last) in ("same", "form"):
            letters = _letters(last)
            near[folder] = 2 * sum(letters[: at + 1] == name[: at + 1] for at in range(len(letters))) - len(letters)
    return frozenset(folder for folder, same in near.items() if same == max(near.values()))


def _of_models(text: Text) -> bool:
    """Whether a text that is named after nothing is made for models alone, and so is not the code's."""
    licence = text.match.licence
    return text.kinds == () and licence is not None and licence.restricted and licence.suits == {"weights"}


@per_subject
def licence_texts(subject: Subject) -> dict[Kind, Text]:
    """The licence file that covers each kind: one named after it, or else the general one."""
    texts = [text for text in licence_files(subject) if text.kinds is not None]
    # one that only points to the others is read after them
    restricted = {text.file: bool(text.limits) for text in texts}
    texts.sort(key=lambda text: (text.beside, not text.kinds, text.points, not _is_named(subject, text.file),
                                 bool(text.kinds) and restricted[text.file]))  # fmt: skip
    found: dict[Kind, Text] = {}
    for text in texts:
        for kind in text.kinds or KINDS:
            found.setdefault(kind, text)
    return found


def _is_named(subject: Subject, path: str) -> bool:
    """Whether a licence is called after the model: ``LICENSE-FOO2-dev``."""
    name = _letters(re.sub(r"(?:model|licen[cs]e|agreement|\.\w{2,4}$)", "", path.rpartition("/")[2].lower()))
    return bool(name) and name in map(_letters, subject.names)


def _letters(name: str) -> str:
    return re.sub(r"[\W_]", "", name.lower())


@per_subject
def said_elsewhere(subject: Subject) -> tuple[Said, ...]:
    """Restrictions of the weights in the card, in policies, and in licences beside the one that covers them."""
    found: list[Said] = []
    if subject.card is not None:
        found += [Said(subject.card.file, clause) for clause in said_of_use(subject.card, own_names(subject))]
    for document in subject.source.readable([path for path in subject.source.sizes if is_policy(path)][:_MOST_FILES]):
        found += [Said(document.file, clause) for clause in said_in_policy(document)]
    notices = [path for path in subject.source.sizes if "/" not in path and is_notice_file(path)]
    for document in subject.source.readable(notices[:_MOST_FILES]):
        found += [Said(document.file, clause) for clause in said_of_use(document, own_names(subject))
                  if KIND_WORDS["weights"].search(clause.quote)]  # fmt: skip
    chosen = licence_texts(subject).get("weights")
    for text in licence_files(subject) if chosen else ():
        # one that is named after the weights goes before the general one
        rival = text is not chosen and text.kinds is not None and "weights" in (text.kinds or KINDS)
        rival = rival and chosen is not None and bool(text.kinds) == bool(chosen.kinds) and not text.beside
        if rival or text.perhaps:
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
    every = [each for each in statements(subject) if not each.file]
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
