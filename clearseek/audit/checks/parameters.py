"""Parameters: what the card says, against what config.json and the weights' headers come to.

A mixture-of-experts model has one total and three ways to count what a token activates: with the input embedding and
the output head, without the embedding (a look-up, not a product), without both. A figure is right if it is the rounded
result of a way that it does not exclude; then the row says which.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

from clearseek.audit import questions as ask
from clearseek.audit.evidence import Answer, Evidence, Grade, Question, Row
from clearseek.audit.read.claims import Claim, settled
from clearseek.audit.read.subject import INDEX, Subject
from clearseek.counts import ParameterCount
from clearseek.tensors import SCALE_SUFFIX, fp8_tensors, memory_tensors

Ways = dict[str, float]
"""How it can be counted -> the count."""
Counted = list[tuple[Claim, Ways]]


def rows(subject: Subject) -> Iterator[Row]:
    """One row for each quantity: total, activated, multi-token prediction, elements stored."""
    counts, config = subject.counts, subject.config.value
    if counts is None or config is None:
        yield from _unknown(subject)
        return
    yield _total(subject, counts)
    yield _activated(subject, counts)
    if counts.mtp:
        yield _mtp(subject, counts)
    yield _stored(subject)


def billions(count: float) -> str:
    """``671,026,419,200`` -> ``671.03B``; small counts in millions."""
    return f"{count / 1e9:,.2f}B" if count >= 1e9 else f"{count / 1e6:,.2f}M"


def _unknown(subject: Subject) -> Iterator[Row]:
    why = subject.config.error or "there is no config.json"
    for question, kind in ((ask.PARAMETERS_TOTAL, "total"), (ask.PARAMETERS_ACTIVATED, "activated")):
        claims = subject.stated(kind)
        stated = f"the card says {claims[0].text}" if claims else "the card says nothing"
        elements = _elements(subject)
        if kind == "total" and elements and claims:
            counted = [
                (claim, {} if claim.includes == "neither" else elements) for claim in claims
            ]  # what embeds is unknown
            yield _judge(ask.PARAMETERS_TOTAL, counted, (), elements)
            continue
        grade = Grade.CLAIMED if claims else Grade.ABSENT
        reason = f"cannot be computed ({why}); {stated}"
        yield question.unknown(grade, reason, *_places(claims))


def _total(subject: Subject, counts: ParameterCount) -> Row:
    ways = {"the main model by config.json": float(counts.total)}
    if counts.mtp:
        ways["with the multi-token-prediction module"] = float(counts.total + counts.mtp)
    bare = {
        "without the input embedding": float(counts.total - counts.embedding),
        "without embedding and head": float(counts.total - counts.embedding - counts.head),
    }
    claims = [(claim, bare if claim.includes == "neither" else ways) for claim in subject.stated("total")]
    return _judge(ask.PARAMETERS_TOTAL, claims, (subject.source.whole("config.json"),), ways)


def _activated(subject: Subject, counts: ParameterCount) -> Row:
    ways = {
        "with input embedding and output head": float(counts.activated),
        "without the input embedding": float(counts.activated_without_embedding),
        "without embedding and head": float(counts.activated_without_embedding_and_head),
    }
    evidence = tuple(subject.config_key(key) for key in ("num_experts_per_tok", "n_routed_experts"))
    return _judge(ask.PARAMETERS_ACTIVATED, [(claim, ways) for claim in subject.stated("activated")], evidence, ways)


def _mtp(subject: Subject, counts: ParameterCount) -> Row:
    config = subject.config.value
    assert config is not None
    module = [spec for spec in memory_tensors(config) if spec.mtp]
    projection = sum(spec.size for spec in module if spec.kind == "mtp_proj")
    visited = sum(
        spec.size * config.num_experts_per_tok // config.n_routed_experts if spec.kind == "expert" else spec.size
        for spec in module
    )
    ends = counts.embedding + counts.head
    claims = subject.stated("mtp", "mtp_activated", "mtp_stored")
    answers = []
    for claim in claims:
        ways = {
            "mtp": {"its own": counts.mtp, "its own without eh_proj": counts.mtp - projection},
            "mtp_activated": {
                "with embedding and head": visited + ends,
                "with embedding and head, without eh_proj": visited + ends - projection,
            },
            "mtp_stored": {
                "everything stored beyond the main model": _expected_elements(subject) - counts.total,
                "with its copies of embedding and head": counts.mtp + ends,
            },
        }[claim.kind]
        answers.append((claim, {way: float(value) for way, value in ways.items()}))
    return _judge_each(ask.PARAMETERS_MTP, answers, (subject.config_key("num_nextn_predict_layers"),))


def _expected_elements(subject: Subject) -> int:
    """Elements that a checkpoint of this config stores, scales included where it is quantised."""
    config, counts = subject.config.value, subject.counts
    assert config is not None and counts is not None
    if (subject.config_raw.value or {}).get("quantization_config"):
        return sum(prod(tensor.shape) for tensor in fp8_tensors(config))
    return counts.checkpoint


def _elements(subject: Subject) -> Ways:
    """Elements in the weight files, scales and masks left out; empty where they are not the model's parameters.

    That is so where a file is missing or unreadable, where numbers are packed several to an element, and for adapters.
    """
    files = [file for file in subject.weights.headers if not file.startswith("consolidated")] or subject.weights.headers
    named = subject.source.settings(INDEX).get("weight_map")
    missing = set(map(str, named.values())) - set(subject.source.sizes) if isinstance(named, dict) else set()
    if subject.weights.errors or missing or any("adapter" in file.lower() for file in files):
        return {}
    sizes: dict[str, float] = {}
    for file in files:
        for entry in subject.weights.headers[file].entries:
            if entry.name.endswith(SCALE_SUFFIX) or entry.dtype == "BOOL" or len(entry.shape) == 0:
                continue
            if not entry.dtype.startswith(("F", "BF")):
                return {}
            sizes[entry.name] = float(prod(entry.shape))
    if not sizes:
        return {}
    ways = {"elements of the weight files": sum(sizes.values())}
    if (subject.config_raw.value or {}).get("tie_word_embeddings") and (head := sizes.get("lm_head.weight")):
        ways["without the second copy of the embedding"] = ways["elements of the weight files"] - head
    return ways


def _stored(subject: Subject) -> Row:
    ways = {"all elements by config.json, scales included": float(_expected_elements(subject))}
    if subject.weights.complete:
        found = sum(prod(entry.shape) for _, entry in subject.weights.tensors.values())
        ways["elements in the weight files"] = float(found)
    return _judge_each(ask.PARAMETERS_STORED, [(claim, ways) for claim in subject.stated("stored")], (), ways)


def _judge(question: Question, claims: Counted, base: tuple[Evidence, ...], computed: Ways) -> Row:
    """Compare the figures of this model; one that may be another's is no accusation, and leaves the rest unknown."""
    ways = dict(claims)
    own, others = settled(tuple(ways))
    strange = [claim for claim in others if not _verdict(claim, ways[claim])[0]]
    strange += [claim for claim in own if not ways[claim]]
    judged = (set(own) | set(others)) - set(strange)
    row = _judge_each(question, [each for each in claims if each[0] in judged], base, computed)
    if not strange or row.answer in ("no", "partly"):
        return row
    figures = ", ".join(dict.fromkeys(f"“{claim.text}”" for claim in strange))
    shown = ", ".join(f"{billions(value)} {way}" for way, value in computed.items())
    why = "whether that is said of this model is not clear" if any(map(ways.get, strange)) else "not to be counted here"
    return question.unknown(Grade.CLAIMED, f"{figures}: {why}; computed: {shown}", *_places((*strange, *own)), *base)


def _judge_each(question: Question, claims: Counted, base: tuple[Evidence, ...], computed: Ways | None = None) -> Row:
    """Compare every claim with the ways to count; each distinct figure is reported once, with all its places."""
    shown = ", ".join(f"{billions(value)} {way}" for way, value in (computed or {}).items())
    if not claims:
        return question.not_applicable(f"nothing is stated; computed: {shown}" if shown else "nothing is stated", *base)
    verdicts: dict[str, tuple[bool, str]] = {}
    for claim, ways in claims:
        verdicts.setdefault(f"{claim.kind} {claim.text} {claim.includes}", _verdict(claim, ways))
    bad = [text for good, text in verdicts.values() if not good]
    good = [text for fine, text in verdicts.values() if fine]
    answer: Answer = "yes" if not bad else "partly" if good else "no"
    grade = Grade.CLAIMED if not good else Grade.CHECKED
    places = _places(tuple(claim for claim, _ in sorted(claims, key=lambda each: _verdict(*each)[0])))
    return question.answer(answer, grade, "; ".join(bad + good), *places, *base)


def _verdict(claim: Claim, ways: Ways) -> tuple[bool, str]:
    """Whether a figure is right, and the sentence that says why."""
    allowed = ways
    if claim.includes == "both":
        allowed = {way: value for way, value in ways.items() if way.startswith("with ")} or ways
    elif claim.includes == "neither":
        allowed = {way: value for way, value in ways.items() if way.startswith("without ")} or ways
    fits = [way for way, value in allowed.items() if claim.agrees(value)]
    extra = {"both": " including embedding and head", "neither": " excluding embedding and head", "": ""}[
        claim.includes
    ]
    words = {
        "mtp": "in the MTP module", "mtp_activated": "activated in the MTP module", "mtp_stored": "stored for MTP",
    }.get(claim.kind, claim.kind)  # fmt: skip
    said = f"“{claim.text}” {words}{extra}"
    if fits:
        return True, f"{said} is right: {billions(allowed[fits[0]])} {fits[0]}"
    listed = ", ".join(f"{billions(value)} {way}" for way, value in ways.items())
    source = "weights hold" if any("weight files" in way for way in ways) else "configuration gives"
    return False, f"{said} is not what the {source}: {listed}"


def _places(claims: tuple[Claim, ...]) -> tuple[Evidence, ...]:
    """Where the claims stand, each place once, at most eight."""
    return tuple(dict.fromkeys(claim.evidence for claim in claims))[:8]
