"""Context length and vocabulary: the same fact in several files, which should agree.

A context length stands in config.json (positions), in its rotary scaling (factor times the trained length), in the
tokenizer's settings and in the card. What a model computes and what it was tested at may differ honestly; a reader
should then be told both.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeGuard

from clearseek.audit import questions as ask
from clearseek.audit.evidence import Answer, Grade, Row
from clearseek.reading.claims import settled
from clearseek.reading.evidence import Evidence, amount
from clearseek.reading.subject import CONFIG, Part, Subject, attempt

_UNLIMITED = 10**12
"""Tokenizers without a limit say something above this."""


def rows(subject: Subject) -> Iterator[Row]:
    """Context length from four sources; tokenizer against embedding; special tokens."""
    yield _length(subject)
    tokenizer: Part[dict[str, Any]] = Part(None)
    if "tokenizer.json" in subject.source.sizes:
        tokenizer = attempt(lambda: subject.source.json("tokenizer.json"))
    yield _vocabulary(subject, tokenizer)
    yield _special(subject, tokenizer)


_POSITIONS = ("max_position_embeddings", "n_positions", "max_seq_len", "max_sequence_length", "seq_length")
"""Settings with the number of positions, by the names that classes of transformers have for it."""
Length = tuple[str, int, Evidence]


def _configured(subject: Subject) -> Iterator[Length]:
    """Lengths in config.json and in the tokenizer's settings, with where they stand.

    Factor times trained length is the length for linear scaling and YaRN alone: Llama 3.1 scales by 8 from 8,192 and
    reaches 131,072.
    """
    raw = subject.config_raw.value or {}
    text = raw.get("text_config")
    raw = text | raw if isinstance(text, dict) else raw  # of a model that reads images too
    key = next((key for key in _POSITIONS if _whole(raw.get(key))), "")
    if key:
        yield "config.json", raw[key], subject.source.key(CONFIG, key, raw[key])
    scaling = raw.get("rope_scaling") or raw.get("rope_parameters")
    if isinstance(scaling, dict) and (scaling.get("rope_type") or scaling.get("type")) in ("linear", "yarn"):
        factor, original = scaling.get("factor"), scaling.get("original_max_position_embeddings")
        if isinstance(factor, int | float) and 0 < factor < _UNLIMITED and _whole(original) and original < _UNLIMITED:
            name = f"{factor:g} x {original} (rotary scaling)"
            yield name, int(factor * original), subject.config_key("rope_scaling")
    length = subject.source.settings("tokenizer_config.json").get("model_max_length")
    if _whole(length) and length < _UNLIMITED:
        place = subject.source.key("tokenizer_config.json", "model_max_length", length)
        yield "tokenizer_config.json", length, place


def _length(subject: Subject) -> Row:
    found = list(_configured(subject))
    lengths = {length for _, length, _ in found}
    claims = tuple(dict.fromkeys(subject.stated("context")))
    extended = tuple(dict.fromkeys(subject.stated("context_extended")))
    own, others = settled(claims)
    others = tuple(claim for claim in (*others, *extended) if not any(map(claim.agrees, lengths)))
    places = tuple(place for _, _, place in found) + tuple(claim.evidence for claim in (*claims, *extended))[:4]
    listed = [f"{length:,} in {file}" for file, length, _ in found]
    listed += sorted({f"{claim.text} in the card" for claim in claims if claim not in others})
    reason = ", ".join(listed)
    if others:
        unsure = ", ".join(dict.fromkeys(claim.text for claim in others))
        note = f"the card also has {unsure}, which may be by extension or of another model: not checked"
        reason = f"{reason}; {note}" if reason else note
    if len(lengths) > 1 or not all(claim.agrees(length) for claim in own for length in lengths):
        reason += "; the length that is computed is not the one that was stated or tested"
        return ask.CONTEXT_LENGTH.partly(Grade.CLAIMED, reason, *places)
    doubtful = others and not (own and all(claim in extended for claim in others))
    if len(found) + bool(claims) >= 2 and not doubtful:
        return ask.CONTEXT_LENGTH.yes(Grade.CHECKED, reason, *places)
    grade = Grade.CLAIMED if reason else Grade.ABSENT
    only = "only one source: " if len(listed) == 1 else ""
    return ask.CONTEXT_LENGTH.unknown(grade, only + reason or "nothing says it", *places)


def _vocabulary(subject: Subject, tokenizer: Part[dict[str, Any]]) -> Row:
    rows_ = (subject.config_raw.value or {}).get("vocab_size")
    if tokenizer.value is None:
        answer: Answer = "no" if tokenizer.error else "unknown"
        return ask.TOKENIZER_VOCABULARY.answer(answer, Grade.ABSENT, tokenizer.error or "there is no tokenizer.json")
    ids = token_ids(tokenizer.value)
    place = subject.source.whole("tokenizer.json")
    if not ids:
        return ask.TOKENIZER_VOCABULARY.no(Grade.PRESENT, "tokenizer.json holds no vocabulary", place)
    if not _whole(rows_):
        reason = f"{len(ids):,} tokens; config.json does not say vocab_size"
        return ask.TOKENIZER_VOCABULARY.unknown(Grade.PRESENT, reason, place)
    highest = max(ids.values())
    reason, of = f"{len(ids):,} tokens, highest id {highest:,}", f"the {rows_:,} rows of the embedding"
    places = (place, subject.config_key("vocab_size"))
    if highest >= rows_:
        return ask.TOKENIZER_VOCABULARY.no(Grade.CLAIMED, f"{reason}: does not fit {of}", *places)
    return ask.TOKENIZER_VOCABULARY.yes(Grade.CHECKED, f"{reason}: fits {of}", *places)


def token_ids(tokenizer: dict[str, Any]) -> dict[str, int]:
    """Token -> id of a tokenizer.json, added tokens included; what is not of that form is left out."""
    model, added = tokenizer.get("model"), tokenizer.get("added_tokens")
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    pairs: list[tuple[Any, Any]] = list(vocabulary.items()) if isinstance(vocabulary, dict) else []
    if isinstance(vocabulary, list):  # Unigram: a list of [token, score]
        pairs += ((each[0], number) for number, each in enumerate(vocabulary) if isinstance(each, list) and each)
    pairs += (
        (each.get("content"), each.get("id"))
        for each in (added if isinstance(added, list) else ())
        if isinstance(each, dict)
    )
    return {token: number for token, number in pairs if isinstance(token, str) and type(number) is int}


def _special(subject: Subject, tokenizer: Part[dict[str, Any]]) -> Row:
    found: dict[str, list[tuple[str, Any, Evidence]]] = {"bos_token": [], "eos_token": [], "pad_token": []}
    settings = subject.source.settings("tokenizer_config.json")
    ids = token_ids(tokenizer.value or {})
    for name, values in found.items():
        for file in (CONFIG, "generation_config.json"):
            value = subject.source.settings(file).get(f"{name}_id")
            if value is not None:
                values.append((file, value, subject.source.key(file, f"{name}_id", value)))
        token = settings.get(name)
        token = token.get("content") if isinstance(token, dict) else token
        if tokenizer.value is not None and isinstance(token, str):
            place = subject.source.key("tokenizer_config.json", name, token)
            values.append(("tokenizer", ids.get(token), place))
    compared = {f"{name}_id": values for name, values in found.items() if len(values) > 1}
    places = tuple(place for values in compared.values() for _, _, place in values)[:8]
    if not compared:
        return ask.TOKENIZER_SPECIAL.unknown(Grade.ABSENT, "no id stands in two places")
    bad = [
        f"{key}: " + ", ".join(f"{value} in {file}" for file, value, _ in values)
        for key, values in compared.items()
        if not set.intersection(*(_as_set(value) for _, value, _ in values))
    ]
    if bad:
        return ask.TOKENIZER_SPECIAL.no(Grade.CLAIMED, "; ".join(bad), *places)
    reason = f"{', '.join(sorted(compared))} agree in {amount(max(map(len, compared.values())), 'place')}"
    return ask.TOKENIZER_SPECIAL.yes(Grade.CHECKED, reason, *places)


def _as_set(value: Any) -> set[Any]:
    return {each for each in (value if isinstance(value, list) else [value]) if isinstance(each, int)}


def _whole(value: Any) -> TypeGuard[int]:
    return type(value) is int and value > 0
