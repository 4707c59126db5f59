"""The display: one panel in a terminal, plain lines in a pipe, a whole terminal afterwards."""

from __future__ import annotations

import io
import re
from contextlib import closing

import pytest
from rich.console import Console

from clearseek.cli.progress import DataProgress, Display, balance_bars, duration
from clearseek.train.record import StepRecord


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


def record(step: int, held_out: float | None = None, balance: list[float] | None = None) -> StepRecord:
    scalars = {"loss": 3.25, "mtp_loss": 3.5} | ({} if held_out is None else {"held_out_bpb": held_out})
    loads = (1.1, 2.0) if balance is None else tuple(balance)
    return StepRecord(step, scalars, 0.75, 100 * step, loads, None, None, 1e-3, 45678.9, 0.432)


def piped(clock: Clock, steps: int = 100) -> tuple[Display, io.StringIO]:
    out = io.StringIO()
    return Display(steps, "tiny", console=Console(file=out, width=60), clock=clock), out


def run(display: Display, clock: Clock, steps: int, seconds: float, evaluated: int | None = None) -> None:
    with display:
        for step in range(1, steps + 1):
            clock.now += seconds
            display.update(record(step, 2.5 if step == evaluated else None))


def test_a_pipe_gets_a_line_every_ten_seconds_the_evaluations_and_the_last_step() -> None:
    clock = Clock()
    display, out = piped(clock)
    run(display, clock, 100, 1.0, evaluated=15)
    steps = [int(step) for step in re.findall(r"^step (\d+)/100 ", out.getvalue(), re.M)]
    assert steps == [1, 11, 15, 25, 35, 45, 55, 65, 75, 85, 95, 100]


def test_every_figure_of_held_out_data_is_shown_with_its_unit() -> None:
    clock = Clock()
    display, out = piped(clock, 3)
    with display:
        for step, scalars in enumerate([{"held_out_nats_before": 4.5}, {}, {"held_out_nats": 2.0}], 1):
            display.update(StepRecord(step, {"loss": 3.0} | scalars, 1.0, step))
        display.update(StepRecord(3, {"loss": 3.0, "held_out_nats": 2.5, "held_out_pass_1": 0.25}, 1.0, 3))
    first, *_, last = out.getvalue().splitlines()
    assert "  loss 3.0000  held-out before 4.5000 nats/token  grad" in first
    assert last == "step 3/3  held-out 2.5000 nats/token, pass 1 0.2500"


REWARDED = {
    "reward": 0.3125, "reward_spread": 0.4, "groups_without_spread": 0.1875, "entropy": 0.21, "length": 3.42,
    "truncated": 0.02, "invalid": 0.1, "loss": -0.0012, "probability_gap": 2e-7,
}  # fmt: skip
PASSED = {"held_out_pass_at_1": 0.4, "held_out_pass_at_1_low": 0.358, "held_out_pass_at_1_high": 0.443}


def test_a_step_that_learns_from_rewards_shows_what_people_follow() -> None:
    """The loss says nothing of progress there; bounds of an interval stand behind the share that they are of."""
    clock = Clock()
    (display, out), (panel, drawn) = piped(clock, 2), terminal(clock)
    before = {f"{name}_before": value / 2 for name, value in PASSED.items()}
    for number, scalars in enumerate([REWARDED | before, REWARDED | PASSED], 1):
        for each in (display, panel):
            each.update(StepRecord(number, scalars, 0.75, 10, (), None, None, 1e-3, 4000.0))
    first, last = out.getvalue().splitlines()
    figures = "reward 0.312  no spread 19%  entropy 0.210  length 3.4  cut off 2%"
    rest = "grad 0.75  lr 1.00e-03  4,000 tokens/s"
    assert first == f"step 1/2  {figures}  held-out pass@1 before 20.0 % (17.9 to 22.1)  {rest}  ETA ..."
    assert last == f"step 2/2  {figures}  held-out pass@1 40.0 % (35.8 to 44.3)  {rest}  ETA done"
    panel.__exit__()
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", drawn.getvalue())
    assert "reward    0.312   no spread 19%" in text and "pass@1 40.0 % (35.8 to 44.3) (step 2)" in text
    assert "loss" not in text and "_" not in text


def test_other_figures_have_names_without_underscores() -> None:
    clock = Clock()
    display, out = piped(clock, 1)
    display.update(StepRecord(1, {"divergence": 0.5, "length": 7.625, "ended": 0.125, "some_share": 0.25}, 0.75, 10))
    assert "  divergence 0.5000  length 7.6  ended 12%  some share 0.2500  " in out.getvalue()


def test_a_line_has_every_number_and_is_plain() -> None:
    clock = Clock()
    display, out = piped(clock)
    run(display, clock, 1, 1.0, evaluated=1)
    assert out.getvalue() == (
        "step 1/100  loss 3.2500  mtp 3.5000  held-out 2.5000 bits/byte  grad 0.75  lr 1.00e-03  45,679 tokens/s  "
        "MFU 43%  busiest expert 2.00x  ETA ...\n"
    )


def test_remaining_time_follows_the_recent_pace() -> None:
    clock = Clock()
    display, out = piped(clock)
    run(display, clock, 40, 2.0)
    assert out.getvalue().splitlines()[-1].endswith("ETA 2m00s")  # 60 steps of 2 s
    display, out = piped(clock)
    run(display, clock, 100, 2.0)
    assert out.getvalue().splitlines()[-1].endswith("ETA done")


def test_the_last_step_before_a_failure_is_shown() -> None:
    clock = Clock()
    display, out = piped(clock)
    with pytest.raises(RuntimeError), display:
        display.update(record(1))
        display.update(record(2))
        raise RuntimeError
    assert re.findall(r"step (\d+)/", out.getvalue()) == ["1", "2"]


def terminal(clock: Clock, width: int = 90) -> tuple[Display, Terminal]:
    out = Terminal()
    console = Console(file=out, width=width, height=30, force_terminal=True, color_system="truecolor")
    return Display(100, "tiny [run]", console=console, clock=clock), out


def test_a_terminal_gets_a_panel() -> None:
    clock = Clock()
    display, out = terminal(clock)
    run(display, clock, 50, 1.0, evaluated=20)
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", out.getvalue())
    for part in [
        "tiny [run]",
        "step 50/100",
        "50%",
        "ETA 50s",
        "3.2500",
        "2.5000 bits/byte (step 20)",
        "45,679 tokens/s",
    ]:
        assert part in text
    assert "MFU 43.2%" in text
    assert "▁▅  busiest 2.00x" in text
    assert max(len(line) for line in text.splitlines()) <= 90


@pytest.mark.parametrize("failure", [None, RuntimeError, KeyboardInterrupt])
def test_the_cursor_comes_back(failure: type[BaseException] | None) -> None:
    display, out = terminal(Clock())
    try:
        with display:
            display.update(record(1))
            assert "\x1b[?25l" in out.getvalue()  # hidden
            if failure is not None:
                raise failure
    except (RuntimeError, KeyboardInterrupt):
        pass
    assert out.getvalue().rindex("\x1b[?25h") > out.getvalue().rindex("\x1b[?25l")


def test_redraws_a_few_times_a_second_at_most() -> None:
    clock = Clock()
    display, out = terminal(clock)
    run(display, clock, 90, 0.01)
    assert 3 <= out.getvalue().count("step ") <= 6


def test_no_color_is_respected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    out = Terminal()
    with Display(10, console=Console(file=out, force_terminal=True, width=80), clock=Clock()) as display:
        display.update(record(1))
    assert not re.search(r"\x1b\[(?:\d+;)*(?:3[0-7]|38|9[0-7])(?:;\d+)*m", out.getvalue())


def test_color_is_there_otherwise() -> None:
    clock = Clock()
    display, out = terminal(clock)
    run(display, clock, 1, 1.0)
    assert re.search(r"\x1b\[(?:\d+;)*3[0-7]m", out.getvalue())


@pytest.mark.parametrize("width", [20, 40, 200])
def test_any_width(width: int) -> None:
    clock = Clock()
    display, out = terminal(clock, width)
    run(display, clock, 3, 1.0)
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", out.getvalue())
    assert max(len(line) for line in text.splitlines()) <= width


def test_a_dumb_terminal_and_a_forced_color_pipe_get_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    out = Terminal()
    with Display(10, console=Console(file=out), clock=Clock()) as display:
        display.update(record(1))
    assert "\x1b" not in out.getvalue()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("FORCE_COLOR", "1")
    pipe = io.StringIO()
    with Display(10, console=Console(file=pipe), clock=Clock()) as display:
        display.update(record(1))
    assert pipe.getvalue().startswith("step 1/10")


def test_a_dense_model_without_mtp() -> None:
    for display, out in (terminal(Clock()), piped(Clock())):
        with display:
            display.update(StepRecord(1, {"loss": 3.0}, 1.0, 10, (), None, None, 1e-3, 10.0, 0.1))
        assert "mtp" not in out.getvalue()
        assert "expert" not in out.getvalue()


def test_not_a_number_is_shown() -> None:
    clock = Clock()
    for display, out in (terminal(clock), piped(clock)):
        with display:
            display.update(StepRecord(1, {"loss": float("nan")}, float("inf"), 10, (1.0,), None, None, 1e-3, 10.0, 0.1))
        assert "nan" in out.getvalue()


def test_bars_grow_with_imbalance() -> None:
    assert balance_bars([0.0, 1.0, 2.0, 3.0, 9.0]).plain == "▁▁▅██  busiest 9.00x the mean load"
    assert balance_bars([1.0, 3.0], ascii_only=True).plain == ".@  busiest 3.00x the mean load"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (42.4, "42s"), (59.6, "1m00s"), (185, "3m05s"), (7620, "2h07m"), (273600, "3d04h")],
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_a_message_takes_bars_of_data_away_until_they_move_again() -> None:
    out = Terminal()
    with closing(DataProgress(Console(file=out, force_terminal=True, width=60, color_system=None))) as progress:
        progress.close()  # a message before any bar
        assert out.getvalue() == ""
        progress("read", 1, 4)
        progress.close()
        before = len(out.getvalue())
        progress("tokenise", 2, 4)
        progress.close()
        text = out.getvalue()[before:]
    assert "reading documents" in text and "tokenising" in text and "50%" not in text
    assert out.getvalue().count("\x1b[?25l") == out.getvalue().count("\x1b[?25h") == 2


def test_a_pipe_gets_a_line_for_each_stage_of_data() -> None:
    out = io.StringIO()
    with closing(DataProgress(Console(file=out))) as progress:
        for done in range(3):
            progress("read", done, 2)
        progress.close()
        progress("tokenise", 0, 2)
    assert out.getvalue() == "reading documents\ntokenising\n"
    with closing(DataProgress(Console(file=out), quiet=True)) as progress:
        progress("tokenizer", 0, 2)
    assert out.getvalue() == "reading documents\ntokenising\n"
