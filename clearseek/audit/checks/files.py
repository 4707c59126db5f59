"""Files: every one named and hashed, no name that lies, nothing that runs when a model is loaded."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from clearseek.audit import questions as ask
from clearseek.audit.evidence import Evidence, Grade, Row
from clearseek.audit.read.pickles import is_pickle
from clearseek.audit.read.subject import CONFIG, Subject, attempt
from clearseek.errors import UserError
from clearseek.hub.safetensors import LONGEST_HEADER
from clearseek.jsontext import strict_json
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
_SIGSTORE = "application/vnd.dev.sigstore.bundle"
_SETTINGS = (
    CONFIG,
    "tokenizer_config.json",
    "generation_config.json",
    "processor_config.json",
    "preprocessor_config.json",
)


def rows(subject: Subject) -> Iterator[Row]:
    """Inventory, names, and code execution."""
    yield _inventory(subject)
    yield _names(subject)
    yield _execution(subject)
    yield _signature(subject)


def _signature(subject: Subject) -> Row:
    found = [path for path in (SIGNATURE, "model.sigstore.json") if path in subject.source.sizes]
    if not found:
        return ask.FILES_SIGNATURE.unknown(Grade.ABSENT, "there is no signature in it")
    part = attempt(lambda: _bundle(subject.source.read(found[0], LONGEST_BUNDLE), found[0]))
    places = (subject.source.whole(found[0]),)
    if part.value is None:
        return ask.FILES_SIGNATURE.no(Grade.CLAIMED, part.error, *places)
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
    told = [f"{found[0]} names {len(bundle.digests):,} files, signed with {bundle.by}"]
    told += [f"it leaves out {_few(unsigned)}"] if unsigned else []
    if other:
        reason = f"{told[0]}; not here, or other than what was signed: {_few(other)}"
        return ask.FILES_SIGNATURE.no(Grade.CLAIMED, reason, *places)
    told.append(f"whose it is, only {bundle.check} tells")
    return ask.FILES_SIGNATURE.answer("partly" if unsigned else "yes", Grade.PRESENT, "; ".join(told), *places)


def _few(paths: list[str], most: int = 4) -> str:
    return ", ".join(paths[:most]) + (f" and {len(paths) - most:,} more" if len(paths) > most else "")


@dataclass(frozen=True, slots=True)
class _Bundle:
    """What a signature says, before anybody's key was tried on it."""

    by: str
    check: str
    """What tells whose it is."""
    digests: dict[str, str]
    """File -> SHA-256 in hex; empty where another hash was taken. No entry where it signs something else than files."""
    ignored: tuple[str, ...]


def _bundle(raw: bytes, where: str) -> _Bundle:
    """Read a sigstore bundle over files. Raises UserError where it is none."""
    content = strict_json(raw, where)
    envelope, material = content.get("dsseEnvelope"), content.get("verificationMaterial")
    if not str(content.get("mediaType")).startswith(_SIGSTORE) or not isinstance(material, dict):
        raise UserError(f"{where}: no sigstore bundle, so no signature that is known here")
    key = "publicKey" in material
    by = "a key" if key else "a certificate of sigstore"
    check = "the publisher's public key (clearseek verify --key)"
    if not key:
        check = "its certificate (model_signing verify sigstore, with the identity that should have signed)"
    if "messageSignature" in content and envelope is None:
        return _Bundle(by, check, {}, ())
    if not isinstance(envelope, dict):
        raise UserError(f"{where}: a sigstore bundle without a statement or a signature")
    signatures, payload = envelope.get("signatures"), envelope.get("payload")
    try:
        signed = [base64.b64decode(each["sig"], validate=True) for each in signatures]  # type: ignore[union-attr]
        statement = strict_json(base64.b64decode(payload, validate=True), where)  # type: ignore[arg-type]
    except (TypeError, KeyError, ValueError):
        raise UserError(f"{where}: a sigstore bundle whose signature or statement cannot be read") from None
    predicate = statement.get("predicate")
    if not isinstance(predicate, dict) or "resources" not in predicate:
        return _Bundle(by, check, {}, ())
    listed, settings = predicate["resources"], predicate.get("serialization")
    digests = dict(map(_signed_file, listed)) if isinstance(listed, list) and all(map(_is_named, listed)) else {}
    if not signed or not all(signed) or not digests:
        raise UserError(f"{where}: a sigstore bundle that signs no file")
    ignored = settings.get("ignore_paths") if isinstance(settings, dict) else None
    paths = tuple(each for each in ignored if isinstance(each, str)) if isinstance(ignored, list) else ()
    return _Bundle(by, check, digests, paths)


def _is_named(value: object) -> bool:
    return isinstance(value, dict) and isinstance(value.get("name"), str)


def _signed_file(value: dict[str, Any]) -> tuple[str, str]:
    digest = value.get("digest")
    if isinstance(digest, dict):
        digest = digest.get("sha256")
    other = value.get("algorithm", "sha256") != "sha256" or not isinstance(digest, str)
    return value["name"], "" if other else str(digest)


def _inventory(subject: Subject) -> Row:
    source = subject.source
    hashed = [path for path in source.sizes if source.sha256(path)]
    size = sum(source.sizes.values())
    text = f"{len(source.sizes):,} files, {size:,} bytes"
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
    if problems:
        reason = "; ".join(f"{problem.path!r:.120}: {problem.what}" for problem in problems[:6])
        reason += f"; and {len(problems) - 6} more" if len(problems) > 6 else ""
        return ask.FILES_NAMES.no(Grade.PRESENT, reason, *(Evidence(problem.path) for problem in problems[:8]))
    return ask.FILES_NAMES.yes(Grade.CHECKED, f"{len(subject.source.sizes):,} names looked at")


def _execution(subject: Subject) -> Row:
    """Whether loading the model could run code: pickles, and classes that config files ask to import."""
    source = subject.source
    found = list(_pickles(subject))
    unseen = [path for path in found if source.pointer(path) is not None]
    here = (path for path in found if path not in unseen)
    problems = [(f"{path} is a pickle, which is a program", source.whole(path)) for path in here]
    for path in _SETTINGS:
        if asked := source.settings(path).get("auto_map"):
            what = f"{path} asks to import code of the release (auto_map)"
            problems.append((what, source.key(path, "auto_map", asked)))
    if problems:
        reason = "; ".join(what for what, _ in problems[:6])
        return ask.FILES_EXECUTION.no(Grade.PRESENT, reason, *(place for _, place in problems[:8]))
    if unseen:
        reason = f"{_few(unseen)}: named as pickles are; pointers to files that are not in this copy"
        return ask.FILES_EXECUTION.unknown(Grade.CLAIMED, reason, *map(source.whole, unseen[:8]))
    return ask.FILES_EXECUTION.yes(Grade.CHECKED, "no pickle among the files, by name or by content, and no auto_map")


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
