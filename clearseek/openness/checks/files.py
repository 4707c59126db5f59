"""Files: every one named and hashed, no name that lies, nothing that runs when a model is loaded."""

from __future__ import annotations

from collections.abc import Iterator

from clearseek.openness.evidence import Evidence, Grade, Row
from clearseek.openness.manifest import LONGEST, MANIFEST, NOT_CONTENT, SIGNATURE, parse
from clearseek.openness.source import prose
from clearseek.openness.subject import CONFIG, Subject, attempt
from clearseek.openness.tree import is_below

_PICKLES = ("*.pt", "*.pth", "*.bin", "*.ckpt", "*.pkl", "*.pickle", "*.joblib", "*.npz", "*.dill", "*.h5", "*.keras")
_ZIP = b"PK\x03\x04"
_PICKLE_STARTS = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
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
    yield _manifest(subject)
    yield _signature(subject)


def _manifest(subject: Subject) -> Row:
    title, name, source = "The files are those that the manifest lists", "files.manifest", subject.source
    if MANIFEST not in source.sizes:
        return Row(name, "technical", title, "not applicable", Grade.ABSENT, f"there is no {MANIFEST}")
    part = attempt(lambda: parse(source.read(MANIFEST, LONGEST), MANIFEST))
    if part.value is None:
        return Row(name, "technical", title, "no", Grade.CLAIMED, part.error, (Evidence(MANIFEST),))
    listed = {entry.path: entry for entry in part.value.files}
    left_out = frozenset((MANIFEST, SIGNATURE, *NOT_CONTENT))
    problems = [f"{path} is listed, and is not here" for path in listed if path not in source.sizes]
    problems += [
        f"{path} is here, and is not listed"
        for path in source.sizes
        if path not in listed and not is_below(path, left_out)
    ]
    for path, entry in listed.items():
        digest = source.sha256(path)
        if path in source.sizes and (source.sizes[path] != entry.size or (digest and digest != entry.sha256)):
            problems.append(f"{path} is another file than the one that is listed")
    if problems:
        more = f"; and {len(problems) - 6} more" if len(problems) > 6 else ""
        return Row(name, "technical", title, "no", Grade.CLAIMED, "; ".join(problems[:6]) + more, (Evidence(MANIFEST),))
    hashed = all(source.sha256(path) for path in listed)
    reason = f"{len(listed):,} files, Merkle root {part.value.root}" + ("" if hashed else "; sizes alone were compared")
    grade = Grade.CHECKED if hashed else Grade.PRESENT
    return Row(name, "technical", title, "yes" if hashed else "unknown", grade, reason, (Evidence(MANIFEST),))


def _signature(subject: Subject) -> Row:
    title, name = "The release is signed", "files.signature"
    found = [path for path in (SIGNATURE, "model.sigstore.json") if path in subject.source.sizes]
    if not found:
        return Row(name, "technical", title, "unknown", Grade.ABSENT, "there is no signature in it")
    reason = f"{found[0]} is here; whose it is, only the publisher's public key tells (clearseek verify --key)"
    return Row(name, "technical", title, "yes", Grade.PRESENT, reason, (subject.source.whole(found[0]),))


def _inventory(subject: Subject) -> Row:
    title = "Every file is named and hashed"
    source = subject.source
    hashed = [path for path in source.sizes if source.sha256(path)]
    size = sum(source.sizes.values())
    text = f"{len(source.sizes):,} files, {size:,} bytes"
    if left := prose(source)[1]:
        text += f"; {len(left):,} text files, from {left[0]} on, are more than is read"
    if not source.sizes:
        return Row("files.inventory", "technical", title, "no", Grade.ABSENT, "there are no files")
    if len(hashed) == len(source.sizes):
        return Row("files.inventory", "technical", title, "yes", Grade.PRESENT, f"{text}, each with its SHA-256")
    reason = f"{text}; {len(hashed):,} of them hashed (run without --no-hash to hash all)"
    return Row("files.inventory", "technical", title, "unknown", Grade.PRESENT, reason)


def _names(subject: Subject) -> Row:
    title = "No name or link leads out of the release or deceives the eye"
    problems = subject.source.problems
    if problems:
        reason = "; ".join(f"{problem.path!r:.120}: {problem.what}" for problem in problems[:6])
        reason += f"; and {len(problems) - 6} more" if len(problems) > 6 else ""
        places = tuple(Evidence(problem.path) for problem in problems[:8])
        return Row("files.names", "technical", title, "no", Grade.PRESENT, reason, places)
    reason = f"{len(subject.source.sizes):,} names looked at"
    return Row("files.names", "technical", title, "yes", Grade.CHECKED, reason)


def _execution(subject: Subject) -> Row:
    """Whether loading the model could run code: pickles, and classes that config files ask to import."""
    title, name = "Loading the model runs none of its code", "files.execution"
    problems: list[tuple[str, Evidence]] = []
    source = subject.source
    for path in _pickles(subject):
        problems.append((f"{path} is a pickle, which is a program", source.whole(path)))
    for path in _SETTINGS:
        if path not in source.sizes:
            continue
        content = attempt(lambda path=path: source.json(path)).value or {}  # type: ignore[misc]
        if content.get("auto_map"):
            what = f"{path} asks to import code of the release (auto_map)"
            problems.append((what, source.key(path, "auto_map", content["auto_map"])))
    if problems:
        reason = "; ".join(what for what, _ in problems[:6])
        return Row(name, "technical", title, "no", Grade.PRESENT, reason, tuple(place for _, place in problems[:8]))
    reason = "no pickle among the files, by name or by content, and no auto_map"
    return Row(name, "technical", title, "yes", Grade.CHECKED, reason)


def _pickles(subject: Subject) -> Iterator[str]:
    """Files that begin as a pickle or as the zip that PyTorch wraps one in, or are named like one and do not say no."""
    named = set(subject.source.find(*_PICKLES))
    for path, size in subject.source.sizes.items():
        base = path.rpartition("/")[2]
        if (
            path not in named
            and "." in base
            and base.rpartition(".")[2].lower() in ("md", "txt", "json", "py", "safetensors")
        ):
            continue
        begin = subject.source.read(path, 4) if size else b""
        ending = path.lower().endswith((".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", ".dill"))
        if begin[:2] in _PICKLE_STARTS or (path in named and (begin == _ZIP or ending)):
            yield path
