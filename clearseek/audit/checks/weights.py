"""The weights: are they here, is every tensor the configuration asks for among them, and are they numbers.

Headers alone tell names, shapes and types; of the numbers a sample is read. Weights of a release may lie elsewhere, as
in a code repository that links to a hub, or in a clone without large files: then they are linked, which is less than
present and more than claimed. What is not in this copy is not wrong: only what was read can be.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from functools import lru_cache
from itertools import islice
from math import prod

from clearseek.audit import questions as ask
from clearseek.audit.checks.gates import GATE, said_of_access
from clearseek.audit.evidence import Grade, Row
from clearseek.reading.card import Document
from clearseek.reading.evidence import Evidence, amount
from clearseek.reading.identity import SIZE
from clearseek.reading.repositories import Repository, written
from clearseek.reading.source import is_test
from clearseek.reading.subject import INDEX, Subject, Weights, is_weights, not_settings
from clearseek.tensors import fp8_tensors, tensors

FILE_ADDRESS = re.compile(
    r"(?:https?|gs|s3)://[^\s?#\"'<>]{1,600}/(?P<name>[\w.%-]{1,200})\.(?P<kind>safetensors|gguf|pth?|ckpt|bin|tar|tgz|gz|zip)"
    r"(?![\w/.-])",
    re.I,
)
_STORE = re.compile(
    r"//(?:drive\.google|(?:www\.)?dropbox|1drv|onedrive\.live|pan\.baidu|zenodo|(?:www\.)?figshare|mega"
    r"|cloud\.tsinghua|[\w.-]{0,60}the-eye)\.\w{2,3}(?:\.\w{2})?/|//storage\.googleapis\.com/|s3[\w.-]{0,30}\.amazonaws\.com/",
    re.I,
)
"""Places where people put files that a hub has not."""
_SHARD = re.compile(r"-\d{3,6}-of-\d{3,6}\.")
_DATA_FILE = re.compile(r"\.(?:jsonl?|csv|tsv|txt|parquet|arrow|idx)$|_document$|tokeni[sz]er|vocab|messages", re.I)
"""Ends the name of a packed file that holds data, before its last ending."""
_FETCHED = re.compile(
    r"\b(?:s3|gs)://[\w.-]{3,80}/[\w./-]{0,200}|\bmagnet:\?[\w:=&%.-]{10,80}|\bollama (?:run|pull) ([\w.-]{2,60})"
    r"|https://github\.com/[\w.-]{1,60}/[\w.-]{1,80}/releases\b[\w./-]{0,200}"
)
"""Places that are no link to a hub: buckets, torrents, releases, names in a program's library."""
_ARCHIVES = ("bin", "tar", "tgz", "gz", "zip")
_SPOKEN = re.compile(r"\b(?:weights|checkpoints?|pre-?trained)\b|权重", re.I)
_OTHER_FILES = re.compile(r"\b(?:data ?sets?|corpus|logs?|code|demo|embeddings)\b", re.I)
_NO_WEIGHTS = re.compile(
    r"tokeni[sz]er|data(?:set)?s?(?=$|[-_\d])|corpus|eval|bench|logs|tensorboard|demo|assets|docs", re.I
)
"""Names of repositories on a hub that hold something else, whatever they are kept as."""
_PROGRAMS = ("*.py", "*.sh", "*.ipynb", "*.yaml", "*.yml", "*.toml", "dockerfile")
_MOST_PROGRAMS = 300
_MOST_LINES = 20_000
_LARGEST_PROGRAM = 200_000
_MAY_LOAD = re.compile(r"://|from_pretrained|snapshot_download|hf_hub_download|\bmodel\w{0,30} ?[=:] ?[\"']")
_FETCHES = re.compile(r"(?:^|/)(?=[^/]*(?:download|fetch))(?=[^/]*(?:models?|weights|checkpoints?|ckpts?))[^/]*$", re.I)
_BUCKET = re.compile(r"(?:https?|gs|s3)://(?!(?:www\.)?git(?:hub|lab|ee)\.com|huggingface\.co)[\w.-]{4,200}/\S", re.I)
"""A program that fetches weights, by its name, and an address that it puts names of files behind."""
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
    weights, index = subject.weights, subject.index
    away = _away(subject)
    if not subject.weight_files and not away:
        return ask.WEIGHTS_FORMAT.not_applicable("there are no safetensors files here")
    if not subject.weight_files:
        return ask.WEIGHTS_FORMAT.unknown(Grade.LINKED, f"not read: {away}", *_pointers(subject))
    problems = [*weights.errors.values(), *(f"{each}: twice" for each in weights.twice), *_index_problems(subject)]
    places = tuple(subject.source.whole(file) for file in subject.weight_files[:8])
    if problems:
        wrong = tuple(Evidence(file) for file in weights.errors) or places
        return ask.WEIGHTS_FORMAT.no(Grade.CLAIMED, _some(problems), *wrong)
    count = len(weights.tensors)
    reason = f"{amount(len(weights.headers), 'file')}, {amount(count, 'tensor')}, no gap, no overlap, no key twice"
    if away:
        return ask.WEIGHTS_FORMAT.unknown(Grade.PRESENT, f"{reason}; the others were not read: {away}", *places)
    reason += "; the index names each" if index.value is not None else ""
    if subject.second_copy:
        reason += f"; a second copy in another layout was left out: {_some(list(subject.second_copy))}"
    return ask.WEIGHTS_FORMAT.yes(Grade.CHECKED, reason, *places)


def _away(subject: Subject) -> str:
    """Which files of weights this copy only points to or lacks, in words; empty where none."""
    source, pointed, absent = subject.source, subject.pointed_weights, subject.absent_shards
    told = []
    if pointed:
        size = sum(map(source.stored_size, pointed))
        told.append(f"{_some(list(pointed), 2)}: pointers to {size:,} bytes that are not in this copy")
    if absent:
        index = subject.index.value
        size_ = f", {index.size:,} bytes of tensors in all" if index is not None and index.size is not None else ""
        told.append(f"{INDEX} names {_some(list(absent), 2)}, not in this copy{size_}")
    return "; ".join(told)


def _pointers(subject: Subject) -> tuple[Evidence, ...]:
    """Pointers to weights as evidence, or the index that names weights which are not here."""
    if subject.pointed_weights:
        return tuple(subject.source.whole(path) for path in subject.pointed_weights[:8])
    return (subject.source.whole(INDEX),) if subject.absent_shards else ()


def _index_problems(subject: Subject) -> Iterator[str]:
    """How index and headers disagree, as far as the files are here."""
    weights, index = subject.weights, subject.index.value
    if index is None:
        top = [each for each in subject.weight_files if "/" not in each]
        shards = [each for each in top if _SHARD.search(each)]  # others may be an adapter, or another precision
        if subject.index.error or len(shards) > 1:
            yield subject.index.error or f"{amount(len(shards), 'shard')} and no {INDEX}"
        return
    for tensor, file in index.tensors.items():
        where = weights.tensors.get(tensor)
        if where is None and file in weights.headers:
            yield f"{INDEX}: says that {tensor[:100]} is in {file}, where it is not"
        elif where is not None and where[0] != file:
            yield f"{INDEX}: says that {tensor[:100]} is in {file[:100]}, and it is in {where[0]}"
    for tensor, (file, _) in weights.tensors.items():
        if tensor not in index.tensors:
            yield f"{INDEX}: lacks {tensor[:100]}, which is in {file}"
    actual = sum(entry.size for _, entry in weights.tensors.values())
    whole = weights.complete and len(weights.headers) == len(index.files)
    if index.size is not None and whole and index.size != actual:
        yield f"{INDEX}: total_size is {index.size}, and the tensors are {actual:,} bytes"


def _tensors(subject: Subject) -> Row:
    weights, config = subject.weights, subject.config.value
    if not weights.headers:
        return ask.WEIGHTS_TENSORS.not_applicable("there are no weight files here")
    if config is None:
        why = subject.config.error or subject.config_raw.error or "there is no config.json"
        return ask.WEIGHTS_TENSORS.unknown(Grade.PRESENT, f"unknown which tensors there should be: {why}")
    found = {tensor: entry.shape for tensor, (_, entry) in weights.tensors.items()}
    quantised = bool((subject.config_raw.value or {}).get("quantization_config"))
    predicts = any(f".{config.num_hidden_layers}." in tensor for tensor in found)
    listed = (fp8_tensors if quantised else tensors)(config, mtp=predicts)
    expected = {tensor.name: tensor.shape for tensor in listed}
    problems = [f"{tensor} is missing" for tensor in expected if tensor not in found]
    problems += [f"{tensor} belongs to no such model" for tensor in found if tensor not in expected]
    problems += [
        f"{tensor} is {[*found[tensor]]} instead of {[*shape]}"
        for tensor, shape in expected.items()
        if found.get(tensor, shape) != shape
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


_NAMES = {
    "bfloat16": "BF16", "float16": "F16", "float32": "F32", "fp8": "F8_E4M3", "mxfp4": "U8",
    "compressed-tensors float-quantized": "F8_E4M3",
}  # fmt: skip
"""The type that most elements have, by a configuration's word for it or its method of quantisation."""


def _dtype(subject: Subject) -> Row:
    raw = subject.config_raw.value or {}
    stated = str(raw.get("torch_dtype") or raw.get("dtype") or "").removeprefix("torch.")
    stated = "" if stated == "auto" else stated
    settings = raw.get("quantization_config")
    method = settings.get("quant_method") if isinstance(settings, dict) else None
    keys = tuple(subject.config_key(key) for key in ("torch_dtype", "dtype", "quantization_config") if raw.get(key))
    census = dtype_census(subject.weights)
    if not census or not keys or not (stated or settings):
        said = f"config.json says {stated or 'nothing'}" + (f", quantised as {method}" if method else "")
        said += "; nothing to compare them with" if census else "; no weights are here to compare"
        return ask.WEIGHTS_DTYPE.unknown(Grade.CLAIMED if keys else Grade.ABSENT, said, *keys)
    total = sum(census.values())
    shares = ", ".join(f"{kind} {100 * count / total:.2f} %" for kind, count in census.items())
    shares += f"; config.json says {stated}" + (f" and quantised as {method}" if method else "")
    expected = _NAMES.get(stated, stated)
    if settings:
        layout = settings.get("format") if method == "compressed-tensors" else None
        expected = _NAMES.get(f"{method} {layout}" if layout else str(method), "")
    if not expected:
        reason = f"{shares}, of which it is not known here what it stores"
        return ask.WEIGHTS_DTYPE.unknown(Grade.PRESENT, reason, *keys)
    if next(iter(census)) == expected:
        return ask.WEIGHTS_DTYPE.yes(Grade.CHECKED, shares, *keys)
    if not settings and next(iter(census)) == "F32":
        return ask.WEIGHTS_DTYPE.partly(Grade.CLAIMED, f"{shares}, in which they are loaded", *keys)
    return ask.WEIGHTS_DTYPE.no(Grade.CLAIMED, shares, *keys)


def _health(subject: Subject) -> Row:
    weights = subject.weights
    if not weights.headers:
        return ask.WEIGHTS_HEALTH.not_applicable("there are no weight files here")
    from clearseek.reading.sample import take_sample  # NumPy takes long to load, and most cards come without weights

    sample = take_sample(subject)
    places = tuple(Evidence(file, f"bytes {begin}-{end - 1}") for file, begin, end in sample.places[:4])
    if sample.problems:
        wrong = tuple(sample.where)[:8] or places
        return ask.WEIGHTS_HEALTH.no(Grade.PRESENT, _some(list(sample.problems)), *wrong)
    whole = "all" if sample.whole else "a sample of"
    reason = (
        f"{whole} {amount(sample.tensors, 'tensor')}, {sample.bytes:,} bytes read: all finite, none constant, no copies"
    )
    return ask.WEIGHTS_HEALTH.yes(Grade.CHECKED, reason, *places)


def _final(subject: Subject, matching: Row) -> Row:
    weights, away = subject.weights, _away(subject)
    if weights.headers:
        places = tuple(subject.source.whole(file) for file in weights.headers)[:8]
        size = sum(entry.size for _, entry in weights.tensors.values())
        reason = f"{amount(len(weights.tensors), 'tensor')}, {size:,} bytes in "
        reason += amount(len(weights.headers), "safetensors file")
        if weights.complete and matching.answer == "yes":
            reason += ", exactly those that config.json asks for"
            return ask.WEIGHTS_FINAL.yes(Grade.CHECKED, reason, *places)
        if away and not subject.absent_shards:
            return ask.WEIGHTS_FINAL.yes(Grade.LINKED, f"{reason}; and {away}", *places, *_pointers(subject))
        elements = sum(dtype_census(weights).values())
        if away or not weights.complete or matching.answer != "unknown":
            what = away or "damaged or incomplete: see weights.format and weights.tensors"
        elif elements < LEAST_ELEMENTS:
            what = f"{elements:,} elements, and no configuration says that a model is so small"
        else:
            return ask.WEIGHTS_FINAL.yes(Grade.PRESENT, reason, *places)
        return ask.WEIGHTS_FINAL.partly(Grade.PRESENT, f"{reason}; {what}", *places)
    other = other_weights(subject)
    if other:
        places = tuple(subject.source.whole(file) for file in other[:8])
        reason = f"{amount(len(other), 'file')} of weights in formats that are not read here ({other[0]})"
        if sum(subject.source.sizes[path] for path in other) < LEAST_ELEMENTS:
            reason += ", too small for those of a model"
            return ask.WEIGHTS_FINAL.partly(Grade.PRESENT, reason, *places)
        return ask.WEIGHTS_FINAL.yes(Grade.PRESENT, reason, *places)
    return _elsewhere(subject, away)


def other_weights(subject: Subject) -> tuple[str, ...]:
    """Files of weights that are no safetensors: named as such, or large and of a kind that holds little else."""
    return tuple(
        path
        for path, size in subject.source.sizes.items()
        if not path.endswith(".safetensors")
        and size
        and (is_weights(path) or (path.lower().endswith(_LARGE) and size >= LEAST_ELEMENTS and not_settings(path)))
        and subject.source.pointer(path) is None
    )


def _elsewhere(subject: Subject, away: str) -> Row:
    """Weights that are not here: pointed to, linked, or only named by an index."""
    pointed = subject.pointed_weights
    if sum(map(subject.source.stored_size, pointed)) >= LEAST_ELEMENTS:
        return ask.WEIGHTS_FINAL.yes(Grade.LINKED, f"published: {away}", *_pointers(subject))
    if links := weight_links(subject):
        targets = list(dict.fromkeys(link.quote for link in links))
        reason = f"no weight files here; linked: {_some(targets, 4)}" + (f"; {away}" if away else "")
        return ask.WEIGHTS_FINAL.yes(Grade.LINKED, reason, *links[:4])
    if away:
        return ask.WEIGHTS_FINAL.partly(Grade.CLAIMED, away, *_pointers(subject))
    models = _models(subject)
    if not models:
        reason = "no weight files here, and no document links to any"
        if promised := [each.place for each in subject.repositories if each.withheld and subject.kin(each.name)]:
            reason = "no weight files here; the link to some says that they are not given out there, or not yet"
            return ask.WEIGHTS_FINAL.no(Grade.CLAIMED, reason, *promised[:4])
        if gate := said_of_access(subject, GATE):
            return ask.WEIGHTS_FINAL.partly(Grade.CLAIMED, f"{reason}; they are to be asked for: “{gate.quote}”", gate)
        if subject.unread:
            return ask.WEIGHTS_FINAL.unknown(Grade.ABSENT, f"{reason}, as far as was read; {subject.unread}")
        return ask.WEIGHTS_FINAL.no(Grade.ABSENT, reason)
    places = tuple(each.place for each in models[:4])
    shown = _some(list(dict.fromkeys(each.address for each in models)), 3)
    reason = f"no weight files here; the documents link to {shown}, none of which is called {subject.name}"
    if any(subject.is_own(each.address) for each in models) and not SIZE.search(subject.name.lower()):
        return ask.WEIGHTS_FINAL.partly(Grade.LINKED, reason, *places)
    return ask.WEIGHTS_FINAL.unknown(Grade.LINKED, reason, *places)


def _models(subject: Subject) -> list[Repository]:
    """Models that are linked, and whose words are not about others' work."""
    return [each for each in subject.repositories
            if each.kind in ("model", "collection", "owner") and not each.others and not each.withheld
            and not _NO_WEIGHTS.search(each.name)]  # fmt: skip


def may_lie_elsewhere(subject: Subject) -> list[Evidence]:
    """Places where the weights are, or may be under another name; empty where nothing leads to any."""
    return weight_links(subject) or [each.place for each in _models(subject)] or list(_pointers(subject))


@lru_cache(maxsize=1)
def weight_links(subject: Subject) -> list[Evidence]:
    """Links to this model's weights: repositories on a hub, in prose, commands and programs, and files to download.

    Those of a base, a teacher, a sibling or a variant are others', and so are copies that others quantised.
    """
    groups: dict[str, list[Evidence]] = {}
    sized = bool(SIZE.search(subject.name.lower()))
    for each in subject.repositories:
        holds = each.kind in ("model", "collection") and not _NO_WEIGHTS.search(each.name)
        if holds and not each.withheld and (kin := subject.kin(each.name)):
            own = subject.is_own(each.address)
            if kin == "same" or (own and not each.others and (kin == "form" or not sized or each.kind == "collection")):
                groups.setdefault(kin, []).append(each.place)
    if found := [place for kin in ("same", "form", "variant") for place in groups.get(kin, ())]:
        return found if "same" in groups else [*found, *_own_models(subject)]
    return _files_elsewhere(subject) or _in_code(subject) or _own_models(subject)


def _own_models(subject: Subject) -> list[Evidence]:
    """The maker's models under other names, where the card is of a family or a method, which names no size."""
    if SIZE.search(subject.name.lower()):
        return []
    named = (each for each in _models(subject) if each.kind != "owner" and each.name)
    return [each.place for each in named if subject.is_own(each.address)]


def _files_elsewhere(subject: Subject) -> list[Evidence]:
    """Links to files of weights: by their ending, or archives that are called or spoken of as weights."""
    found = []
    for document in subject.documents:
        links = [each for each in document.links if (each.line, each.target) not in document.withheld]
        away = {line for line, _ in document.withheld}
        for link in links:
            words = " ".join((link.text, *document.headings[link.line - 1], document.lines[link.line - 1]))
            if (file := FILE_ADDRESS.search(link.target)) is None:
                if _STORE.search(link.target) and _SPOKEN.search(words) and not _OTHER_FILES.search(words):
                    found.append(Evidence(document.file, f"line {link.line}", link.target, document.sha256))
                continue
            words = FILE_ADDRESS.sub("", words)
            spoken = _SPOKEN.search(words) and not _OTHER_FILES.search(words)
            if _DATA_FILE.search(file["name"]):
                continue
            called = any(map(subject.kin, link.target.split("/")[3:]))
            if file["kind"].lower() not in _ARCHIVES or called or spoken:
                found.append(Evidence(document.file, f"line {link.line}", link.target, document.sha256))
        for number, line in enumerate(document.lines[:_MOST_LINES], 1):
            place = _FETCHED.search(line) if (":" in line or "ollama" in line) and number not in away else None
            if place and (subject.kin(place[1]) if place[1] else _is_fetched(document, number, place[0])):
                found.append(Evidence(document.file, f"line {number}", place[0], document.sha256))
    return found[:40]


def _is_fetched(document: Document, number: int, target: str) -> bool:
    """Whether the words around an address, or its own, say that weights are behind it."""
    words = " ".join((*document.headings[number - 1], *document.lines[max(0, number - 3) : number]))
    spoken = _SPOKEN.search(words) and not _OTHER_FILES.search(words)
    return bool(spoken or re.search(r"/(?:pretrained_)?(?:models?|weights|checkpoints?|ckpts?)(?:/|$)", target, re.I))


def _in_code(subject: Subject) -> list[Evidence]:
    """Places in programs that load this model from a hub, or fetch a file of weights that is called after it."""
    found = []
    sizes, paths = subject.source.sizes, (path for path in subject.source.find(*_PROGRAMS) if not is_test(path))
    chosen = (path for path in islice(paths, _MOST_PROGRAMS) if sizes[path] <= _LARGEST_PROGRAM)
    for document in subject.source.readable(chosen):
        for number, line in enumerate(document.lines if _MAY_LOAD.search(document.text) else (), 1):
            if not _MAY_LOAD.search(line):
                continue
            file = FILE_ADDRESS.search(line)
            same = any(kind == "model" and subject.kin(name) == "same" for kind, _, name in written(line))
            same = same or (_FETCHES.search(document.file) is not None and _BUCKET.search(line) is not None)
            address = next((f"https://huggingface.co/{owner}/{name}" for kind, owner, name in written(line)
                            if kind == "model" and subject.kin(name) == "same"), file[0] if file else "")  # fmt: skip
            if same or (file and any(map(subject.kin, file[0].split("/")[2:]))):
                found.append(document.at(number, address or line.strip()[:200]))
    return found[:8]


def _some(problems: list[str], most: int = 6) -> str:
    """The first problems, and how many more there are."""
    more = f"; and {len(problems) - most:,} more" if len(problems) > most else ""
    return "; ".join(problems[:most]) + more
