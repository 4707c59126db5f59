"""Stated scores: which of them their number of questions can give, and which ranks it can carry.

Of a stated score only the figure is here, not the answers. So it is said what holds *whatever* the answers were. With
one answer to each question two models that differ by at most five questions cannot be told apart: even if the worse one
was alone right on none, McNemar's exact test gives p > 0.05. Of means over several answers it is known how far sampling
moves them at most. Where it is not said how many answers they are of, only a difference of less than one question
counts. Nothing here makes a figure false: GRIM's test (a figure that no count of right answers gives) shows that it is
not of one answer each, and means of several are common.

A card that `clearseek release` wrote says of each score how many questions and answers it is of, its interval, and how
that was computed. So each is told what it can carry, without its records: an interval of one answer each follows from
the figure and the questions, and is computed again, to the digits that are written.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from itertools import islice, pairwise
from typing import Final

from clearseek.audit import questions as ask
from clearseek.audit.checks.evaluations import listed_scores, score_lines
from clearseek.audit.evidence import Grade, Row
from clearseek.audit.facts import ScoreFact
from clearseek.evaluate.statistics import exact_interval, sampling_error, wilson_interval
from clearseek.reading.card import shorten
from clearseek.reading.claims import normalise
from clearseek.reading.evidence import amount
from clearseek.reading.mentions import own_documents
from clearseek.reading.scores import Score, file_scores, index_scores, table_scores, written_unit
from clearseek.reading.subject import Subject

MOST_FACTS: Final = 200
_MOST_SHOWN: Final = 2
_FEWEST: Final = 6
"""Questions between two models that McNemar's exact test needs at least, with one answer to each."""
_SAME: Final = 1e-6
"""Difference of two intervals that versions of libraries may make."""
_METHODS: Final = {"wilson": "Wilson's", "clustered": "clustered by question", "bootstrap": "by resampling"}
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
    asked = [each for each in every if each.protocol]
    told = []
    if known := [each for each in every if not each.protocol]:
        shown = next((each for each in known if _is_own(each, names)), known[0])
        told.append(f"{amount(len(known), 'score')} on benchmarks of known size, such as {_shown(shown, _fact(shown))}")
    told += map(_carries, asked[:_MOST_SHOWN])
    told += [f"{len(asked) - _MOST_SHOWN} more with questions and answers stated"] * (len(asked) > _MOST_SHOWN)
    wrong = [each for each in asked if _other_interval(each)]
    told += [f"{each.text} on {each.benchmark.name} states another interval than its figure and "
             f"{amount(each.benchmark.questions, 'question')} give" for each in wrong[:_MOST_SHOWN]]  # fmt: skip
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
    answer = question.partly if close or wrong else question.yes if pairs else question.unknown
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


def _carries(score: Score) -> str:
    """A score with its protocol, and what it can carry beside another's."""
    protocol = score.protocol
    assert protocol is not None, "chosen for it"
    n, answers = protocol.questions, "one answer" if protocol.samples == 1 else f"{protocol.samples:,} answers"
    said = f"{score.text} on {score.benchmark.name}, of {amount(n, 'question')} with {answers} each"
    if protocol.interval:
        low, high = protocol.interval
        said += f" ({100 * low:.1f} to {100 * high:.1f} %, {_METHODS[protocol.method]})"
    said += f", {protocol.missing:,} more without an answer" if protocol.missing else ""
    if protocol.samples > 1:
        error = 100 * _BEYOND * sampling_error(score.value, n, protocol.samples)
        return f"{said}: draws alone move it by up to {error:.1f} points" if error else said
    away = f"of fewer than {_FEWEST} questions ({100 * _FEWEST / n:.1f} points) away on them " if n >= _FEWEST else ""
    return f"{said}: another score {away}cannot be told from it"


def _other_interval(score: Score) -> bool:
    """Whether a stated interval of Wilson's is that of no count of right answers that the figure can stand for.

    Each end may be rounded to the digits that it is written with. Both ends grow with the count, so the first count
    whose ends are not below the stated ones is the only one to try.
    """
    protocol = score.protocol
    if protocol is None or protocol.method != "wilson" or protocol.samples != 1 or protocol.interval is None:
        return False
    questions, counts = protocol.questions, score.counts()
    (low, high), slack = protocol.interval, [written_unit(end) / 2 + _SAME for end in protocol.interval]
    first = max(
        bisect_left(counts, low - slack[0], key=lambda right: wilson_interval(right, questions).low),
        bisect_left(counts, high - slack[1], key=lambda right: wilson_interval(right, questions).high),
    )
    if first == len(counts):
        return True
    ours = wilson_interval(counts[first], questions)
    return ours.low > low + slack[0] or ours.high > high + slack[1]


def _fact(score: Score) -> ScoreFact:
    questions, protocol = score.benchmark.questions, score.protocol
    missing, method = (protocol.missing, protocol.method) if protocol else (None, "")
    stated_low, stated_high = (protocol and protocol.interval) or (None, None)
    low, high = exact_interval(min(questions, round(score.value * questions)), questions)
    return ScoreFact(
        score.benchmark.name, questions, score.value, round(low, 4), round(high, 4), bool(score.counts()),
        shorten(score.model, 80), score.samples, score.evidence.file, missing, stated_low, stated_high, method,
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
