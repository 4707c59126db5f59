"""One process of a job: it keeps quiet unless it is the main one, dies with its launcher, and tells how it ended.

What the other processes print goes to ``RUN/ranks/00003.log``; until the run folder is known to be ours, to a temporary
file. torchelastic starts all processes again when one ends with another exit code than 0. An error that the user must
mend would come back each time: so the first process to end for good leaves a note beside torchelastic's logs, and
processes that are started again end at once, and torchrun with them. Nothing here loads PyTorch.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from clearseek.errors import UserError

USER_ERROR, LOST = 2, 75
"""Exit codes, as in :mod:`clearseek.cli.exits`."""
LOGS = "ranks"
"""Folder of logs in a run folder."""
STARTED_BY = "CLEARSEEK_LAUNCHER"
"""Environment variable with the process number of the launcher of ``--processes``."""
_PR_SET_PDEATHSIG = 1
_spoken: list[BinaryIO] = []
"""The temporary file that takes what this process prints, until :func:`keep_log`."""
_heard: list[int] = []
"""Standard error as it was before."""


def in_job() -> bool:
    """Whether a launcher started this process as one of several, or may start it again."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def refuse_half() -> None:
    """Raise UserError where a process is told its number but not how many there are, or the reverse."""
    names = ("RANK", "WORLD_SIZE")
    there = [name for name in names if name in os.environ]
    if len(there) == 1:
        (missing,) = set(names) - set(there)
        raise UserError(f"{there[0]} is set without {missing}: start with torchrun, which sets both, or unset it")


def processes() -> int:
    """Processes of the job."""
    return number("WORLD_SIZE", 1) if in_job() else 1


def number(name: str, default: int) -> int:
    """A number of the environment, as torchrun sets them. Raises UserError where it is none."""
    text = os.environ.get(name) or str(default)
    if not (text.isascii() and text.isdecimal()):
        raise UserError(f"{name}={text[:50]} is no number: torchrun sets it; unset it, or start with torchrun")
    return int(text)


def restarts() -> int:
    """How often the processes of this machine have been started again."""
    return number("TORCHELASTIC_RESTART_COUNT", 0)


def local_processes() -> int:
    """Processes of the job on this machine."""
    return max(1, number("LOCAL_WORLD_SIZE", 1)) if in_job() else 1


def begin() -> int | None:
    """Settle in as a process of a job; the exit code where the job has ended for good, on this machine at least."""
    if (code := ended()) is not None:
        if "TORCHELASTIC_RUN_ID" in os.environ and STARTED_BY not in os.environ and number("LOCAL_RANK", 0) == 0:
            os.kill(os.getppid(), signal.SIGTERM)  # torchrun, which would start us again until --max-restarts
        return code
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # warnings of connections that break off: one error says it
    if "TORCHELASTIC_RUN_ID" in os.environ and os.environ.get("OMP_NUM_THREADS") == "1" and local_processes() > 1:
        del os.environ["OMP_NUM_THREADS"]  # torchrun's default, which would decide bits: train.threads is for that
    _die_with_launcher()
    if os.environ["RANK"] != "0" and not _spoken:
        _heard.append(os.dup(2))
        _spoken.append(tempfile.TemporaryFile())  # noqa: SIM115
        _print_to(_spoken[0])
    return None


def heard() -> bool:
    """Whether what this process prints is seen."""
    return not _heard


def say_here(text: str) -> None:
    """Print on standard error from one process of each machine, also where others than the main one keep quiet."""
    if number("LOCAL_RANK", 0) == 0:
        sys.stderr.flush()
        os.write(_heard[0] if _heard else 2, f"clearseek: {text}\n".encode(errors="replace"))


def log_name(rank: int) -> str:
    """Path of a process's log in the run folder."""
    return f"{LOGS}/{rank:05}.log"


def keep_log(root: Path, rank: int) -> None:
    """From now on, print to the log in the run folder; what was printed before comes first."""
    if not _spoken:
        return
    from clearseek.files import writing

    path = root / log_name(rank)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        before = _spoken.pop()
        with path.open("ab") as log:
            log.write(f"# process {rank}, pid {os.getpid()}, {time.strftime('%Y-%m-%d %H:%M:%S')}\n".encode())
            before.seek(0)
            shutil.copyfileobj(before, log)
            log.flush()
            _print_to(log)
    before.close()


def record_end(code: int) -> None:
    """Note that the job has ended for good on this machine: its processes, started again, would end in the same way."""
    file = _end_file()
    if file is not None:
        with suppress(OSError), file.open("x") as note:
            note.write(str(code))


def ended() -> int | None:
    """Exit code of a job that ended for good; None where it has not."""
    file = _end_file()
    return None if file is None else read_end(file)


def read_end(file: Path) -> int | None:
    """Exit code in a note; None where there is none."""
    with suppress(OSError, ValueError):
        return int(file.read_text())
    return None


def exit_code(code: int) -> int:
    """The code to exit with: 0 where the launcher of ``--processes`` reads the note, lest all be started again."""
    return 0 if STARTED_BY in os.environ and ended() is not None else code


def _end_file() -> Path | None:
    """The note of this machine's processes, in torchelastic's folder of logs: LOGS/JOB/attempt_0/RANK/error.json."""
    error_file = os.environ.get("TORCHELASTIC_ERROR_FILE", "")
    parents = Path(error_file).parents
    return parents[2] / END if len(parents) > 3 and parents[2].is_dir() else None


END = "clearseek-ended"
"""Name of the note."""


def _print_to(file: BinaryIO) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    for stream in (1, 2):
        os.dup2(file.fileno(), stream)


def _die_with_launcher() -> None:
    """Have the system kill this process when the one that started it ends, however it ends."""
    parent = os.getppid()
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        known = os.environ.get(STARTED_BY, "")
        if os.getppid() != parent or (known and known != str(parent)):
            os._exit(LOST)  # it ended before we asked
    else:
        threading.Thread(target=_watch, args=(parent, os.getppid), daemon=True).start()


def _watch(parent: int, now: Callable[[], int]) -> None:
    while now() == parent:
        time.sleep(1)
    os._exit(LOST)
