"""The tour as its reader walks it: the commands of ``docs/tour.md``, in order, in one new folder; seconds of each.

``python benchmarks/tour.py FOLDER`` runs them with the ClearSeek of this Python and prints the seconds of each;
``--out FILE`` writes them, and the last lines of each, as JSON. ``tests/test_tour.py`` runs the same with less to do.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "tour.md"
LAST = 6
"""Lines that are kept of what a command printed."""
BLOCK = re.compile(r"^```(sh|text)\n(.*?)^```$", re.S | re.M)
INSTALLED = "\n## 2. "
"""Where the installation is behind."""


def commands() -> list[tuple[str, list[str]]]:
    """Commands of the page after the installation, each with the lines that are shown below it."""
    found: list[tuple[str, list[str]]] = []
    for language, content in BLOCK.findall(PAGE.read_text(encoding="utf-8").partition(INSTALLED)[2]):
        if language == "sh":
            found += [(line, []) for line in content.splitlines()]
        else:
            found[-1][1].extend(content.splitlines())
    return found


def walk(folder: Path, changed: Callable[[str], str] = str) -> list[dict[str, Any]]:
    """Run the commands in one shell.

    Args:
        folder: Where they run; a new one.
        changed: What is run in place of a command.

    Returns:
        For each command its exit code, seconds, and what it printed; the last is the first that failed, if one did.
    """
    (folder / "bin").mkdir(parents=True)
    program = folder / "bin" / "clearseek"
    program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m clearseek "$@"\n', encoding="utf-8")
    program.chmod(0o755)
    environment = os.environ | {
        "PATH": f"{program.parent}{os.pathsep}{os.environ['PATH']}", "COLUMNS": "200",
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
    }  # fmt: skip
    found: list[dict[str, Any]] = []
    with subprocess.Popen(["bash"], cwd=folder, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, text=True) as shell:  # fmt: skip
        assert shell.stdin is not None and shell.stdout is not None
        for number, (command, _) in enumerate(commands()):
            line = changed(command)
            begun = time.monotonic()
            end = "" if line.endswith("&") else ";"
            shell.stdin.write(f"{{ {line}{end} }} < /dev/null > {number}.out 2> {number}.err; echo $?\n")
            shell.stdin.flush()
            code = int(shell.stdout.readline())
            found.append({
                "command": line, "exit_code": code, "seconds": round(time.monotonic() - begun, 1),
                "printed": (folder / f"{number}.out").read_text(encoding="utf-8").splitlines(),
                "errors": (folder / f"{number}.err").read_text(encoding="utf-8"),
            })  # fmt: skip
            if code:
                break
        shell.stdin.write("kill $(jobs -p) 2> /dev/null\nexit\n")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="a new folder")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    arguments = parser.parse_args()
    from record import write_result

    walked = walk(arguments.folder)
    for each in walked:
        print(f"{each['seconds']:7.1f} s  {each['command'][:100]}")
    if walked[-1]["exit_code"]:
        sys.exit(f"{walked[-1]['command']}: exit code {walked[-1]['exit_code']}\n{walked[-1]['errors']}")
    print(f"{sum(each['seconds'] for each in walked):7.1f} s  in all")
    if arguments.out is not None:
        rows = [
            {"command": each["command"], "seconds": each["seconds"], "last lines": each["printed"][-LAST:]}
            for each in walked
        ]
        write_result(arguments.out, {"commands": rows})


if __name__ == "__main__":
    main()
