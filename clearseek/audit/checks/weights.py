"""The weights: are they here, is every tensor the configuration asks for among them, and are they numbers.

Headers alone tell names, shapes and types; of the numbers a sample is read. Weights of a release may lie elsewhere, as
in a code repository that links to a hub: then they are linked, which is less than present and more than claimed.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from math import prod

from clearseek.audit import questions as ask
from clearseek.audit.evidence import Answer, Evidence, Grade, Row
from clearseek.audit.read.claims import normalise
from clearseek.audit.read.sample import Sample, take_sample
from clearseek.audit.read.subject import INDEX, Subject, Weights, is_weights, not_settings
from clearseek.errors import UserError
from clearseek.tensors import fp8_tensors, tensors

_HUB = re.compile(
    r"https?://(?:www\.)?"
    r"(?:(?:huggingface\.co|hf\.co|modelscope\.cn/models)/(?!datasets/|spaces/|papers/)[\w.-]+/([\w.-]+)"
    r"|[^\s?#]+/([\w.-]+)\.(?:tar|safetensors|gguf|pth|bin|zip)(?:$|[?#]))"
)
_LARGE = (".pt", ".pth", ".ckpt", ".msgpack", ".h5", ".nemo", ".tflite", ".onnx")
LEAST_ELEMENTS = 100_000
"""Fewest elements of a model where no configuration says what it should have; each is a byte or more."""


def rows(subject: Subject) -> Iterator[Row]:
    """Format, tensors, types and health of the final weights, and whether they are published at all."""
    yield _format(subject)
    yield (matching := _tensors(subject))
    yield _dtype(subject)
    yield _health(subject)
    yield _final(subject, matching)


def _format(subject: Subject) -> Row:
    weights = subject.weights
    if not subject.weight_files:
        return ask.WEIGHTS_FORMAT.not_applicable("there are no safetensors files here")
    problems = [*weights.errors.values(), *(f"{each}: twice" for each in weights.twice), *_index_problems(subject)]
    places = tuple(subject.source.whole(file) for file in subject.weight_files[:8])
    if problems:
        wrong = tuple(Evidence(file) for file in weights.errors) or places
        return ask.WEIGHTS_FORMAT.no(Grade.CLAIMED, _some(problems), *wrong)
    count = len(weights.tensors)
    reason = f"{len(weights.headers)} files, {count:,} tensors, no gap, no overlap, no key twice"
    reason += "; the index names each" if INDEX in subject.source.sizes else ""
    if subject.second_copy:
        reason += f"; a second copy in another layout was left out: {_some(list(subject.second_copy))}"
    return ask.WEIGHTS_FORMAT.yes(Grade.CHECKED, reason, *places)


def _index_problems(subject: Subject) -> Iterator[str]:
    """How index and headers disagree."""
    weights = subject.weights
    if INDEX not in subject.source.sizes:
        if len(subject.weight_files) > 1 and all("/" not in file for file in subject.weight_files):
            yield f"{len(subject.weight_files)} weight files and no {INDEX}"
        return
    try:
        index = subject.source.json(INDEX)
    except UserError as error:
        yield str(error)
        return
    listed = index.get("weight_map")
    if not isinstance(listed, dict) or not all(isinstance(file, str) for file in listed.values()):
        yield f"{INDEX}: weight_map is missing or not a map of names"
        return
    for file in sorted(set(listed.values()) - set(subject.weight_files)):
        yield f"{INDEX}: names the file {file[:100]!r}, which is not here"
    for tensor, file in listed.items():
        where = weights.tensors.get(tensor)
        if where is None and file in weights.headers:
            yield f"{INDEX}: says that {tensor[:100]} is in {file}, where it is not"
        elif where is not None and where[0] != file:
            yield f"{INDEX}: says that {tensor[:100]} is in {file[:100]}, and it is in {where[0]}"
    for tensor, (file, _) in weights.tensors.items():
        if tensor not in listed:
            yield f"{INDEX}: lacks {tensor[:100]}, which is in {file}"
    metadata = index.get("metadata")
    total = metadata.get("total_size") if isinstance(metadata, dict) else None
    actual = sum(entry.size for _, entry in weights.tensors.values())
    if total is not None and weights.complete and total != actual:
        yield f"{INDEX}: total_size is {total}, and the tensors are {actual:,} bytes"


def _tensors(subject: Subject) -> Row:
    weights, config = subject.weights, subject.config.value
    if not weights.headers:
        return ask.WEIGHTS_TENSORS.not_applicable("there are no weight files here")
    if config is None:
        raw = subject.config_raw
        why = subject.config.error or raw.error or "there is no config.json"
        reason = f"unknown which tensors there should be: {why}"
        return ask.WEIGHTS_TENSORS.answer("no" if raw.error else "unknown", Grade.PRESENT, reason)
    quantised = bool((subject.config_raw.value or {}).get("quantization_config"))
    if quantised:
        expected = {tensor.name: tensor.shape for tensor in fp8_tensors(config)}
    else:
        expected = {spec.name: spec.shape for spec in tensors(config)}
    found = {tensor: entry.shape for tensor, (_, entry) in weights.tensors.items()}
    if config.num_nextn_predict_layers and not any(f".{config.num_hidden_layers}." in tensor for tensor in found):
        kept = {spec.name for spec in tensors(config, mtp=False)}
        expected = {tensor: shape for tensor, shape in expected.items() if tensor.removesuffix("_scale_inv") in kept}
    problems = [f"{tensor} is missing" for tensor in expected if tensor not in found]
    problems += [f"{tensor} belongs to no such model" for tensor in found if tensor not in expected]
    problems += [
        f"{tensor} is {[*found[tensor]]} instead of {[*shape]}"
        for tensor, shape in expected.items()
        if tensor in found and found[tensor] != shape
    ]
    places = (subject.source.whole("config.json"),)
    if problems:
        return ask.WEIGHTS_TENSORS.no(Grade.CLAIMED, _some(problems), *places)
    reason = f"all {len(expected):,} names and shapes agree with config.json, and there is no other"
    return ask.WEIGHTS_TENSORS.yes(Grade.CHECKED, reason, *places)


def dtype_census(weights: Weights) -> dict[str, int]:
    """Elements of each type."""
    census: Counter[str] = Counter()
    for _, entry in weights.tensors.values():
        census[entry.dtype] += prod(entry.shape)
    return dict(census.most_common())


_NAMES = {"bfloat16": "BF16", "float16": "F16", "float32": "F32"}


def _dtype(subject: Subject) -> Row:
    raw = subject.config_raw.value or {}
    stated = raw.get("torch_dtype") or raw.get("dtype")
    quantisation = raw.get("quantization_config")
    method = quantisation.get("quant_method") if isinstance(quantisation, dict) else None
    keys = tuple(subject.config_key(key) for key in ("torch_dtype", "dtype", "quantization_config") if raw.get(key))
    census = dtype_census(subject.weights)
    if not census or not keys:
        grade = Grade.CLAIMED if keys else Grade.ABSENT
        said = f"config.json says {stated or 'nothing'}" + (f", quantised as {method}" if method else "")
        reason = f"{said}; {'no weights are here to compare' if not census else 'nothing to compare them with'}"
        return ask.WEIGHTS_DTYPE.unknown(grade, reason, *keys)
    total = sum(census.values())
    shares = ", ".join(f"{kind} {100 * count / total:.2f} %" for kind, count in census.items())
    main = next(iter(census))
    note = f"; config.json says {stated}" + (f" and quantised as {method}" if method else "")
    expected = _quantised(quantisation) if quantisation else _NAMES.get(str(stated), str(stated))
    if not expected:
        reason = f"{shares}{note}, of which it is not known here what it stores"
        return ask.WEIGHTS_DTYPE.unknown(Grade.PRESENT, reason, *keys)
    answer: Answer = "yes" if main == expected else "no"
    return ask.WEIGHTS_DTYPE.answer(answer, Grade.CHECKED if answer == "yes" else Grade.CLAIMED, shares + note, *keys)


def _quantised(settings: object) -> str:
    """The type that most elements have by a method of quantisation; empty where that is not known."""
    if not isinstance(settings, dict):
        return ""
    method = settings.get("quant_method")
    if method == "compressed-tensors":
        return "F8_E4M3" if settings.get("format") == "float-quantized" else ""
    return {"fp8": "F8_E4M3", "mxfp4": "U8"}.get(str(method), "")


def _health(subject: Subject) -> Row:
    weights = subject.weights
    if not weights.headers:
        return ask.WEIGHTS_HEALTH.not_applicable("there are no weight files here")
    sample: Sample = take_sample(subject)
    places = tuple(Evidence(file, f"bytes {begin}-{end - 1}") for file, begin, end in sample.places[:4])
    if sample.problems:
        wrong = tuple(sample.where)[:8] or places
        return ask.WEIGHTS_HEALTH.no(Grade.PRESENT, _some(list(sample.problems)), *wrong)
    whole = "all" if sample.whole else "a sample of"
    reason = f"{whole} {sample.tensors:,} tensors, {sample.bytes:,} bytes read: all finite, none constant, no copies"
    return ask.WEIGHTS_HEALTH.yes(Grade.CHECKED, reason, *places)


def _final(subject: Subject, matching: Row) -> Row:
    weights = subject.weights
    if weights.headers:
        places = tuple(subject.source.whole(file) for file in weights.headers)[:8]
        size = sum(entry.size for _, entry in weights.tensors.values())
        reason = f"{len(weights.tensors):,} tensors, {size:,} bytes in {len(weights.headers)} safetensors files"
        if weights.complete and matching.answer == "yes":
            reason += ", exactly those that config.json asks for"
            return ask.WEIGHTS_FINAL.yes(Grade.CHECKED, reason, *places)
        elements = sum(dtype_census(weights).values())
        if not weights.complete or matching.answer != "unknown":
            what = "damaged or incomplete: see weights.format and weights.tensors"
        elif elements < LEAST_ELEMENTS:
            what = f"{elements:,} elements, and no configuration says that a model is so small"
        else:
            return ask.WEIGHTS_FINAL.yes(Grade.PRESENT, reason, *places)
        return ask.WEIGHTS_FINAL.partly(Grade.PRESENT, f"{reason}; {what}", *places)
    other = _others(subject)
    if other:
        places = tuple(subject.source.whole(file) for file in other[:8])
        reason = f"{len(other)} files of weights in formats that are not read here ({other[0]})"
        if sum(subject.source.sizes[path] for path in other) < LEAST_ELEMENTS:
            reason += ", too small for those of a model"
            return ask.WEIGHTS_FINAL.partly(Grade.PRESENT, reason, *places)
        return ask.WEIGHTS_FINAL.yes(Grade.PRESENT, reason, *places)
    return _linked(subject)


def _others(subject: Subject) -> tuple[str, ...]:
    """Files of weights that are no safetensors: named as such, or large and of a kind that holds little else."""
    return tuple(
        path
        for path, size in subject.source.sizes.items()
        if not path.endswith(".safetensors")
        and size
        and (is_weights(path) or (path.lower().endswith(_LARGE) and size >= LEAST_ELEMENTS and not_settings(path)))
    )


def _linked(subject: Subject) -> Row:
    """Weights that a card links to."""
    if links := weight_links(subject):
        targets = list(dict.fromkeys(link.quote for link in links))
        names = ", ".join(targets[:4]) + (f" and {len(targets) - 4} more" if len(targets) > 4 else "")
        return ask.WEIGHTS_FINAL.yes(Grade.LINKED, f"no weight files here; the card links to {names}", *links[:4])
    return ask.WEIGHTS_FINAL.no(Grade.ABSENT, "no weight files here, and no document links to any on a hub")


def weight_links(subject: Subject) -> list[Evidence]:
    """Links to repositories on a hub, or to archives, named as this model or as one of its family."""
    wanted = normalise(subject.name)
    return [
        link
        for link in subject.links()
        if (match := _HUB.match(link.quote)) and wanted and normalise(match[1] or match[2]).startswith(wanted)
    ]


def _some(problems: list[str], most: int = 6) -> str:
    """The first problems, and how many more there are."""
    more = f"; and {len(problems) - most:,} more" if len(problems) > most else ""
    return "; ".join(problems[:most]) + more
