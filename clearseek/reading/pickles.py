"""Whether bytes are a pickle, by opcodes, none of which is run.

Since protocol 2 a pickle begins with a byte that no text has. Older ones are plain text or have no mark at all, and any
list of words may happen to be opcodes. So without the mark a pickle is what an unpickler would get through: each opcode
finds on the stack what it needs, until the pickle ends. Of printable text more is asked: that it calls what it imports,
or imports from a module that Python comes with.
"""

from __future__ import annotations

import pickletools
import re
import sys
import warnings
from typing import Any, Final

_IMPORT = re.compile(r"[A-Za-z_][\w.]* [A-Za-z_][\w.]*")
_KNOWN: Final = sys.stdlib_module_names | {"numpy", "torch", "sklearn", "joblib", "pandas", "transformers"}
_BINARY = re.compile(rb"[\x00-\x08\x0e-\x1f\x7f-\xff]")


def is_pickle(begin: bytes, cut: bool) -> bool:
    """Whether bytes are a pickle of any protocol.

    Args:
        begin: The file's first bytes.
        cut: Whether the file goes on after them.
    """
    if len(begin) > 1 and begin[0] == 0x80 and 1 <= begin[1] <= 5:
        return True
    text = not _BINARY.search(begin[:4096])
    stack: list[Any] = []
    imported = known = called = False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of escapes in what is no pickle
            for opcode, argument, _ in pickletools.genops(begin):
                if not _step(opcode, stack):
                    return False
                if opcode.name in ("GLOBAL", "INST") and _IMPORT.fullmatch(str(argument)):
                    imported = True
                    known = known or str(argument).partition(" ")[0].partition(".")[0] in _KNOWN
                imported = imported or opcode.name == "STACK_GLOBAL"
                called = called or (imported and opcode.name == "REDUCE")
    except ValueError as error:
        ended = cut and ("exhausted" in str(error) or "not enough" in str(error))
        return imported and ended and (known or called or not text)
    except (UnicodeError, IndexError, OverflowError):
        return False
    return imported and (known or called or not text)


def _step(opcode: pickletools.OpcodeInfo, stack: list[Any]) -> bool:
    """Do to the stack what an opcode does; False where it does not find there what it needs."""
    taken = opcode.stack_before
    count = len(taken)
    if pickletools.markobject in taken or (opcode.name == "POP" and stack and stack[-1] is pickletools.markobject):
        place = next((n for n in range(len(stack) - 1, -1, -1) if stack[n] is pickletools.markobject), -1)
        if place < 0:
            return False
        del stack[place:]
        count = taken.index(pickletools.markobject) if pickletools.markobject in taken else 0
    if len(stack) < count:
        return False
    del stack[len(stack) - count :]
    stack += opcode.stack_after
    return True
