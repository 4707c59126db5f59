"""What a plan says of each process's memory is what the processes' own classes take, to the byte."""

from __future__ import annotations

import json
import resource
import subprocess
import sys

import pytest

from clearseek.cli import main
from clearseek.config import Recipe
from clearseek.plan.layout import check_layout, parse_layout
from clearseek.plan.placement import Placement
from clearseek.recipe import load_recipe
from clearseek.train.parallel.dry import distinct, dry_run
from tests.tiny import tiny

LITE = "v2-lite-16b"
MEASURED = """
import sys
from clearseek.cli import main
from clearseek.machine import peak_memory
code = main()
print(peak_memory(), file=sys.stderr)
sys.exit(code)
"""
AS_TRAINED = ["--set", "train.precision=fp8", "--set", "optimizer.moments=bf16"]


def shared(**changed: object) -> Recipe:
    """Four layers and one of multi-token prediction; 32 micro-batches in 8 lanes."""
    model = {"num_hidden_layers": 4, "vocab_size": 4096, "intermediate_size": 128, "moe_intermediate_size": 128}
    train = {"batch_size": 32, "micro_batch_size": 1, "lanes": 8, "precision": "bf16"} | changed
    return tiny(model=model, train=train)


@pytest.mark.parametrize(
    ("recipe", "text"),
    [
        (shared(), "dp=1"),
        (shared(precision="fp32"), "dp=1"),
        (shared(), "dp=8"),
        (shared(precision="fp32", lanes=32), "dp=4"),
        (shared(precision="fp8"), "dp=2"),
        (shared(), "dp=8,ep=4"),
        (shared(expert_gradients="merged"), "dp=8,ep=4"),
        (shared(), "pp=4"),
        (shared(precision="fp8"), "dp=2,ep=2,pp=2"),
        (shared(precision="fp32"), "dp=2,ep=2,pp=2,schedule=zbv"),
        (shared(lanes=2), "dp=2,pp=2,schedule=dualpipev"),
        (shared(), "fsdp=4"),
        (shared(lanes=32, precision="fp8"), "fsdp=8"),
        (load_recipe(LITE), "dp=16,ep=8,pp=3"),
        (load_recipe(LITE, ["optimizer.name=muon"]), "dp=16"),
    ],
    ids=lambda value: value if isinstance(value, str) else f"{value.name}-{value.train.precision}",
)
def test_the_plan_is_what_processes_take(recipe: Recipe, text: str) -> None:
    layout, placement = parse_layout(text), Placement(recipe)
    check_layout(layout, recipe)
    ranks = distinct(placement, layout)
    assert {layout.stage(rank) for rank in ranks} == set(range(layout.pp))
    for process in dry_run(placement, layout, ranks):
        assert process.planned == process.built


def test_the_command_shows_both(capfd: pytest.CaptureFixture[str]) -> None:
    arguments = ["train", LITE, "--dry-run", "--layout", "dp=4,pp=2"]
    assert main([*arguments, "--json"]) == 0
    said = json.loads(capfd.readouterr().out)["processes"]
    assert said["equal"] and said["count"] == 8 and len(said["built"]) == 4
    for each in said["built"]:
        assert each["planned_bytes"] == each["built_bytes"]
    assert main(arguments) == 0
    shown = capfd.readouterr()
    assert "equal to the byte" in shown.out and f"{said['built'][0]['planned_bytes']['total']:,}" in shown.out
    assert not shown.err
    assert main(["train", LITE, "--dry-run", "--layout", "dp=3"]) == 2
    assert "train.lanes = 64 is not dp = 3 times" in capfd.readouterr().err


def test_deepseek_v3_on_2048_processes() -> None:
    """DeepSeek's layout, precision and moments fit its 80 GB, and to see that takes seconds and little memory."""
    words = ["train", "v3-671b", "--dry-run", "--layout", "dp=128,ep=64,pp=16", *AS_TRAINED, "--json"]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-c", MEASURED, *words], capture_output=True, check=True, timeout=300)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    said = json.loads(done.stdout)["processes"]
    assert said["equal"] and said["count"] == 2048
    assert {each["stage"] for each in said["built"]} == set(range(16))
    assert said["fullest_bytes"]["total"] < 80e9
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 30
    assert 0 < int(done.stderr.split()[-1]) < 1e9
