"""Parameters: what the card says, against what config.json and the weights' headers come to.

A model has several counts: with its multi-token-prediction module or not, with its input embedding, its output head and
its vision tower or without. A figure is right if it is one of them, rounded or cut off, which its words do not exclude;
the row says which. It is wrong only if it lies beyond all of them: in between, its convention is not known.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

from clearseek.audit import questions as ask
from clearseek.audit.evidence import Answer, Evidence, Grade, Question, Row
from clearseek.audit.read.claims import Claim, settled
from clearseek.audit.read.subject import INDEX, Subject
from clearseek.counts import Counted
from clearseek.tensors import SCALE_SUFFIX, fp8_tensors, memory_tensors

Ways = dict[str, float]
"""How it can be counted -> the count."""


def rows(subject: Subject) -> Iterator[Row]:
    """One row for each quantity: total, activated, and of our own architectures multi-token prediction and storage."""
    counted = subject.counted.value
    elements = _elements(subject)
    yield _row(subject, ask.PARAMETERS_TOTAL, subject.stated("total"), _totals(counted) if counted else {}, elements)
    yield _row(subject, ask.PARAMETERS_ACTIVATED, subject.stated("activated"), _visited(counted) if counted else {}, {})
    if subject.counts is not None and subject.counts.mtp:
        yield _mtp(subject)
    if subject.counts is not None:
        yield _stored(subject)


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


def _row(subject: Subject, question: Question, claims: tuple[Claim, ...], ways: Ways, elements: Ways) -> Row:
    """Figures of this model against the ways to count it; one that may be another's accuses nobody."""
    counted = subject.counted.value
    base = (subject.source.whole("config.json"),) if ways else ()
    shown = ", ".join(f"{billions(value)} {way}" for way, value in list((ways or elements).items())[:3])
    note = _note(counted) if counted and ways else ""
    if not claims:
        reason = f"nothing is stated; computed: {shown}{note}" if shown else "nothing is stated"
        return question.not_applicable(reason, *base)
    if not ways and not elements:
        why = subject.counted.error or "a token's share of the experts is not to be told from config.json"
        stated = ", ".join(dict.fromkeys(f"“{claim.text}”" for claim in claims[:4]))
        return question.unknown(Grade.CLAIMED, f"{stated} stated; not counted: {why}", *_places(claims))
    sure = not (counted and ways) or not (counted.defaults or "auto_map" in (subject.config_raw.value or {}))
    verdicts = {claim: _verdict(claim, ways, elements, sure) for claim in claims}
    own, others = settled(claims)
    strange = [claim for claim in others if not verdicts[claim][0]]
    strange += [claim for claim in own if verdicts[claim][0] is None]
    judged = [claim for claim in claims if claim in (*own, *others) and claim not in strange]
    row = _judged(question, {claim: (bool(verdicts[claim][0]), verdicts[claim][1]) for claim in judged}, base, note)
    if not strange or row.answer in ("no", "partly"):
        return row
    told = "; ".join(dict.fromkeys(verdicts[claim][1] if verdicts[claim][0] is None else
                     f"“{claim.text}” may be said of another model or a part" for claim in strange))  # fmt: skip
    return question.unknown(Grade.CLAIMED, f"{told}; computed: {shown}{note}", *_places((*strange, *own)), *base)


def _note(counted: Counted) -> str:
    """What the count was made by, and what it had to take from elsewhere."""
    if not counted.defaults:
        return f"; counted by {counted.by}"
    some = ", ".join(counted.defaults[:4]) + (", ..." if len(counted.defaults) > 4 else "")
    return f"; counted by {counted.by}, whose defaults were taken for what config.json leaves out: {some}"


def _judged(question: Question, verdicts: dict[Claim, tuple[bool, str]], base: tuple[Evidence, ...], note: str) -> Row:
    """The row of figures that were compared; each distinct one is reported once, with all its places."""
    bad = list(dict.fromkeys(text for fine, text in verdicts.values() if not fine))
    good = list(dict.fromkeys(text for fine, text in verdicts.values() if fine))
    answer: Answer = "yes" if not bad else "partly" if good else "no"
    grade = Grade.CHECKED if good else Grade.CLAIMED
    places = _places(tuple(sorted(verdicts, key=lambda claim: verdicts[claim][0])))
    return question.answer(answer, grade, "; ".join(bad + good) + note, *places, *base)


_WORDS = {
    "mtp": "in the MTP module", "mtp_activated": "activated in the MTP module", "mtp_stored": "stored for MTP",
}  # fmt: skip


def _verdict(claim: Claim, ways: Ways, elements: Ways, sure: bool = True) -> tuple[bool | None, str]:
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
    listed = ", ".join(f"{billions(value)} {way}" for way, value in list((ways or elements).items())[:3])
    if not allowed or (
        not claim.includes and min(allowed.values()) <= claim.high and claim.low <= max(allowed.values())
    ):
        return None, f"{said}: by which count is not clear"
    if not sure:
        return None, f"{said} is not what transformers' class of this name gives, which may be another model"
    return False, f"{said} is not what the {'configuration gives' if ways else 'weights hold'}: {listed}"


def _mtp(subject: Subject) -> Row:
    config, counts = subject.config.value, subject.counts
    assert config is not None and counts is not None
    module = [spec for spec in memory_tensors(config) if spec.mtp]
    projection = sum(spec.size for spec in module if spec.kind == "mtp_proj")
    visited = sum(
        spec.size * config.num_experts_per_tok // config.n_routed_experts if spec.kind == "expert" else spec.size
        for spec in module
    )
    ends = counts.embedding + counts.head
    ways: dict[str, Ways] = {
        "mtp": {"its own": counts.mtp, "its own without eh_proj": counts.mtp - projection},
        "mtp_activated": {
            "with embedding and head": visited + ends,
            "with embedding and head, without eh_proj": visited + ends - projection,
        },
        "mtp_stored": {
            "everything stored beyond the main model": _expected_elements(subject) - counts.total,
            "with its copies of embedding and head": counts.mtp + ends,
        },
    }
    claims = subject.stated("mtp", "mtp_activated", "mtp_stored")
    return _exact(ask.PARAMETERS_MTP, {claim: ways[claim.kind] for claim in claims},
                  subject.config_key("num_nextn_predict_layers"))  # fmt: skip


def _stored(subject: Subject) -> Row:
    ways = {"all elements by config.json, scales included": float(_expected_elements(subject))}
    if subject.weights.complete:
        found = sum(prod(entry.shape) for _, entry in subject.weights.tensors.values())
        ways["elements in the weight files"] = float(found)
    return _exact(ask.PARAMETERS_STORED, dict.fromkeys(subject.stated("stored"), ways))


def _exact(question: Question, claims: dict[Claim, Ways], *base: Evidence) -> Row:
    """Figures of which every way to count is known: beside them there is nothing between."""
    if not claims:
        return question.not_applicable("nothing is stated", *base)
    verdicts = {claim: _verdict(claim, ways, {}) for claim, ways in claims.items()}
    return _judged(question, {claim: (bool(fine), text) for claim, (fine, text) in verdicts.items()}, base, "")


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


def _places(claims: tuple[Claim, ...]) -> tuple[Evidence, ...]:
    """Where the claims stand, each place once, at most eight."""
    return tuple(dict.fromkeys(claim.evidence for claim in claims))[:8]
