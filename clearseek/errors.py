"""Errors a user can cause, each with its cure.

A :class:`UserError` says what is wrong, where (file, key, line) and what to do. The command line prints the message
and exits with code 2; every other exception is a defect of ClearSeek and keeps its traceback.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import get_close_matches


class UserError(ValueError):
    """A fault outside the program: a file, a setting, a full disk. The message names the fault and the cure."""


class OtherVersionError(UserError):
    """A file's format is one that another version of ClearSeek reads."""


class LostError(Exception):
    """Contact with another process of the same run was lost: the run can go on from its newest checkpoint."""


def nearest(name: str, valid: Iterable[str]) -> str:
    """Return ``' (did you mean "x"?)'`` for the closest of `valid` names, or an empty string when none is close."""
    matches = get_close_matches(name, list(valid), n=1, cutoff=0.6)
    return f' (did you mean "{matches[0]}"?)' if matches else ""


def one_line(text: str) -> str:
    """`text` with control characters spelt as ``\\x1b``: a stranger's name must not break lines or steer a terminal."""
    return re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]", lambda found: f"\\x{ord(found[0]):02x}", text)
