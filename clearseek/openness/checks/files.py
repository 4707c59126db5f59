"""Files: every one named and hashed, no name that lies, nothing that runs when a model is loaded."""

from __future__ import annotations

from collections.abc import Iterator

from clearseek.openness.evidence import Evidence, Grade, Row
from clearseek.openness.subject import CONFIG, Subject, attempt

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


def _inventory(subject: Subject) -> Row:
    title = "Every file is named and hashed"
    source = subject.source
    hashed = [path for path in source.sizes if source.sha256(path)]
    size = sum(source.sizes.values())
    text = f"{len(source.sizes):,} files, {size:,} bytes"
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
