"""Starting the stand-in program, or another module, in several processes as a user would."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
LAUNCH = """
import sys
from clearseek.errors import UserError
from clearseek.train.parallel.launch import launch
try:
    sys.exit(launch(int(sys.argv[1]), sys.argv[2], sys.argv[3:]))
except UserError as error:
    print(f"clearseek: {error}", file=sys.stderr)
    sys.exit(2)
"""
STANDIN = "tests.train.parallel.standin"


def environment(**variables: str) -> dict[str, str]:
    """Environment of a job: the code under test, and no thread more than needed."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("TORCHELASTIC", "RANK"))}
    return {**inherited, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **variables}


def start(*arguments: str | Path, processes: int = 4, module: str = STANDIN) -> subprocess.Popen[str]:
    """Start a job by the launcher of ``--processes``."""
    return subprocess.Popen(
        [sys.executable, "-c", LAUNCH, str(processes), module, *map(str, arguments)],
        env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def end(job: subprocess.Popen[str], seconds: float = 300) -> tuple[int, str, str]:
    """Wait for a job; its exit code, output and errors."""
    try:
        out, err = job.communicate(timeout=seconds)
    finally:
        job.kill()
    return job.returncode, out, err


def living(folder: Path) -> list[int]:
    """Processes of the stand-in program that still run, by the files that they left."""
    return [int(file.read_text()) for file in folder.glob("*.pid") if _lives(int(file.read_text()))]


def _lives(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state not in "ZX"
