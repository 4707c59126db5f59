"""Rewards for code: a program that a model wrote is run in a process of its own and asked for results.

The tests are calls with their results. The process gets the calls; results come back as JSON and are compared *here*,
so the program sees no expected value and no verdict that it could write itself: leaving early, replacing functions of
the library or printing "passed" gains nothing. A program gets 1 if every call returns what it should, else 0.

**What this protects against**, on Linux on x86-64 and arm64 (guards in :mod:`clearseek.problems.cell`): the program
opens no connection, starts no process or thread, signals no process, and writes, renames or removes no file. With
Landlock (Linux 5.13) it reads Python's library alone; without, what the user may read. It has limits on memory, on time
of the processor and of the clock, on open files and on output; it begins in an empty folder, with no variables of the
environment, and is killed with its whole process group, also when this process dies.

**What it does not protect against**: faults of the kernel or of Python's C code that let a program out; other
processes' timing, which it can watch and disturb by using a core and the memory's bandwidth up to its limits; a
program that gives the right results without computing them, such as a table of known tests. On another system or
processor there is no such guard of the kernel. Programs are refused there, unless `Limits.unconfined` says otherwise:
then sockets, processes and writing are refused by Python alone, which stops accidents and no attacker. For code of a
stranger with a grudge, put a virtual machine around all of it.

A limit of time makes a reward depend on the machine for a program that needs about that long. Hashes of texts are the
same in each process, but a program may still look at the clock or ask for random numbers.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple

from clearseek.errors import UserError, one_line
from clearseek.problems.rewards import Scored

LONGEST_CODE = 1 << 16
"""Characters of a program; a longer one is not run."""
_CELL = Path(__file__).with_name("cell.py")


@dataclass(frozen=True)
class Limits:
    """What a program may use."""

    seconds: float = 5.0
    """By the clock, start of Python included."""
    cpu_seconds: int = 4
    """Of processor time."""
    memory_bytes: int = 256 << 20
    """Of address space."""
    output_bytes: int = 1 << 16
    """Printed, and separately of results; a program that gives more is stopped."""
    open_files: int = 16
    unconfined: bool = False
    """Whether to run programs where the kernel has no filter of system calls. See the module's text first."""


class Call(NamedTuple):
    """A test: an expression over the program's names, and its value as JSON has it (no tuples, sets, NaN)."""

    expression: str
    expected: Any


class Outcome(NamedTuple):
    """What became of a program."""

    note: str
    """"right", "wrong", "raised", "out of time", "too much output", "too long", "ended early", "no result"."""
    detail: str
    """Name of an exception or number of a signal, as the program or the system gives it."""
    guards: tuple[str, ...]
    """Guards that held: "seccomp", "landlock" and names of limits."""


def code_reward(code: str, calls: Sequence[Call], limits: Limits | None = None) -> Scored:
    """Reward 1 for a Python program whose calls all return what they should; see :func:`run`."""
    outcome = run(code, calls, limits)
    return Scored(float(outcome.note == "right"), outcome.note)


def run(code: str, calls: Sequence[Call], limits: Limits | None = None) -> Outcome:
    """Run a program that nobody has read, and compare what its calls return.

    Values are compared by their JSON: 1, 1.0 and true differ, a tuple is a list, and keys of an object have no order.

    Args:
        code: The program, which is executed once, before the calls.
        calls: Expressions and their values, in order, in one process. At least one.
        limits: What the program may use.

    Raises:
        UserError: this system has no such guards, and `unconfined` is not set; or Python could not be started.
    """
    limits = limits or Limits()
    assert calls, "a program without calls would pass"
    if sys.platform == "win32":
        raise UserError("rewards that run code need Linux: Windows has no limits for a process that this could set")
    expected = [_canonical(call.expected) for call in calls]
    if len(code) > LONGEST_CODE:
        return Outcome("too long", "", ())
    order = {
        "code": code, "calls": [call.expression for call in calls], "limits": asdict(limits),
        "unconfined": limits.unconfined,
    }  # fmt: skip
    with (
        tempfile.TemporaryDirectory(prefix="clearseek-", ignore_cleanup_errors=True) as folder,
        tempfile.TemporaryFile() as file,
    ):
        file.write(json.dumps(order).encode())
        file.seek(0)
        answer, note, status = _watched(file, folder, limits)
    return _outcome(answer, note, status, expected, limits)


def refuse_unguarded() -> None:
    """Raise UserError, as :func:`run` does, where programs cannot be run."""
    run("", [Call("0", 0)])


def _watched(file: IO[bytes], folder: str, limits: Limits) -> tuple[bytes, str, int]:
    """What the process answered, why it was stopped (or ""), and its exit status."""
    command = [sys.executable, "-P", "-s", "-S", "-B", "-X", "utf8", str(_CELL)]
    environment = {"PYTHONHASHSEED": "0"}  # -I would ignore it, and order of sets would be another each time
    try:
        process = subprocess.Popen(
            command, stdin=file, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=folder, env=environment,
            start_new_session=True,
        )  # fmt: skip
    except OSError as error:
        raise UserError(f"{sys.executable}: cannot be started to run a program: {error.strerror}") from None
    deadline = time.monotonic() + limits.seconds
    assert process.stdout is not None and process.stderr is not None
    with process, selectors.DefaultSelector() as ready:
        try:
            answer, note = bytearray(), ""
            printed = 0
            for stream in (process.stdout, process.stderr):
                ready.register(stream, selectors.EVENT_READ)
            while not note and ready.get_map():
                left = deadline - time.monotonic()
                if left <= 0:
                    note = "out of time"
                for key, _ in ready.select(max(0.0, left)):
                    content = os.read(key.fd, 1 << 16)
                    if not content:
                        ready.unregister(key.fileobj)
                    elif key.fileobj is process.stdout:
                        answer += content
                    else:
                        printed += len(content)
                if max(printed, len(answer)) > limits.output_bytes:
                    note = "too much output"
            if not note:  # both pipes are closed, but the process may go on
                try:
                    process.wait(max(0.0, deadline - time.monotonic()))
                except subprocess.TimeoutExpired:
                    note = "out of time"
        finally:
            if process.poll() is None or limits.unconfined:  # an ended process that was confined left no other
                _kill(process)
    return bytes(answer), note, process.returncode


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Kill what is left of the process's group."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):  # nothing is left, or, on macOS, only what has ended
        process.kill()


def _outcome(answer: bytes, note: str, status: int, expected: Sequence[str], limits: Limits) -> Outcome:
    first, _, rest = answer.partition(b"\n")
    try:
        guards = tuple(map(str, json.loads(first)))
    except (ValueError, TypeError, RecursionError):
        if not note and not answer:
            raise UserError(
                f"a process that runs programs ended at its start (status {status}): "
                "give Limits more memory_bytes, or see whether Python starts with options -P -s -S"
            ) from None
        return Outcome(note or "no result", "", ())
    if "seccomp" not in guards and not limits.unconfined:
        raise UserError(
            "this kernel cannot confine a program that a model wrote: run code rewards on Linux on x86-64 or arm64 "
            "with seccomp, or set unconfined = true after reading clearseek/problems/sandbox.py"
        )
    if note:
        return Outcome(note, "", guards)
    if status == -signal.SIGXCPU:
        return Outcome("out of time", "", guards)
    found, error = _values(rest)
    if error is not None:
        return Outcome("raised", error, guards)
    if status != 0 or len(found) != len(expected):
        return Outcome("ended early", str(status), guards)
    return Outcome("right" if found == list(expected) else "wrong", "", guards)


def _values(lines: bytes) -> tuple[list[str], str | None]:
    """Values in canonical form, and the name of an exception. What is not JSON is a value that equals none."""
    found: list[str] = []
    for line in lines.splitlines():
        try:
            content = json.loads(line, parse_constant=_refused)
            if isinstance(content, dict) and isinstance(content.get("error"), str):
                return found, one_line(content["error"][:80])
            found.append(_canonical(content["value"]))
        except (ValueError, TypeError, KeyError, RecursionError):
            found.append("")
    return found, None


def _refused(constant: str) -> float:
    raise ValueError(constant)


def _canonical(value: Any) -> str:
    """JSON of a value, one text for equal values. Raises ValueError for NaN, TypeError for what JSON has not."""
    return json.dumps(value, sort_keys=True, allow_nan=False)
