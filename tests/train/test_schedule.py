"""The schedule: its shape, its bounds, and the report's proportions."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clearseek.config import OptimizerConfig, Phase
from clearseek.train.schedule import multiplier, value_at

DEFAULT = OptimizerConfig().schedule


@st.composite
def phases(draw: st.DrawFn) -> list[Phase]:
    ends = [*sorted(draw(st.sets(st.integers(1, 99), max_size=4))), 100]
    shapes = st.sampled_from(["linear", "cosine", "constant"])
    return [Phase(shape=draw(shapes), until=end / 100, to=draw(st.floats(0, 2))) for end in ends]


def test_report_proportions() -> None:
    """Of 14.8T tokens: the peak to 10T, a cosine to a tenth over 4.3T, a tenth for 333B, 7.3/220 for the last 167B."""
    values = {step: multiplier(DEFAULT, step, 2000) for step in range(1, 2001)}
    assert values[1] == pytest.approx(1 / 17)
    assert {values[step] for step in range(17, 1353)} == {1.0}
    assert values[1642] == pytest.approx(0.55)  # half way along the cosine: the mean of its ends
    assert {values[step] for step in range(1932, 1979)} == {0.1}
    assert {values[step] for step in range(1979, 2001)} == {0.0332}
    shares = {0.676: 10, 0.966: 14.3, 0.989: 14.633, 1.0: 14.8}
    assert all(phase.until == pytest.approx(shares[phase.until] / 14.8, abs=6e-4) for phase in DEFAULT[1:])


def test_linear_counts_steps_exactly() -> None:
    schedule = [Phase(shape="linear", until=0.5, to=1.0), Phase(shape="linear", until=1.0, to=0.0)]
    assert [multiplier(schedule, step, 8) for step in range(1, 9)] == [0.25, 0.5, 0.75, 1.0, 0.75, 0.5, 0.25, 0.0]


def test_cosine_formula() -> None:
    schedule = [Phase(shape="constant", until=0.5, to=2.0), Phase(shape="cosine", until=1.0, to=1.0)]
    expected = 1.0 + 0.5 * (1 + math.cos(math.pi * 0.3))
    assert multiplier(schedule, 65, 100) == pytest.approx(expected)


@given(phases(), st.integers(1, 500), st.data())
def test_stays_between_the_ends_and_reaches_the_last(schedule: list[Phase], steps: int, data: st.DataObject) -> None:
    step = data.draw(st.integers(1, steps))
    targets = [0.0, *(phase.to for phase in schedule)]
    assert min(targets) - 1e-12 <= multiplier(schedule, step, steps) <= max(targets) + 1e-12
    assert multiplier(schedule, steps, steps) == schedule[-1].to


@given(st.integers(1, 2000), st.floats(0.001, 1.0))
def test_first_step_of_a_warm_up_is_above_zero(steps: int, until: float) -> None:
    schedule = [Phase(shape="linear", until=until, to=1.0)]
    if until < 1.0:
        schedule.append(Phase(shape="constant", until=1.0, to=1.0))
    values = [multiplier(schedule, step, steps) for step in range(1, min(steps, 50) + 1)]
    assert values[0] > 0
    assert values == sorted(values)


@given(phases(), st.integers(1, 100), st.integers(2, 5))
def test_scales_with_the_length_of_the_run(schedule: list[Phase], step: int, times: int) -> None:
    assert multiplier(schedule, step * times, 100 * times) == multiplier(schedule, step, 100)


@pytest.mark.parametrize("step", [0, 11, -1])
def test_steps_outside_the_run_are_a_defect(step: int) -> None:
    with pytest.raises(AssertionError):
        multiplier(DEFAULT, step, 10)


def test_value_at_switches_after_its_share() -> None:
    assert [value_at(step, 4, 0.5, "a", "b") for step in range(1, 5)] == ["a", "a", "b", "b"]
    assert value_at(1, 4, 0.0, "a", "b") == "b"
    assert value_at(4, 4, 1.0, "a", "b") == "a"
