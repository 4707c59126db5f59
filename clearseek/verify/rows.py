"""Rows of checks, and whose fault a failure is.

A damaged release fails; a machine that cannot run a check leaves it undecided. The two must not be mixed: a full disk
here says nothing about a stranger's weights, a checkpoint that cannot be read speaks against the release, and a format
that another version reads cannot be judged here. So every check runs inside `attempted`.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Final

from safetensors import SafetensorError

from clearseek.audit.evidence import Grade, Question, Row
from clearseek.errors import OtherVersionError, UserError
from clearseek.reading.evidence import Evidence

_MACHINE: Final = frozenset(
    (errno.ENOSPC, errno.EDQUOT, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.EROFS, errno.EIO, errno.EAGAIN)
)
"""Errors of the verifying machine, which say nothing about the release."""

_EXPECTED: Final = (
    MemoryError, OSError, SafetensorError, LookupError, TypeError, ValueError, ArithmeticError, AttributeError,
    RuntimeError,
)  # fmt: skip
"""Errors of a check that decide a row; any other is a defect of ClearSeek."""


class MachineError(UserError):
    """A check cannot run on this machine, whatever the release holds."""


def attempted(question: Question, make: Callable[[], Row], *evidence: Evidence) -> Row:
    """The row that `make` gives, or where it fails, a row that blames the release or this machine."""
    try:
        return make()
    except _EXPECTED as error:
        here, reason = _blame(error)
    if here:
        return question.unknown(Grade.PRESENT, f"cannot be done here: {reason}", *evidence)
    return question.no(Grade.CLAIMED, reason, *evidence)


def _blame(error: Exception) -> tuple[bool, str]:
    """Whether this machine is to blame, and the reason in words."""
    words = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    match error:
        case MachineError() | OtherVersionError():
            return True, str(error)
        case MemoryError():
            return True, "not enough memory"
        case OSError():
            here = error.errno in _MACHINE
            return here, str(error.strerror) if here else f"cannot be read: {words}"
        case UserError():
            cause = error.__cause__ or error.__context__
            return isinstance(cause, OSError) and cause.errno in _MACHINE, str(error)
        case SafetensorError():
            here = "os error" in str(error)
            return here, words if here else f"not a sound safetensors file: {words}"
    here = "memory" in str(error).lower()
    return here, words if here else f"not of the form it should have: {words}"
