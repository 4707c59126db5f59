"""Parameters: what the card says, against what config.json and the weights' headers come to.

A model has several counts: with its multi-token-prediction module or not, with its input embedding, its output head and
its vision tower or without. A figure is right if it is one of them, rounded or cut off, which its words do not exclude;
the row says which. It is wrong only if it lies beyond all of them: in between, its convention is not known.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

from clearseek.audit import questions as ask
from clearseek.audit.evidence import Answer, Grade, Question, Row
from clearseek.counts import Counted
from clearseek.reading.claims import Claim, settled
from clearseek.reading.subject import INDEX, Subject
from clearseek.tensors import SCALE_SUFFIX, fp8_tensors, memory_tensors

Ways = dict[str, float]
"""How it can be counted -> the count."""


def rows(subject: Subject) -> Iterator[Row]:
    """One row for each quantity: total, activated, and of our own architectures multi-token prediction and storage."""
    counted, elements = subject.counted.value, _elements(subject)
    yield _row(subject, ask.PARAMETERS_TOTAL, {"total": _totals(counted) if counted else {}}, elements)
    yield _row(subject, ask.PARAMETERS_ACTIVATED, {"activated": _visited(counted) if counted else {}}, {})
    if subject.counts is not None and subject.counts.mtp:
        yield _row(subject, ask.PARAMETERS_MTP, _mtp(subject), {})
    if subject.counts is not None:
        ways = {"all elements by config.json, scales included": float(_expected_elements(subject))}
        yield _row(subject, ask.PARAMETERS_STORED, {"stored": ways}, _elements(subject, all_of_them=True))


def billions(count: float) -> str:
    """``671,026,419,200`` -> ``671.03B``; small counts in millions."""
    return f"{count / 1e9:,.2f}B" if count >= 1e9 else f"{count / 1e6:,.2f}M"


def fits(subject: Subject, claim: Claim) -> bool:
    """Whether a figure is one of the counts of this model's parameters."""
    counted = subject.counted.value
    if counted is None or claim.kind not in ("total", "activated"):
        return False
    ways = _totals(counted) if claim.kind == "total" else _visited(counted)
    return any(map(claim.agrees, ways.values()))


def _totals(count: Counted) -> Ways:
    """The ways to count all parameters, the plainest first."""
    ways = {"by config.json": float(count.total)}
    if count.mtp:
        ways["with the multi-token-prediction module"] = float(count.total + count.mtp)
    if count.towers:
        ways["of the language model alone"] = float(count.total - count.towers)
    for name, whole in list(ways.items()):
        rest = "" if name == "by config.json" else f", {name}"
        ways[f"without the input embedding{rest}"] = whole - count.embedding
        ways[f"without embedding and head{rest}"] = whole - count.embedding - count.head
    if count.lookups:
        ways["without any embedding"] = float(count.total - count.embedding - count.lookups)
    return ways


def _visited(count: Counted) -> Ways:
    """The ways to count the parameters that a token visits."""
    if count.activated is None:
        return {}
    ways = {
        "with input embedding and output head": float(count.activated),
        "without the input embedding": float(count.activated - (count.embedding if count.head else 0)),
        "without embedding and head": float(count.activated - count.embedding - count.head),
    }
    if count.towers:
        ways |= {f"{way}, of the language model alone": value - count.towers for way, value in ways.items()}
    return ways


def _row(subject: Subject, question: Question, counts: dict[str, Ways], elements: Ways) -> Row:
    """Figures against the ways to count what they are of; one that may be another model's accuses nobody."""
    counted, claims = subject.counted.value, subject.stated(*counts)
    base = (subject.source.whole("config.json"),) if counted and any(counts.values()) else ()
    shown = _listed(next(iter(counts.values())) or elements)
    note = _note(counted) if counted and base else ""
    if not claims:
        return question.not_applicable("nothing is stated" + (shown and f"; computed: {shown}{note}"), *base)
    if not shown:
        why = subject.counted.error or "a token's share of the experts is not to be told from config.json"
        stated = ", ".join(dict.fromkeys(f"“{claim.text}”" for claim in claims[:4]))
        places = dict.fromkeys(claim.evidence for claim in claims)
        return question.unknown(Grade.CLAIMED, f"{stated} stated; not counted: {why}", *list(places)[:8])
    sure = not (counted and base and (counted.defaults or "auto_map" in (subject.config_raw.value or {})))
    verdicts: dict[Claim, tuple[bool | None, str]] = {}
    for kind, ways in counts.items():
        own, others = settled(subject.stated(kind))
        verdicts |= {claim: _verdict(claim, ways, elements, sure) for claim in (*own, *others)}
        for claim in others:
            if verdicts[claim][0] is False:
                verdicts[claim] = None, f"“{claim.text}” may be said of another model or a part"
    wrong, right, unclear = (
        list(dict.fromkeys(text for fine, text in verdicts.values() if fine is each)) for each in (False, True, None)
    )
    places = dict.fromkeys(claim.evidence for claim in sorted(verdicts, key=lambda claim: verdicts[claim][0] is True))
    if unclear and not wrong:
        reason = f"{'; '.join(unclear)}; computed: {shown}{note}"
        return question.unknown(Grade.CLAIMED, reason, *list(places)[:8], *base)
    answer: Answer = "yes" if not wrong else "partly" if right else "no"
    grade = Grade.CHECKED if right else Grade.CLAIMED
    return question.answer(answer, grade, "; ".join(wrong + right) + note, *list(places)[:8], *base)


def _listed(ways: Ways) -> str:
    return ", ".join(f"{billions(value)} {way}" for way, value in list(ways.items())[:3])


def _note(counted: Counted) -> str:
    """What the count was made by, and what it had to take from elsewhere."""
    if not counted.defaults:
        return f"; counted by {counted.by}"
    some = ", ".join(counted.defaults[:4]) + (", ..." if len(counted.defaults) > 4 else "")
    return f"; counted by {counted.by}, whose defaults were taken for what config.json leaves out: {some}"


_WORDS = {
    "mtp": "in the MTP module", "mtp_activated": "activated in the MTP module", "mtp_stored": "stored for MTP",
}  # fmt: skip


def _verdict(claim: Claim, ways: Ways, elements: Ways, sure: bool) -> tuple[bool | None, str]:
    """Whether a figure is right, None where it cannot be told, and the sentence that says why."""
    allowed = ways | elements
    if claim.includes:  # the words say what is in it
        begin = "with " if claim.includes == "both" else "without "
        allowed = {way: value for way, value in ways.items() if way.startswith(begin)} or (
            ways if claim.includes == "both" or not any(way.startswith(("with ", "without ")) for way in ways) else {}
        )  # fmt: skip
    found = [way for way, value in allowed.items() if claim.agrees(value)]
    rounded = [way for way in found if claim.rounds(allowed[way])]
    extra = {"both": " including embedding and head", "neither": " excluding embedding and head", "": ""}
    said = f"“{claim.text}” {_WORDS.get(claim.kind, claim.kind)}{extra[claim.includes]}"
    if found:
        way = (found if claim.kind == "total" else rounded or found)[0]  # of totals the plainest
        how = "" if way in rounded else ", cut off"
        return True, f"{said} is right{how}: {billions(allowed[way])} {way}"
    counts = allowed.values()
    if not counts or (not claim.includes and min(counts) <= claim.high and claim.low <= max(counts)):
        return None, f"{said}: by which count is not clear"
    if not ways and claim.high < max(counts):
        return None, f"{said} is less than all that the weights hold, {_listed(elements)}, some of which may not count"
    if not sure:
        return None, f"{said} is not what transformers' class of this name gives, which may be another model"
    return (
        False,
        f"{said} is not what the {'configuration gives' if ways else 'weights hold'}: {_listed(ways or elements)}",
    )


def _mtp(subject: Subject) -> dict[str, Ways]:
    """The ways to count a multi-token-prediction module, what a token visits of it, and what is stored for it."""
    config, counts = subject.config.value, subject.counts
    assert config is not None and counts is not None
    module = [spec for spec in memory_tensors(config) if spec.mtp]
    projection = sum(spec.size for spec in module if spec.kind == "mtp_proj")
    experts = sum(spec.size for spec in module if spec.kind == "expert")
    ends = counts.embedding + counts.head
    visited = counts.mtp - experts + experts * config.num_experts_per_tok // config.n_routed_experts + ends
    return {
        "mtp": {"its own": counts.mtp, "its own without eh_proj": counts.mtp - projection},
        "mtp_activated": {
            "with embedding and head": visited,
            "with embedding and head, without eh_proj": visited - projection,
        },
        "mtp_stored": {
            "everything stored beyond the main model": _expected_elements(subject) - counts.total,
            "with its copies of embedding and head": counts.mtp + ends,
        },
    }


def _expected_elements(subject: Subject) -> int:
    """Elements that a checkpoint of this config stores, scales included where it is quantised."""
    config, counts = subject.config.value, subject.counts
    assert config is not None and counts is not None
    if (subject.config_raw.value or {}).get("quantization_config"):
        return sum(prod(tensor.shape) for tensor in fp8_tensors(config))
    return counts.checkpoint


def _elements(subject: Subject, all_of_them: bool = False) -> Ways:
    """Elements in the weight files; scales and masks, which are no parameters, only where `all_of_them` are asked for.

    Empty where a file is missing or unreadable, numbers are packed several to an element, or it is an adapter.
    """
    weights, files = subject.weights, list(subject.weights.headers)
    files = [file for file in files if not file.startswith("consolidated")] or files
    named = subject.source.settings(INDEX).get("weight_map")
    missing = set(map(str, named.values())) - set(subject.source.sizes) if isinstance(named, dict) else set()
    if weights.errors or missing or any("adapter" in file.lower() for file in files):
        return {}
    entries = [entry for file in files for entry in weights.headers[file].entries]
    if not all_of_them:
        entries = [
            each for each in entries if each.dtype != "BOOL" and each.shape and not each.name.endswith(SCALE_SUFFIX)
        ]
        if not all(entry.dtype.startswith(("F", "BF")) for entry in entries):
            return {}
    sizes = {entry.name: float(prod(entry.shape)) for entry in entries}
    ways = {"elements of the weight files": sum(sizes.values())} if sizes else {}
    head = sizes.get("lm_head.weight", 0.0) if (subject.config_raw.value or {}).get("tie_word_embeddings") else 0.0
    if head and not all_of_them:
        ways["without the second copy of the embedding"] = sum(sizes.values()) - head
    return ways
