"""Calls of this program for people to paste into a shell."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import Path


def program() -> str:
    """Name of this program where the shell finds it, else its path; not quoted."""
    called, found = Path(sys.argv[0]), shutil.which("clearseek")
    if called.name != "clearseek" or (found and Path(found).resolve() == called.resolve()):
        return "clearseek"
    return os.path.relpath(called) if called.is_relative_to(Path.cwd()) else str(called)


def command(*arguments: str | Path) -> str:
    """A call of this program, quoted for a shell; a path that begins with a dash gets a ``./``, as no option has."""
    words = [f"./{each}" if isinstance(each, Path) and str(each).startswith("-") else str(each) for each in arguments]
    return shlex.join([program(), *words])
