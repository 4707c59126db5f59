from __future__ import annotations

from math import exp, log
from statistics import fmean

import pytest

from clearseek.counts import count_parameters
from clearseek.plan.calibration import ENOUGH, calibrate, predict, typical_error, validate
from clearseek.plan.formulas import is_plausible
from clearseek.plan.hardware import DEVICES
from clearseek.plan.published import RUNS, PublishedRun, match
from clearseek.recipe import load_recipe

BY_NAME = {run.name: run for run in RUNS}
V3 = BY_NAME["DeepSeek-V3"]


@pytest.mark.parametrize("run", RUNS, ids=list(BY_NAME))
def test_every_published_run_is_plausible_and_sourced(run: PublishedRun) -> None:
    assert run.device in DEVICES and run.source
    assert is_plausible(run.utilisation), run.utilisation


def test_names_are_unique_and_there_are_enough() -> None:
    assert len(BY_NAME) == len(RUNS) >= 8


def test_deepseeks_own_table() -> None:
    assert 180_000 * 14.8 == V3.hours == 2_664_000
    assert [(stage.name, stage.hours) for stage in V3.stages] == [
        ("pre-training", 2_664_000), ("context extension", 119_000), ("post-training", 5_000),
    ]  # fmt: skip
    assert (V3.total_hours, V3.dollars(2.0)) == (2_788_000, 5_576_000)
    assert V3.devices is not None
    assert 180_000 / V3.devices / 24 == pytest.approx(3.7, abs=0.05)
    assert V3.utilisation == pytest.approx(0.346, abs=5e-4)


def test_a_recipe_meets_its_run_by_its_counts_alone() -> None:
    assert match(count_parameters(load_recipe("v3-671b", ["name=mine", "train.steps=3"]).model)) is V3
    assert match(count_parameters(load_recipe("v3-671b", ["model.num_hidden_layers=60"]).model)) is None
    assert match(count_parameters(load_recipe("quickstart").model)) is None


def test_a_run_takes_no_part_in_its_own_prediction() -> None:
    for prediction in validate():
        assert prediction.run.name not in prediction.constant.runs
        rest = [BY_NAME[name].utilisation for name in prediction.constant.runs]
        assert prediction.constant.value == pytest.approx(exp(fmean(map(log, rest))))
        assert prediction.hours * prediction.constant.value == pytest.approx(
            prediction.run.hours * prediction.run.utilisation
        )


def test_the_error_of_one_run_by_hand() -> None:
    """Llama-2-7B: 6 x 7e9 x 2e12 FLOP in 184,320 A100 hours are 40.6 %."""
    prediction = predict(BY_NAME["Llama-2-7B"])
    assert prediction.run.utilisation == pytest.approx(8.4e22 / (184_320 * 3600 * 312e12))
    assert prediction.error == pytest.approx(prediction.run.utilisation / prediction.constant.value - 1)


def test_errors_are_as_the_documentation_says() -> None:
    typical, largest = typical_error(validate())
    assert typical == pytest.approx(1.19, abs=0.005) and largest == pytest.approx(2.20, abs=0.005)


def test_what_a_constant_rests_on() -> None:
    hopper = calibrate("Hopper", "bf16")
    assert {BY_NAME[name].precision for name in hopper.runs} == {"bf16"} and len(hopper.runs) >= ENOUGH
    eight = calibrate("Hopper", "fp8")
    assert "any precision" in eight.basis and {BY_NAME[name].hardware.architecture for name in eight.runs} == {"Hopper"}
    other = calibrate("CDNA 3", "bf16")
    assert "none on CDNA 3" in other.basis and len(other.runs) == len(RUNS)
    assert V3.name not in calibrate("Hopper", "fp8", without=V3).runs
    for constant in (hopper, eight, other):
        assert constant.lowest <= constant.value <= constant.highest
