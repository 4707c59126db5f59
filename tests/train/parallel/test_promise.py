"""What is promised of a layout, and who took which steps."""

from __future__ import annotations

import json
from pathlib import Path

from clearseek.plan.layout import ParallelLayout
from clearseek.train.parallel.group import ALONE, Group
from clearseek.train.parallel.promise import promise, record_session
from clearseek.train.run import Run
from tests.tiny import tiny


class Two(Group):
    size = 2

    def __init__(self) -> None:
        self.hosts = ["b", "a"]


def test_merged_experts_on_several_processes_are_a_band() -> None:
    merged = tiny(train={"expert_gradients": "merged"})
    assert promise(merged, ParallelLayout(dp=4, ep=4)).startswith("a band")
    assert promise(merged, ParallelLayout(dp=4)).startswith("the bits of one process")
    assert promise(tiny(), ParallelLayout(dp=4, ep=4)).startswith("the bits of one process")


def test_sessions_are_told_once_there_were_several_processes(tmp_path: Path) -> None:
    run = Run(tmp_path)
    record_session(run, 0, ALONE, ParallelLayout(), "bits")
    assert not run.sessions.exists()
    record_session(run, 4, Two(), ParallelLayout(dp=2), "bits")
    record_session(run, 9, ALONE, ParallelLayout(), "bits")
    lines = [json.loads(line) for line in run.sessions.read_text().splitlines()]
    assert [(line["after_step"], line["processes"], line["hosts"]) for line in lines] == [
        (4, 2, ["a", "b"]),
        (9, 1, [""]),
    ]
