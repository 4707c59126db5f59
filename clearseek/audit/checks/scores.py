"""Stated scores: which of them their number of questions can give, and which ranks it can carry.

Of a stated score only the figure is here, not the answers. So it is said what holds *whatever* the answers were. With
one answer to each question two models that differ by at most five questions cannot be told apart: even if the worse one
was alone right on none, McNemar's exact test gives p > 0.05. Of means over several answers it is known how far sampling
moves them at most. Where it is not said how many answers they are of, only a difference of less than one question
counts. Nothing here makes a figure false: GRIM's test (a figure that no count of right answers gives) shows that it is
not of one answer each, and means of several are common.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice, pairwise
from typing import Final

from clearseek.audit import questions as ask
from clearseek.audit.checks.evaluations import listed_scores, score_lines
from clearseek.audit.evidence import Grade, Row
from clearseek.audit.facts import ScoreFact
from clearseek.evaluate.statistics import exact_interval, sampling_error
from clearseek.reading.card import shorten
from clearseek.reading.claims import normalise
from clearseek.reading.evidence import amount
from clearseek.reading.mentions import own_documents
from clearseek.reading.scores import Score, file_scores, index_scores, table_scores
from clearseek.reading.subject import Subject

MOST_FACTS: Final = 200
_MOST_SHOWN: Final = 2
_BEYOND: Final = 1.959963984540054
"""Standard errors within which sampling leaves 95 of 100 means."""
Group = tuple[Score, ...]


def rows(subject: Subject) -> Iterator[Row]:
    """Whether the scores carry what they rank."""
    yield _scores(subject)


def _scores(subject: Subject) -> Row:
    question, documents = ask.CLAIMS_SCORES, own_documents(subject)
    groups = [group for document in documents for group in table_scores(document)]
    card, metadata = subject.card, subject.metadata.value or {}
    listed = [*(index_scores(metadata, card) if card else ()), *file_scores(subject.source)]
    every = [*(score for group in groups for score in group), *listed]
    if not every:
        if "model-index" in metadata or any(score_lines(each) or listed_scores(each) for each in documents):
            return question.unknown(
                Grade.ABSENT, "no stated score is on a benchmark whose number of questions is known"
            )
        return question.not_applicable("the documents state no scores")
    pairs = [(pair, protocol) for group in groups for protocol in [_samples(group)] for pair in _ranked(group)]
    names = set(map(normalise, subject.names)) - {""}
    close = [pair for pair, samples in pairs if _cannot_tell(*pair, samples)]
    close.sort(key=lambda pair: not any(_is_own(each, names) for each in pair))
    example = next((each for each in every if _is_own(each, names)), every[0])
    facts = tuple(islice(map(_fact, every), MOST_FACTS))
    told = [f"{amount(len(every), 'score')} on benchmarks of known size, such as {_shown(example, _fact(example))}"]
    if close:
        shown = "; ".join(map(_compared, close[:_MOST_SHOWN]))
        told.append(f"of {amount(len(pairs), 'pair')} next in rank {len(close)} cannot be told apart by them: {shown}")
    elif pairs:
        told.append(f"of {amount(len(pairs), 'pair')} next in rank none is surely within chance")
    if several := [each for each in every if not each.samples and not each.benchmark.averaged and not each.counts()]:
        first = several[0]
        told.append(
            f"{len(several)} not of one answer to each question, and of how many is not stated beside them, such as "
            f"{first.text} on {first.benchmark.name}: no count of {first.benchmark.questions:,} gives it"
        )
    if tokens := sum(each.token for each in listed):
        told.append(f"{tokens} with a verifyToken, which only Hugging Face can check")
    places = tuple(dict.fromkeys(each.evidence for pair in close for each in pair)) or (example.evidence,)
    answer = question.partly if close else question.yes if pairs else question.unknown
    return answer(Grade.CLAIMED, "; ".join(told), *places[:6], facts=facts)


def _is_own(score: Score, names: set[str]) -> bool:
    """Whether a score is the release's own: of its metadata, or under its name."""
    return not score.model or normalise(score.model) in names


def _samples(group: Group) -> int | None:
    """Answers to each question that a table's scores on a benchmark are of; None where that is not known.

    One where every figure may be a count of right answers: a table has one protocol.
    """
    stated = group[0].samples
    if stated or group[0].benchmark.averaged:
        return stated
    return 1 if all(each.counts() for each in group) else None


def _ranked(group: Group) -> list[tuple[Score, Score]]:
    """Neighbours in rank whose figures differ, the better first."""
    order = sorted(group, key=lambda each: -each.value)
    return [(one, other) for one, other in pairwise(order) if one.value > other.value and one.model != other.model]


def _cannot_tell(one: Score, other: Score, samples: int | None) -> bool:
    """Whether two scores cannot be told apart, whatever the answers were that gave them."""
    questions = one.benchmark.questions
    apart = (one.value - other.value) * questions
    if samples is None:
        return apart + (one.unit + other.unit) * questions < 1
    if samples == 1:
        most = int(apart + (one.unit + other.unit) / 2 * questions + 1e-6)
        return 2 * 0.5 ** max(most, round(apart)) > 0.05
    middle = (one.value + other.value) / 2
    return apart / questions + one.unit < _BEYOND * sampling_error(middle, questions, samples)


def _fact(score: Score) -> ScoreFact:
    questions = score.benchmark.questions
    low, high = exact_interval(min(questions, round(score.value * questions)), questions)
    return ScoreFact(
        score.benchmark.name, questions, score.value, round(low, 4), round(high, 4), score.counts(),
        shorten(score.model, 80), score.samples, score.evidence.file,
    )  # fmt: skip


def _shown(score: Score, fact: ScoreFact) -> str:
    """A score with its interval."""
    whose = f"{shorten(score.model, 40)}'s " if score.model else ""
    return (
        f"{whose}{score.text} on {fact.benchmark} ({100 * fact.low:.1f} to {100 * fact.high:.1f} "
        f"for {fact.questions:,} questions like these)"
    )


def _compared(pair: tuple[Score, Score]) -> str:
    one, other = pair
    return (
        f"{one.text} against {other.text} on the {one.benchmark.questions:,} questions of {one.benchmark.name} "
        f"({shorten(one.model, 40)}, {shorten(other.model, 40)})"
    )
