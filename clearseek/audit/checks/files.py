"""Files: every one named and hashed, no name that lies, nothing that runs when a model is loaded."""

from __future__ import annotations

import re
from collections.abc import Iterator

from clearseek.audit import questions as ask
from clearseek.audit.checks.weights import weight_links
from clearseek.audit.evidence import Grade, Row
from clearseek.hub.safetensors import LONGEST_HEADER
from clearseek.reading.evidence import Evidence, amount
from clearseek.reading.pickles import is_pickle
from clearseek.reading.source import is_test
from clearseek.reading.subject import CONFIG, Subject, attempt, is_weights
from clearseek.signing.bundle import read_bundle
from clearseek.signing.dsse import LONGEST_BUNDLE
from clearseek.signing.manifest import NOT_CONTENT, SIGNATURE
from clearseek.signing.tree import is_below
from clearseek.sysfiles import system_file

_ZIP = b"PK\x03\x04"
_LOOK = 65_536
"""Bytes of a file that are looked at for a pickle."""
_TORCH_BIN = re.compile(r"(?:pytorch_model|adapter_model|training_args|optimizer|scheduler|random_states)[\w.-]*\.bin")
"""Names under which PyTorch's own programs write pickles."""
_LOOSE_PICKLE = re.compile(rb"[\w/-]\.pkl")
_SETTINGS = (
    CONFIG, "tokenizer_config.json", "generation_config.json", "processor_config.json", "preprocessor_config.json",
)  # fmt: skip


_MOST_SETTINGS = 40
_REMOTE_CODE = re.compile(r"trust[-_]remote[-_]code(?! ?= ?False)", re.I)


def rows(subject: Subject) -> Iterator[Row]:
    """Inventory, names, and code execution."""
    yield _inventory(subject)
    yield _names(subject)
    yield _execution(subject)
    found = [path for path in (SIGNATURE, "model.sigstore.json") if path in subject.source.sizes]
    if found:
        yield _signature(subject, found)


def _signature(subject: Subject, found: list[str]) -> Row:
    part = attempt(lambda: read_bundle(subject.source.read(found[0], LONGEST_BUNDLE), found[0]))
    places = (subject.source.whole(found[0]),)
    if part.value is None:
        # a form that is not known here refutes nothing
        return ask.FILES_SIGNATURE.unknown(Grade.CLAIMED, f"not a signature that is read here: {part.error}", *places)
    bundle, sizes = part.value, subject.source.sizes
    if not bundle.digests:
        reason = f"{found[0]} is signed with {bundle.by}, over something else than a list of files"
        return ask.FILES_SIGNATURE.unknown(Grade.PRESENT, reason, *places)
    outside = frozenset((*found, *NOT_CONTENT, *bundle.ignored))
    other = [
        path
        for path, digest in bundle.digests.items()
        if path not in sizes or (digest and subject.source.is_other(path, digest.lower()))
    ]
    beside = [path for path in sizes if path not in bundle.digests and not is_below(path, outside)]
    unsigned = [path for path in beside if not system_file(path)]
    told = [f"{found[0]} names {amount(len(bundle.digests), 'file')}, signed with {bundle.by}"]
    told += [f"it leaves out {_few(unsigned)}"] if unsigned else []
    if other:
        reason = f"not here, or other than what was signed: {_few(other)}; {told[0]}"
        return ask.FILES_SIGNATURE.no(Grade.CLAIMED, reason, *places)
    told.append(f"whose it is, only {bundle.check} tells")
    return ask.FILES_SIGNATURE.answer("partly" if unsigned else "yes", Grade.PRESENT, "; ".join(told), *places)


def _few(paths: list[str], most: int = 4) -> str:
    return ", ".join(paths[:most]) + (f" and {len(paths) - most:,} more" if len(paths) > most else "")


def _inventory(subject: Subject) -> Row:
    source = subject.source
    hashed = [path for path in source.sizes if source.sha256(path)]
    size = sum(source.sizes.values())
    text = f"{amount(len(source.sizes), 'file')}, {size:,} bytes"
    notes = ""
    if pointers := [path for path in source.sizes if source.pointer(path) is not None]:
        size = sum(map(source.stored_size, pointers))
        notes = f"; {len(pointers):,} of them are pointers to {size:,} bytes that are not in this copy"
    notes += f"; {subject.unread}" if subject.unread else ""
    if not source.sizes:
        return ask.FILES_INVENTORY.no(Grade.ABSENT, "there are no files")
    if len(hashed) == len(source.sizes):
        return ask.FILES_INVENTORY.yes(Grade.PRESENT, f"{text}, each with its SHA-256{notes}")
    reason = f"{text}; {len(hashed):,} of them hashed (run without --no-hash to hash all){notes}"
    return ask.FILES_INVENTORY.unknown(Grade.PRESENT, reason)


def _names(subject: Subject) -> Row:
    problems = subject.source.problems
    if not problems:
        return ask.FILES_NAMES.yes(Grade.CHECKED, f"{amount(len(subject.source.sizes), 'name')} looked at")
    reason = _few([f"{problem.path!r:.120}: {problem.what}" for problem in problems], 6)
    return ask.FILES_NAMES.no(Grade.PRESENT, reason, *(Evidence(problem.path) for problem in problems[:8]))


def _execution(subject: Subject) -> Row:
    """Whether loading the model could run code: pickles, and classes that config files ask to import."""
    source = subject.source
    found = list(_pickles(subject))
    unseen = [path for path in found if source.pointer(path) is not None]
    elsewhere = not subject.weight_files and not subject.pointed_weights and _are_elsewhere(subject)
    if elsewhere:
        # what a tool below keeps in a pickle is not what loading the model runs
        unseen += [path for path in found if "/" in path and not is_weights(path) and path not in unseen]
    here = (path for path in found if path not in unseen)
    problems = [(f"{path} is a pickle, which is a program", source.whole(path)) for path in here]
    settings = [path for path in source.sizes if path.rpartition("/")[2] in _SETTINGS and not is_test(path)]
    for path in settings[:_MOST_SETTINGS]:
        if asked := source.settings(path).get("auto_map"):
            what = f"{path} asks to import code of the release (auto_map)"
            problems.append((what, source.key(path, "auto_map", asked)))
    if problems:
        reason = "; ".join(what for what, _ in problems[:6])
        return ask.FILES_EXECUTION.no(Grade.PRESENT, reason, *(place for _, place in problems[:8]))
    if unseen:
        pointers = all(source.pointer(path) is not None for path in unseen)
        what = (
            "pointers to files that are not in this copy" if pointers else "whether the model needs them is not known"
        )
        reason = f"{_few(unseen)}: named as pickles are; {what}"
        return ask.FILES_EXECUTION.unknown(Grade.CLAIMED, reason, *map(source.whole, unseen[:8]))
    if elsewhere:
        asks = next((document.at(n) for document in subject.documents for n, line in enumerate(document.lines, 1)
                     if _REMOTE_CODE.search(line)), None)  # fmt: skip
        reason = "the weights are not here, so what runs when they are loaded was not seen"
        reason += (
            f"; {asks.file}, {asks.where}, loads them with code from where they are (trust_remote_code)" if asks else ""
        )
        return ask.FILES_EXECUTION.unknown(Grade.CLAIMED, reason, *([asks] if asks else []))
    return ask.FILES_EXECUTION.yes(Grade.CHECKED, "no pickle among the files, by name or by content, and no auto_map")


def _are_elsewhere(subject: Subject) -> bool:
    """Whether a document or a program says where weights are that are not here."""
    return bool(subject.absent_shards or weight_links(subject)) or any(
        each.kind in ("model", "collection") for each in subject.repositories
    )


def _pickles(subject: Subject) -> Iterator[str]:
    """Files that hold a pickle, or a zip with one as PyTorch writes it, or are named like one and do not say no."""
    for path, size in subject.source.sizes.items():
        base = path.rpartition("/")[2].lower()
        if not size or base.rpartition(".")[2] in ("md", "txt", "json", "py", "safetensors", "gguf", "npy"):
            continue
        begin = subject.source.read(path, _LOOK)
        if base.endswith(".npz"):
            pickled = _LOOSE_PICKLE.search(_ends(subject, path, begin)) is not None
        elif base.endswith((".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", ".dill")):
            pickled = True
        elif _TORCH_BIN.fullmatch(base):
            pickled = not begin.startswith((b"GGUF", b"ggml", b"lmgg", b"ggjt", b"tjgg")) and not _is_tensors(begin)
        elif begin.startswith(_ZIP):
            named = base.endswith((".bin", ".h5", ".keras"))
            pickled = named or _LOOSE_PICKLE.search(_ends(subject, path, begin)) is not None
        else:
            pickled = is_pickle(begin, len(begin) < size)
        if pickled:
            yield path


def _ends(subject: Subject, path: str, begin: bytes) -> bytes:
    """The beginning of a file and its end, where a zip has the names of what it holds."""
    size = subject.source.sizes[path]
    return begin + subject.source.read(path, _LOOK, max(len(begin), size - _LOOK))


def _is_tensors(begin: bytes) -> bool:
    """Whether a file begins as safetensors do."""
    return begin[8:9] == b"{" and int.from_bytes(begin[:8], "little") <= LONGEST_HEADER
