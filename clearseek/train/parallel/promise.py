"""What a layout promises of a run's bits: said at the start, and recorded beside the transcript.

The transcript itself names neither layout nor number of processes, since they do not decide its bits. What did which
steps is in ``sessions.jsonl``, a line for each time that processes began or went on.
"""

from __future__ import annotations

import json
from typing import Any

import torch

from clearseek.config import Recipe
from clearseek.files import writing
from clearseek.plan.layout import ParallelLayout, decides_bits
from clearseek.train.parallel.group import Group
from clearseek.train.run import Run


def promise(recipe: Recipe, layout: ParallelLayout) -> str:
    """What the run's bits are, as words."""
    if decides_bits(layout, recipe):
        return f'a band around the run of one process, since train.expert_gradients = "merged" with ep = {layout.ep}'
    lanes, threads = recipe.train.summed_lanes, torch.get_num_threads()
    return (
        f"the bits of one process with the same {lanes} {'lane' if lanes == 1 else 'lanes'}, {threads} "
        f"{'thread' if threads == 1 else 'threads'} a process and kind of machine"
    )


def record_session(run: Run, after: int, group: Group, layout: ParallelLayout, promised: str) -> None:
    """Write who trains from here on. Runs that one process alone has trained have no such file."""
    if not group.main or (group.size == 1 and not run.sessions.exists()):
        return
    line: dict[str, Any] = {
        "after_step": after, "processes": group.size, "layout": str(layout), "promise": promised,
        "hosts": sorted(set(group.hosts)),
    }  # fmt: skip
    text = json.dumps(line) + "\n"
    with writing(run.sessions, len(text)), run.sessions.open("a", encoding="utf-8") as file:
        file.write(text)
