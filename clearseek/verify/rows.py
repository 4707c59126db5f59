"""Rows of what was done again, and whose fault it is where it could not be.

A release that is damaged fails; a machine that cannot do what is asked leaves the matter open. The two must not be
mixed: a full disk here says nothing about a stranger's weights, and a checkpoint that cannot be read is no reason to
look elsewhere; nor can files of a format that another version reads be judged here. So every check runs inside
`attempted`.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Final

from safetensors import SafetensorError

from clearseek.audit.evidence import Evidence, Grade, Question, Row
from clearseek.errors import OtherVersionError, UserError

_MACHINE: Final = frozenset(
    (errno.ENOSPC, errno.EDQUOT, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.EROFS, errno.EIO, errno.EAGAIN)
)
"""Errors of the machine that verifies."""


class MachineError(UserError):
    """What is asked cannot be done on this machine, whatever the release holds."""


def attempted(question: Question, make: Callable[[], Row], *evidence: Evidence) -> Row:
    """The row that `make` gives; where it fails, whether the release or this machine is to blame."""
    try:
        return make()
    except (MachineError, OtherVersionError) as error:
        return question.unknown(Grade.PRESENT, f"cannot be done here: {error}", *evidence)
    except MemoryError:
        return question.unknown(Grade.PRESENT, "cannot be done here: not enough memory", *evidence)
    except OSError as error:
        if error.errno in _MACHINE:
            return question.unknown(Grade.PRESENT, f"cannot be done here: {error.strerror}", *evidence)
        return question.no(Grade.CLAIMED, f"cannot be read: {_words(error)}", *evidence)
    except UserError as error:
        if isinstance(error.__cause__ or error.__context__, OSError) and _machine(error):
            return question.unknown(Grade.PRESENT, f"cannot be done here: {error}", *evidence)
        return question.no(Grade.CLAIMED, str(error), *evidence)
    except SafetensorError as error:
        if "os error" in str(error):
            return question.unknown(Grade.PRESENT, f"cannot be done here: {_words(error)}", *evidence)
        return question.no(Grade.CLAIMED, f"no sound safetensors file: {_words(error)}", *evidence)
    except (LookupError, TypeError, ValueError, ArithmeticError, AttributeError, RuntimeError) as error:
        if "memory" in str(error).lower():
            return question.unknown(Grade.PRESENT, f"cannot be done here: {_words(error)}", *evidence)
        return question.no(Grade.CLAIMED, f"not of the form it should have: {_words(error)}", *evidence)


def _machine(error: BaseException) -> bool:
    cause = error.__cause__ or error.__context__
    return isinstance(cause, OSError) and cause.errno in _MACHINE


def _words(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
