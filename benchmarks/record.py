"""What every result says about itself: the key ``about``, which :func:`write_result` adds to what a script measured.

It has the script and its command, the date, the machine, the versions of what computed, and the SHA-256 of the files
that decide the figures. ``claims.toml`` names those files, and ``book.py`` compares them with the present ones: so a
figure that was measured on other code is known as such. The script itself is none of them, since a figure stays what it
was when a script is tidied.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import sys
import tomllib
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
CLAIMS = ROOT / "benchmarks" / "claims.toml"
LIBRARIES = ("clearseek", "torch", "numpy", "numba", "safetensors", "tokenizers", "transformers", "scipy")


def write_result(out: Path, result: Mapping[str, Any], machine: Any = None) -> None:
    """Write a result of the running script as JSON, with the key ``about``; whole or not at all.

    `machine` describes the machine where another process, with other threads, measured.

    A result that has ``about`` already was read from its file and goes on: it keeps the hashes of the code that it was
    begun with, until the file is removed and all is measured anew.
    """
    told = about(out.stem, machine)
    if earlier := result.get("about"):
        told |= {"begun": earlier.get("begun", earlier["date"]), "files": earlier["files"]}
    content = {"about": told} | {key: value for key, value in result.items() if key != "about"}
    out.parent.mkdir(parents=True, exist_ok=True)
    beside = out.with_name(f".{out.name}.{os.getpid()}.new")
    beside.write_text(json.dumps(content, indent=1, ensure_ascii=False, default=str) + "\n", encoding="utf-8")
    beside.replace(out)


def about(name: str, machine: Any = None) -> dict[str, Any]:
    """Where the result of this name, and of the running script, comes from."""
    if machine is None:
        from clearseek.machine import describe  # loads PyTorch

        machine = describe()
    script = Path(sys.argv[0]).resolve()
    said = script.relative_to(ROOT).as_posix() if script.is_relative_to(ROOT) else script.name
    measures = tomllib.loads(CLAIMS.read_text(encoding="utf-8"))["measures"]
    return {
        "script": said,
        "command": shlex.join(["python", said, *map(_published, sys.argv[1:])]),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine,
        "versions": {each: metadata.version(each) for each in LIBRARIES if each in sys.modules},
        "files": hashes(measures.get(name) or measures.get(script.stem, {"files": []})),
    }


def hashes(measure: Mapping[str, Any]) -> dict[str, str]:
    """SHA-256 of the files that decide a result, by path; `measure` is an entry of ``[measures]`` with their globs."""
    paths = sorted({path for glob in measure["files"] for path in ROOT.glob(glob)})
    return {path.relative_to(ROOT).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def _published(argument: str) -> str:
    """An argument without the folders of this machine."""
    option, equals, value = argument.rpartition("=")
    return f"{option}{equals}{Path(value).name}" if Path(value).is_absolute() else argument
