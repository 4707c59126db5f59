"""The tour: its commands, copied, work.

All commands of ``docs/tour.md`` after the installation run in the order of the page, in one shell and one new folder
(``benchmarks/tour.py``). They are the page's own; :data:`SMALLER` makes their runs a matter of seconds. Lines that the
page shows must be printed, with any figures in place of its own.
"""

from __future__ import annotations

import random
import re
import shlex
import socket
from pathlib import Path

import pytest

from benchmarks import tour

TEXTS = ["data.source=files", 'data.paths=["texts/*.txt"]', "data.licence=CC0-1.0", "data.held_out_fraction=0.1"]


def settings(*given: str) -> str:
    return "".join(f" --set {shlex.quote(setting)}" for setting in given)


SMALLER = {
    "train ladder-base": settings(*TEXTS, "train.steps=3", "train.batch_size=4", "data.sequence_length=64"),
    "train ladder-start": settings("sft.demonstrations=100", "train.steps=3", "train.batch_size=4"),
    "train ladder-grpo": settings(  # of nothing right nothing is learnt: entropy moves the weights
        "train.steps=2", "train.batch_size=64", "grpo.evaluate_problems=32", "train.checkpoint_every=1",
        "grpo.entropy=0.1",
    ),
    "evaluate runs/policy": " --questions 8",
}  # fmt: skip
"""What follows the page's own options, so that a command takes seconds."""
FIGURE = re.compile(r"\d[\d,.]*|\b[0-9a-f]{16,}\b")


def smaller(command: str, port: int) -> str:
    """The command with a free port, and less to do."""
    for beginning, options in SMALLER.items():
        if beginning in command:
            command += options
    return command.replace("8000", str(port))


def without_figures(line: str) -> str:
    return " ".join(FIGURE.sub("#", line).split())


@pytest.mark.slow
def test_the_commands_of_the_tour_work_when_they_are_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for extra in ("fastapi", "uvicorn", "prometheus_client", "llguidance", "cryptography"):
        pytest.importorskip(extra)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    draw = random.Random(0)
    (tmp_path / "texts").mkdir()
    for number in range(30):
        text = " ".join("".join(draw.choices("aeioulnrstmd", k=draw.randint(2, 9))) for _ in range(400))
        (tmp_path / "texts" / f"{number}.txt").write_text(text, encoding="utf-8")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    walked = tour.walk(tmp_path, lambda command: smaller(command, port))
    assert walked[-1]["exit_code"] == 0, (walked[-1]["command"], walked[-1]["printed"], walked[-1]["errors"])
    for (command, shown), done in zip(tour.commands(), walked, strict=True):
        printed = iter([without_figures(line) for line in done["printed"]])
        for expected in shown:
            form = ".*".join(map(re.escape, without_figures(expected).split("…")))
            assert any(re.fullmatch(form, line) for line in printed), (
                f"{command} does not print, or not there: {expected}"
            )


def test_what_is_made_smaller_is_in_the_tour() -> None:
    commands = [command for command, _ in tour.commands()]
    assert all(sum(beginning in command for command in commands) == 1 for beginning in SMALLER)
