"""Cost: operations, hours, price, energy, and what it takes to run the model; each stated figure against the others.

A cost such as "$5.576M" is arithmetic on hours and a price, and says nothing about what else was spent. So three things
are answered apart: do the hours fit the operations, does the price follow from the hours, and what is left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

from clearseek.audit import questions as ask
from clearseek.audit.checks import operations, parameters
from clearseek.audit.checks.operations import Compute
from clearseek.audit.evidence import Grade, Row
from clearseek.audit.facts import ComputeFact, MemoryFact
from clearseek.counts import flops_per_token
from clearseek.errors import UserError
from clearseek.plan.formulas import DOLLARS_PER_HOUR, PLAUSIBLE, is_plausible, six_nd, utilisation
from clearseek.plan.hardware import Hardware, find_hardware
from clearseek.plan.published import PublishedRun, match
from clearseek.reading.claims import Claim, agree, settled
from clearseek.reading.evidence import Evidence, amount
from clearseek.reading.identity import SIZE
from clearseek.reading.subject import CONFIG, INDEX, Subject
from clearseek.tensors import FP8_KINDS, tensors

_STAGES = (
    ("all", r"full training|total|entire|in all|altogether"),
    ("rest", r"subsequent|post-training stages|after pre-?training|fine-?tun"),
    ("pre-training", r"pre-?train"),
)
_FAR = 1.5
"""Figures further apart than this are of two sizes of a family that names none."""
_POOL = 1e14
"""More tokens than any model has been trained on: those of a pool."""
LATER_STAGES = 0.2
"""Tokens of later stages, as a share of the first's, that leave a run's operations what they are."""
SEQUENCE = 4096
"""Context during pre-training where nothing else is known, for the share of attention."""


def rows(subject: Subject) -> Iterator[Row]:
    """Compute, memory to run, figures stated twice; price, devices, operations and energy where they are stated."""
    compute, hours = _compute(subject), _hours(subject)
    yield _consistent(subject, hours)
    yield _hours_fit(compute, hours.get("pre-training") or hours.get("all"))
    yield from operations.rows(subject, compute)
    yield from _price(subject, hours)
    yield _memory(subject)


def _compute(subject: Subject) -> Compute | None:
    """From the configuration, or by 6ND from the one figure of parameters that is stated."""
    counted, config, tokens = subject.counted.value, subject.config.value, subject.stated("tokens")
    tokens = tuple(claim for claim in tokens if claim.value < _POOL)
    if not tokens:
        return None
    most = max(tokens, key=lambda claim: claim.value)
    figures = {claim.value: claim.text for claim in tokens if not claim.overlaps(most)}
    doubt = ""
    if most.about == "several" or sum(figures) > LATER_STAGES * most.value:
        doubt = f"the tokens of this run are not clear: {', '.join((most.text, *list(figures.values())[:4]))}"
    if counted is not None and counted.activated is not None and not counted.defaults:
        visited = counted.activated - (counted.embedding if counted.head else 0)
        exact = None if config is None else flops_per_token(config, SEQUENCE, mtp=False) * most.value
        return Compute(most, six_nd(visited, most.value), exact, doubt, True)
    own, others = settled(subject.stated("activated") or subject.stated("total"))
    sizes = {claim.value for claim in own}
    return Compute(most, six_nd(sizes.pop(), most.value), None, doubt) if len(sizes) == 1 and not others else None


def _hours(subject: Subject) -> dict[str, Claim]:
    """Stage -> hours, from the words of their sentence."""
    found: dict[str, Claim] = {}
    stated = subject.stated("gpu_hours")[: operations.MOST]
    for claim in sorted(stated, key=lambda claim: claim.about == "several"):
        stage = next((stage for stage, words in _STAGES if re.search(words, claim.evidence.quote, re.I)), "all")
        first = found.setdefault(stage, claim)
        if claim.about != "several" and not first.overlaps(claim):  # which of them are the run's is not said
            found[stage] = replace(first, about="several")
    return found


def _device(claim: Claim) -> Hardware | None:
    try:
        return find_hardware(claim.device) if claim.device else None
    except UserError:
        return None


def _consistent(subject: Subject, hours: dict[str, Claim]) -> Row:
    """Figures that stand twice."""
    wrong: list[str] = []
    unsure: list[str] = []
    compared: list[Claim] = []
    for kind in ("total", "activated", "context", "stored"):  # several counts of tokens are several stages
        own, others = settled(subject.stated(kind))
        bare = [claim for claim in own if claim.includes == "neither"]
        rest = [claim for claim in own if claim.includes != "neither"]
        compared += [claim for group in (bare, rest) if len(group) > 1 for claim in group]
        family = (
            not SIZE.search(subject.name.lower())
            and len(own) > 1
            and (max(claim.value for claim in own) > _FAR * min(claim.value for claim in own))
        )
        if family and not agree(own):
            unsure.append(f"{kind}: {_listed(own)}")
            compared += own
        elif not agree(own) and not all(parameters.fits(subject, claim) for claim in own):
            wrong.append(f"{kind}: {_listed(own)}")
        elif len({claim.text for claim in others}) > 1 or (own and others):
            unsure.append(f"{kind}: {_listed((*own, *others))}")
            compared += others
    if {"all", "pre-training", "rest"} <= hours.keys():
        whole, parts = hours["all"], (hours["pre-training"], hours["rest"])
        compared += [whole, *parts]
        slack = whole.tolerance + sum(part.tolerance for part in parts)
        if abs(whole.value - sum(part.value for part in parts)) > slack:
            wrong.append(f"GPU-hours: {whole.text} in all, and {' + '.join(part.text for part in parts)} in parts")
    places = tuple(dict.fromkeys(claim.evidence for claim in compared))[:8]
    if wrong:
        return ask.CLAIMS_CONSISTENT.no(Grade.CLAIMED, "; ".join(wrong), *places)
    if unsure:
        reason = f"{'; '.join(unsure)}: whether these are of one model is not clear"
        return ask.CLAIMS_CONSISTENT.unknown(Grade.CLAIMED, reason, *places)
    if not compared:
        return ask.CLAIMS_CONSISTENT.not_applicable("nothing is stated twice")
    kinds = ", ".join(dict.fromkeys(claim.kind.replace("_", " ") for claim in compared))
    return ask.CLAIMS_CONSISTENT.yes(Grade.CHECKED, f"{amount(len(compared), 'figure')} of {kinds} agree", *places)


def _listed(claims: tuple[Claim, ...]) -> str:
    return ", ".join(sorted({claim.text for claim in claims}))


def _hours_fit(compute: Compute | None, claim: Claim | None) -> Row:
    """Whether hours and operations give a share of the device's peak that runs reach."""
    places = tuple(each.evidence for each in (claim, compute.tokens if compute else None) if each is not None)
    fact = ComputeFact(
        compute.exact or compute.six_n_d if compute else None,
        claim.value if claim else None,
        claim.device if claim else "",
    )
    answer = partial(ask.COST_COMPUTE.answer, facts=(fact,) if places else ())
    if compute is None or claim is None:
        missing = [what for what, part in (("tokens and parameters", compute), ("device-hours", claim)) if part is None]
        grade = Grade.CLAIMED if places else Grade.ABSENT
        return answer("unknown", grade, f"not stated here: {'; '.join(missing)}", *places)
    chip = _device(claim)
    size = f"{compute.six_n_d:.2e} operations by 6ND"
    if compute.exact is not None:
        size = f"{compute.exact:.2e} operations ({compute.six_n_d:.2e} by 6ND)"
    if compute.doubt or claim.about == "several" or chip is None:
        unnamed = "the device of the hours is not named, or not known here"
        several = f"{claim.text} hours are those of several runs" if claim.about == "several" else unnamed
        return answer("unknown", Grade.CLAIMED, f"{size}; {compute.doubt or several}", *places)
    rule = utilisation(compute.six_n_d, claim.value, chip.bf16)
    share = f"{100 * rule:.1f} % of BF16's peak"
    if compute.exact is not None:
        share = f"{100 * utilisation(compute.exact, claim.value, chip.bf16):.1f} % of BF16's peak"
        share += f" ({100 * rule:.1f} % by 6ND)"
    reason = (
        f"{size} in {claim.text} {chip.name.upper()} hours: {share}; "
        f"published runs reach {100 * PLAUSIBLE[0]:.0f} to {100 * PLAUSIBLE[1]:.0f} %"
    )
    fits = is_plausible(rule)
    return answer("yes" if fits else "no", Grade.CHECKED if fits else Grade.CLAIMED, reason, *places)


def _price(subject: Subject, hours: dict[str, Claim]) -> Iterator[Row]:
    dollars, prices = (
        tuple(each for each in subject.stated(kind) if each.about != "several")
        for kind in ("dollars", "dollars_per_hour")
    )
    claim = hours.get("all") or hours.get("pre-training")
    claim = claim if claim and claim.about != "several" else None
    run = match(subject.counts) if subject.counts else None
    several = any(len({each.value for each in group}) > 1 for group in (dollars, prices))
    if dollars and claim and prices:
        computed = claim.value * prices[0].value
        spread = claim.tolerance * prices[0].value  # a price is taken as it is written: "$2" is not $2.49
        fits = any(abs(computed - each.value) <= each.tolerance + spread for each in dollars)
        stated = (dollars[0].evidence, claim.evidence, prices[0].evidence)
        reason = f"{claim.text} hours at {prices[0].text} are ${computed:,.0f}; stated: {dollars[0].text}" + _scope(run)
        grade = Grade.CHECKED if fits else Grade.CLAIMED
        yield ask.COST_PRICE.answer("yes" if fits else "unknown" if several else "no", grade, reason, *stated)
    elif run is not None:
        yield _published_price(run, claim)
    elif dollars:
        reason = f"{dollars[0].text} is stated without hours and a price to compute it from"
        yield ask.COST_PRICE.unknown(Grade.CLAIMED, reason, *tuple(each.evidence for each in (*dollars, *prices))[:4])


def _scope(run: PublishedRun | None) -> str:
    return f". Scope: final run only; it leaves out {run.leaves_out}" if run and run.leaves_out else ". Scope: not said"


def _published_price(run: PublishedRun, claim: Claim | None) -> Row:
    """The cost that the publisher states elsewhere, from hours stated here."""
    total = run.total_hours
    parts = " + ".join(f"{stage.hours / 1e3:,.0f}K" for stage in run.stages)
    reason = (
        f"{parts} = {total / 1e3:,.0f}K {run.device.upper()} hours at ${DOLLARS_PER_HOUR:g} are "
        f"${run.dollars() / 1e6:.3f}M, by {run.source}" + _scope(run)
    )
    if claim is None:
        return ask.COST_PRICE.yes(Grade.LINKED, f"{reason}; no hours are stated here")
    if claim.agrees(total):
        return ask.COST_PRICE.yes(
            Grade.LINKED, f"{reason}. The card's {claim.text} hours agree with it", claim.evidence
        )
    return ask.COST_PRICE.no(Grade.CLAIMED, f"{reason}. The card's {claim.text} hours disagree with it", claim.evidence)


_BYTES = {"float32": 4.0, "bfloat16": 2.0, "float16": 2.0}


def _memory(subject: Subject) -> Row:
    """Whether one accelerator holds the weights."""
    raw = subject.config_raw.value or {}
    metadata = subject.source.settings(INDEX).get("metadata")
    listed = metadata.get("total_size") if isinstance(metadata, dict) else None
    about = ""
    places: tuple[Evidence, ...] = (subject.source.whole(CONFIG),) if raw else ()
    if subject.weights.complete:
        size = sum(entry.size for _, entry in subject.weights.tensors.values())
        places = tuple(Evidence(file) for file in list(subject.weights.headers)[:4])
    elif type(listed) is int and listed > 0:
        size, places = listed, (subject.source.whole(INDEX),)
    elif (config := subject.config.value) is not None:
        quantised = bool(raw.get("quantization_config"))
        size = sum(
            spec.size * (1 if quantised and spec.kind in FP8_KINDS else 2 if spec.dtype == "BF16" else 4)
            for spec in tensors(config)
        )
    elif (counted := subject.counted.value) is not None and (width := _width(raw)):
        ends = counted.embedding + counted.head
        size, about = round((counted.total + counted.mtp - ends) * width + 2 * ends), "about "
    else:
        why = subject.counted.error or "config.json does not say in which type the weights are stored"
        return ask.BARRIERS_HARDWARE.unknown(Grade.ABSENT, f"there are no weight files here, and {why}")
    need = -(-size // (72 * 10**9))  # a tenth stays for the cache and the runtime
    shown = f"{size / 1e9:,.1f} GB" if size >= 1e8 else f"{size / 1e6:,.1f} MB"
    reason = f"{about}{shown} of weights" + (
        f": {need} accelerators of 80 GB, a tenth of each kept for caches" if need > 1 else ""
    )
    grade, facts = Grade.PRESENT if about else Grade.CHECKED, (MemoryFact(size, need),)
    return ask.BARRIERS_HARDWARE.answer("yes" if need <= 1 else "no", grade, reason, *places, facts=facts)


def _width(raw: dict[str, Any]) -> float | None:
    """Bytes of a weight inside the layers, scales included, as config.json states its type; None where it does not."""
    quantisation = raw.get("quantization_config")
    if not isinstance(quantisation, dict):
        return _BYTES.get(str(raw.get("torch_dtype") or raw.get("dtype")))
    method, bits = quantisation.get("quant_method"), quantisation.get("bits")
    if "fp4" in (*map(str, (raw.get("expert_dtype"), quantisation.get("expert_dtype"))),) or method == "mxfp4":
        return 0.53  # most weights are experts': four bits, and eight for every 32 of them
    return bits / 8 if type(bits) is int and 0 < bits <= 16 else 1.0 if method in ("fp8", "fbgemm_fp8") else None
