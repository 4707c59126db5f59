from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from clearseek.cli import costs, main, quickstart, report
from clearseek.recipe import load_recipe


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0, "0 FLOP"),
        (999, "999 FLOP"),
        (1000, "1 kFLOP"),
        (12_402_176, "12.4 MFLOP"),
        (671_026_419_200, "671 GFLOP"),
        (3.858e24, "3.858 YFLOP"),
        (3.858e27, "3858 YFLOP"),
        (-2500, "-2.5 kFLOP"),
    ],
)
def test_numbers_have_a_prefix(value: float, shown: str) -> None:
    assert report.si(value, "FLOP") == shown
    assert report.si(5) == "5"


def test_bytes_of_a_table_have_one_unit() -> None:
    assert [report.unit(size)[1] for size in (0, 999_999, 1_000_000, 999_999_999, 1e9, 1e15)] == [
        "kB", "kB", "MB", "MB", "GB", "GB",
    ]  # fmt: skip


def test_a_layout_that_is_asked_about_is_answered_first(capsys: pytest.CaptureFixture[str]) -> None:
    """And without a zero where the model is small."""
    words = ["quickstart", "--set", "train.micro_batch_size=1"]
    assert main(["train", *words, "--dry-run", "--processes", "2"]) == 0
    first, table, *_ = capsys.readouterr().out.splitlines()
    assert first.startswith("dp=2,ep=1,pp=1: of 2 processes") and "weights MB" in table
    assert main(["plan", *words, "--layout", "dp=2"]) == 0
    shown = capsys.readouterr().out
    assert shown.index("memory  ") < shown.index("tokens  ") and " 0.0 GB" not in shown and " 0.00 s" not in shown
    assert main(["train", "quickstart", "--dry-run", "--processes", "0"]) == 2
    assert "--processes 0: give a number from 1" in capsys.readouterr().err


def piped() -> tuple[Console, io.StringIO]:
    out = io.StringIO()
    return Console(file=out, highlight=False), out


def test_piped_lines_are_whole_and_plain(capsys: pytest.CaptureFixture[str]) -> None:
    """However narrow rich takes a pipe to be."""
    costs.print_costs(load_recipe("v3-671b"))
    out = capsys.readouterr().out
    lines = out.splitlines()
    assert "\x1b" not in out
    assert [line for line in lines if line.startswith("schedule = ") and line.endswith("]")]
    assert [line for line in lines if line.startswith("description = ") and line.endswith('"')]
    assert [line for line in lines if line.startswith("parameters  671,026,419,200 + 11,610,068,224 MTP")]


def test_the_end_of_a_quickstart_in_a_pipe_has_every_fact_on_its_line(tmp_path: Path) -> None:
    run = tmp_path / ("long" * 30)
    summary = {
        "run": str(run),
        "export": str(run / "export"),
        "held_out_bpb": None,
        "compressors_bits_per_byte": {},
        "samples": ["def [bold]f[/bold]():"],
        "total_seconds": 100.0,
        "seconds": 80.0,
        "peak_memory_bytes": 2**30,
        "weights_sha256": "f" * 64,
        "same_weights_as": [],
    }
    console, out = piped()
    quickstart.print_end(console, load_recipe("quickstart"), summary)
    text = out.getvalue()
    assert "def [bold]f[/bold]():\n" in text and f"sha256 {'f' * 64}\n" in text and f"{run}/export\n" in text
    assert f"{run}/pictures/loss.png, {run}/pictures/experts.png\n" in text
    assert "held-out text     none\n" in text and "run the command again: the same bits\n" in text
    console, out = piped()
    found = {"held_out_bpb": 1.5, "compressors_bits_per_byte": {"gzip -9": 1.8}, "same_weights_as": ["runs/a"]}
    quickstart.print_end(console, load_recipe("quickstart"), summary | found)
    assert "1.500 bits per byte   gzip -9 1.800\n" in out.getvalue()
    assert "the same bits as runs/a\n" in out.getvalue()
    assert f"--more-steps {load_recipe('quickstart').train.steps} " in out.getvalue()
