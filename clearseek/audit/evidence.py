"""What an audit says: rows, each an assertion about a release with its answer, its grade and the bytes that show it.

An openness table usually holds a person's judgement. Here every row starts from an assertion ("the complete training
data are published"), answers it, and says how far the answer has been shown: not at all, by somebody's word, by a link,
by bytes that are here, by bytes that agree with other bytes, or by doing it again. What could not be looked at is
``unknown``, which is not a no. Frameworks (:mod:`clearseek.audit.views`) are read off the rows: they judge nothing
anew. A row's reason is a sentence for people; what programs need of it is in its facts (:mod:`clearseek.audit.facts`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from enum import IntEnum
from typing import Any, Literal, TypeVar

from clearseek.audit.facts import Fact
from clearseek.reading.evidence import Evidence

F = TypeVar("F", bound=Fact)
Facts = tuple[Fact, ...]
Answer = Literal["yes", "partly", "no", "unknown", "not applicable"]
Dimension = Literal["technical", "definition", "impact"]
"""What the weights are and allow; what is open; what it means in practice."""


class Grade(IntEnum):
    """How far something has been shown to be there, and to be what it is said to be."""

    ABSENT = 0
    """Nobody says that it is there."""
    CLAIMED = 1
    """A text says so."""
    LINKED = 2
    """A text says where it is; the place was not read."""
    PRESENT = 3
    """It is here: bytes, named and hashed."""
    CHECKED = 4
    """It is here and agrees with something else that is here."""
    REEXECUTED = 5
    """It was made again, and the same came out."""

    @property
    def label(self) -> str:
        """``E0 absent`` to ``E5 re-executed``."""
        words = ("absent", "claimed", "linked", "present", "cross-checked", "re-executed")
        return f"E{int(self)} {words[self]}"


@dataclass(frozen=True, slots=True)
class Question:
    """An assertion about a release, which rows answer; :mod:`clearseek.audit.questions` lists all."""

    id: str
    """Stable name, such as ``data.training``; the part before the dot is its subject."""
    dimension: Dimension
    """Which of the three dimensions it belongs to."""
    title: str
    """The assertion, such as “The complete training data are published”; ``{}`` stands for steps of a run."""

    def answer(self, answer: Answer, grade: Grade, reason: str, *places: Evidence, facts: Facts = ()) -> Row:
        """A row that gives `answer`, for `reason`, as seen at `places`."""
        return Row(self, answer, grade, reason, places, facts)

    def yes(self, grade: Grade, reason: str, *places: Evidence, facts: Facts = ()) -> Row:
        """A row that affirms the assertion."""
        return Row(self, "yes", grade, reason, places, facts)

    def partly(self, grade: Grade, reason: str, *places: Evidence, facts: Facts = ()) -> Row:
        """A row that affirms the assertion in part."""
        return Row(self, "partly", grade, reason, places, facts)

    def no(self, grade: Grade, reason: str, *places: Evidence, facts: Facts = ()) -> Row:
        """A row that denies the assertion."""
        return Row(self, "no", grade, reason, places, facts)

    def unknown(self, grade: Grade, reason: str, *places: Evidence, facts: Facts = ()) -> Row:
        """A row that leaves the assertion open."""
        return Row(self, "unknown", grade, reason, places, facts)

    def not_applicable(self, reason: str, *places: Evidence, grade: Grade = Grade.ABSENT) -> Row:
        """A row of a release that the assertion does not concern."""
        return Row(self, "not applicable", grade, reason, places)

    def of_steps(self, first: int, last: int) -> Question:
        """The question about these steps of a run: ``verify.steps.4-6``."""
        return Question(f"{self.id}.{first}-{last}", self.dimension, self.title.format(f"{first} to {last}"))

    def covers(self, id: str) -> bool:
        """Whether `id` is this question's, or that of some steps of it."""
        return id == self.id or id.startswith(f"{self.id}.")


@dataclass(frozen=True, slots=True)
class Row:
    """One assertion about a release, answered."""

    question: Question
    """The assertion."""
    answer: Answer
    """Whether it holds."""
    grade: Grade
    """How far that which is asserted has been shown. A claim that turned out false stays at `CLAIMED`."""
    reason: str
    """Why this answer and this grade: what was looked at, what was found, what is missing. Only for people to read."""
    evidence: tuple[Evidence, ...] = ()
    """Where to see it."""
    facts: Facts = ()
    """What was found, as values for programs to read."""

    @property
    def id(self) -> str:
        """Name of the question."""
        return self.question.id

    @property
    def dimension(self) -> Dimension:
        """Dimension of the question."""
        return self.question.dimension

    @property
    def title(self) -> str:
        """The assertion."""
        return self.question.title

    @property
    def claimed(self) -> bool:
        """Whether the publisher's word is enough to say yes."""
        return self.answer in ("yes", "partly") and self.grade >= Grade.CLAIMED

    @property
    def proven(self) -> bool:
        """Whether the bytes at hand say yes."""
        return self.answer == "yes" and self.grade >= Grade.PRESENT

    @property
    def tells(self) -> bool:
        """Whether it tells something of a release without being asked for."""
        return self.answer != "not applicable" and (self.answer != "unknown" or bool(self.evidence))

    @property
    def told(self) -> str:
        """Grade and reason, to be printed: ``E3 present: 4 files``."""
        return f"{self.grade.label}: {self.reason}"

    def facts_of(self, kind: type[F]) -> tuple[F, ...]:
        """The facts of one kind."""
        return tuple(fact for fact in self.facts if isinstance(fact, kind))

    def adding(self, text: str, *places: Evidence, answer: Answer | None = None, grade: Grade | None = None) -> Row:
        """This row with more said and more places, and another answer or grade where one is given."""
        grade = self.grade if grade is None else grade
        reason, evidence = f"{self.reason}; {text}", self.evidence + places
        return replace(self, answer=answer or self.answer, grade=grade, reason=reason, evidence=evidence)

    def refuted(self, text: str, *places: Evidence) -> Row:
        """The row that says no to this one, at somebody's word, and why before what this one says."""
        evidence = places + self.evidence
        return replace(self, answer="no", grade=Grade.CLAIMED, reason=f"{text}; {self.reason}", evidence=evidence)

    def as_json(self) -> dict[str, Any]:
        """The row as JSON values."""
        content = {name: getattr(self, name) for name in ("id", "dimension", "title", "answer", "grade", "reason")}
        places = [{name: value for name, value in asdict(each).items() if value} for each in self.evidence]
        facts = {"facts": [fact.as_json() for fact in self.facts]} if self.facts else {}
        return {**content, "grade": int(self.grade), "evidence": places, **facts}


@dataclass(frozen=True, slots=True)
class Audit:
    """All rows about one release."""

    subject: str
    """The folder or hub name, with its revision."""
    rows: tuple[Row, ...]
    """In the order of the checks."""
    facts: dict[str, Any] = field(default_factory=dict)
    """Measured numbers that reports show: parameters, bytes, dtypes, costs."""
    files: dict[str, str] = field(default_factory=dict)
    """Path -> SHA-256 in hex, of every file that was hashed."""

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    def __getitem__(self, name: Question | str) -> Row:
        if (row := self.get(name)) is None:
            raise KeyError(name)
        return row

    def get(self, name: Question | str) -> Row | None:
        """The row of this question, or id, if the audit has it."""
        id = name if isinstance(name, str) else name.id
        return next((row for row in self.rows if row.id == id), None)

    def row(self, question: Question) -> Row:
        """The row of this question, or one that leaves it open."""
        return self.get(question) or question.unknown(Grade.ABSENT, "not looked at")

    def facts_of(self, question: Question, kind: type[F]) -> tuple[F, ...]:
        """The facts of one kind in the row of this question; none without the row."""
        return self.row(question).facts_of(kind)

    def of(self, dimension: Dimension) -> tuple[Row, ...]:
        """The rows of one dimension."""
        return tuple(row for row in self.rows if row.dimension == dimension)

    def as_json(self) -> dict[str, Any]:
        """The audit as JSON values."""
        return {"subject": self.subject, "facts": self.facts, "rows": [row.as_json() for row in self.rows]}
