from __future__ import annotations

import io
import json
from contextlib import redirect_stdout

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clearseek.cli import main
from clearseek.cli.plan import dollars, hours, print_plan, print_validation
from clearseek.errors import UserError
from clearseek.plan.calibration import validate
from clearseek.plan.layout import ParallelLayout
from clearseek.plan.placement import Placement, activation_bytes
from clearseek.plan.plan import Options, Plan, make_plan
from clearseek.recipe import load_recipe

V3 = load_recipe("v3-671b")
LITE = load_recipe("v2-lite-16b")
AS_TRAINED = load_recipe("v3-671b", ["train.precision=fp8", "optimizer.moments=bf16"])
DEEPSEEK = ParallelLayout(dp=128, ep=64, pp=16)


def printed(plan: Plan) -> str:
    with redirect_stdout(io.StringIO()) as out:
        print_plan(plan)
    return out.getvalue()


def test_v3_beside_what_deepseek_published() -> None:
    plan = make_plan(V3)
    assert plan.hardware.name == "h800" and plan.memory.layout.devices == 2048
    assert plan.six_nd == 6 * 36_625_618_432 * 14_800_021_094_400
    assert plan.exact / plan.tokens == pytest.approx(260.6e9, rel=1e-3)
    assert plan.published is not None and plan.constant is not None
    assert "DeepSeek-V3" not in plan.constant.runs
    assert plan.published.hours == pytest.approx(plan.cost.hours, rel=1e-5)
    assert plan.published.error == pytest.approx(plan.published.hours / 2_664_000 - 1)
    assert abs(plan.published.error) < 0.5
    shown = printed(plan)
    for fact in ("2,664 K h  $5.328 M", "119 K h  $238,000", "5.0 K h  $10,000", "2,788 K h  $5.576 M",
                 "3.7 days a trillion tokens on 2,048 devices", "research and ablations", "staff",
                 f"predicted here     {hours(plan.published.hours)}", f"{plan.published.error:+.0%}"):  # fmt: skip
        assert fact in shown


def test_at_the_published_utilisation_the_published_hours_come_out() -> None:
    """Up to 37e9 being 36.6e9 rounded."""
    published = make_plan(V3, Options(utilisation=0.3462)).published
    assert published is not None and published.error == pytest.approx(36.6256 / 37 - 1, abs=1e-3)


def test_another_model_has_no_published_run() -> None:
    plan = make_plan(load_recipe("v3-671b", ["model.num_hidden_layers=60"]))
    assert plan.published is None and plan.hardware.name == "h100" and "published:" not in printed(plan)


def test_the_layout_that_deepseek_trained_in_fits() -> None:
    memory = make_plan(AS_TRAINED, Options(layout=str(DEEPSEEK))).memory
    assert memory.fits and memory.layout == DEEPSEEK and memory.layout.devices == 2048 and memory.least is None


def test_activations_of_a_v3_layer_by_hand() -> None:
    kept = 2 * (2 * 7168 + 1536 + 512 + 64 + 128 * 128 + 8 * 7168 + 2 * 9 * 2048)
    assert activation_bytes(V3.model, 3, "bf16", "selective") == kept
    assert activation_bytes(V3.model, 0, "bf16", "full") == 2 * 7168
    for layer in (0, 3):
        none, some, full = (activation_bytes(V3.model, layer, "bf16", each) for each in ("none", "selective", "full"))
        assert none > some > full and activation_bytes(V3.model, layer, "fp8", "selective") < some


def test_what_does_not_fit_is_said_with_the_least_that_does() -> None:
    plan = make_plan(V3, Options(devices=8))
    least = plan.memory.least
    assert not plan.memory.fits and least is not None and least.devices > 8
    assert f"does not fit; the least that does: {least.devices:,} devices ({least})" in printed(plan)
    assert make_plan(V3, Options(layout=str(least))).memory.fits
    assert make_plan(LITE).memory.fits


def test_options_change_what_they_name() -> None:
    plan = make_plan(LITE, Options("h200", 16, 0.5, 3.0, 1e12, "ep=4,pp=2", "full", 0.1))
    assert plan.memory.layout == ParallelLayout(8, 4, 2) and plan.memory.recompute == "full"
    assert plan.constant is None and plan.hours_range is None and plan.tokens == 1e12
    assert plan.cost.hours == pytest.approx(6 * 2_451_435_008 * 1e12 / (3600 * 989.4e12 * 0.5))
    assert plan.cost.dollars == pytest.approx(3 * plan.cost.hours)
    assert plan.cost.days == pytest.approx(plan.cost.hours / 16 / 24)
    assert plan.cost.tonnes_co2e == pytest.approx(plan.cost.hours * 0.7 * 1.1 * 0.1 / 1000)
    assert "as given" in printed(plan) and "t CO2e" in printed(plan)


@given(st.floats(1e6, 1e15), st.floats(1e6, 1e15))
@settings(deadline=None, max_examples=20)
def test_more_tokens_cost_more(one: float, other: float) -> None:
    less, more = (make_plan(LITE, Options(tokens=each, devices=64)) for each in sorted((one, other)))
    for part in ("hours", "days", "dollars", "kwh"):
        assert getattr(less.cost, part) <= getattr(more.cost, part)
    assert less.exact <= more.exact and less.memory == more.memory


@given(st.sampled_from([1, 2, 4, 8, 16]), st.sampled_from([1, 2, 4]))
@settings(deadline=None, max_examples=20)
def test_more_copies_never_take_more_memory(dp: int, pp: int) -> None:
    placement = Placement(LITE, "selective")
    few, many = placement.memory(ParallelLayout(dp, 1, pp)), placement.memory(ParallelLayout(2 * dp, 2, pp))
    if dp * pp > 1:  # one device alone sums gradients in a tree
        assert many.total <= few.total


def test_cautions() -> None:
    assert "so small a model reaches less" in printed(make_plan(load_recipe("quickstart")))
    assert "too few to fit" in printed(make_plan(AS_TRAINED))
    assert make_plan(V3, Options(recompute="full")).cautions == ()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (Options(hardware="h10"), 'did you mean "h100"'),
        (Options(devices=0), "--gpus 0: use a number from 1 up"),
        (Options(devices=2047), "--gpus 2047: no number of pipeline stages"),
        (Options(devices=10**15 + 1), "no number of pipeline stages"),
        (Options(utilisation=40), "--utilisation 40: a share"),
        (Options(tokens=float("nan")), "--tokens nan"),
        (Options(dollars_per_hour=-1, kg_per_kwh=float("inf")), "--price -1: use a number from 0 to 1e+06; --grid inf"),
        (Options(dollars_per_hour=1e308), "--price 1e+308"),
        (Options(utilisation=1e-300), "--utilisation 1e-300: a share from 0.001 to 1"),
        (Options(layout="dp=128,dp=64"), "dp appears twice"),
        (Options(layout="tp=8"), "--layout tp=8: write it as dp=128,ep=64,pp=16"),
        (Options(layout="dp"), "--layout dp: write it as"),
        (Options(layout="dp=0"), "dp is a number from 1 up"),
        (Options(layout="dp=128,ep=60,pp=16"), "ep = 60 does not divide dp = 128; ep = 60 does not divide the 256"),
        (Options(layout="dp=7,pp=62"), "pp = 62 is more than the 61 layers; train.lanes = 128 is not dp = 7"),
        (Options(layout="dp=4,pp=4", devices=8), "dp x pp = 16 processes, but --gpus is 8"),
        (Options(layout="pp=15", devices=2048), "pp = 15 does not divide --gpus 2048"),
    ],
)
def test_what_cannot_be_is_refused(options: Options, said: str) -> None:
    with pytest.raises(UserError) as refused:
        make_plan(V3, options)
    assert said in str(refused.value) and "\n" not in str(refused.value)


def test_precisions_without_a_rate_are_refused() -> None:
    with pytest.raises(UserError, match="not in FP32"):
        make_plan(load_recipe("v3-671b", ["train.precision=fp32"]))
    with pytest.raises(UserError, match="has no FP8 units"):
        make_plan(AS_TRAINED, Options(hardware="a100"))


def test_the_command_prints_and_refuses(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "v3-671b", "--price", "3", "--json"]) == 0
    said = json.loads(capfd.readouterr().out)
    assert said["published"]["total_dollars"] == 3 * 2_788_000 and said["flops"]["ratio"] > 1
    assert said["memory"]["devices"] == 2048 and said["utilisation"]["fitted"]["runs"]
    assert main(["plan", "v3-671b", "--set", "train.steps=1"]) == 0
    assert "62,914,560" in capfd.readouterr().out
    assert main(["plan", "--published", "--json"]) == 0
    assert [each["run"] for each in json.loads(capfd.readouterr().out)] == [each.run.name for each in validate()]
    for arguments in (["plan"], ["plan", "v3-671b", "--published"]):
        assert main(arguments) == 2
        assert capfd.readouterr().err.startswith("clearseek: give either a recipe to plan or --published")


def test_numbers_as_people_write_them(capfd: pytest.CaptureFixture[str]) -> None:
    planned = []
    for tokens, share in (("14.8e12", "0.4"), ("14.8T", "40%"), ("14,800,000,000,000", ".4")):
        assert main(["plan", "v3-671b", "--tokens", tokens, "--utilisation", share, "--json"]) == 0
        planned.append(json.loads(capfd.readouterr().out))
    assert planned[0] == planned[1] == planned[2]
    assert main(["plan", "v3-671b", "--tokens", "14,8e12"]) == 2
    assert "not a number such as 14.8e12" in capfd.readouterr().err


def test_options_that_published_runs_do_not_have_are_refused(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--published", "--gpus", "3"]) == 2
    assert "--gpus: --published shows all runs as they were" in capfd.readouterr().err


def test_what_a_plan_assumes_is_said() -> None:
    fits = make_plan(V3, Options(recompute="full"))
    assert not any("does not fit" in each or "--price" in each for each in fits.cautions)
    cautions = make_plan(V3, Options(hardware="rtx-4090", devices=1)).cautions
    assert any("does not fit on these devices" in each for each in cautions)
    assert any("rent of a rtx-4090" in each for each in cautions)


def test_the_validation_table_has_every_run() -> None:
    with redirect_stdout(io.StringIO()) as out:
        print_validation(validate())
    lines = out.getvalue().splitlines()
    assert len(lines) == len(validate()) + 3 and "median" in lines[-1]
    assert any(line.startswith("DeepSeek-V3 ") and "2,664 K h" in line for line in lines)


@pytest.mark.parametrize(
    ("shown", "expected"),
    [(hours(2_664_000), "2,664 K h"), (hours(5_000), "5.0 K h"), (hours(184.3), "184 h"),
     (hours(4.91e-5), "0.0000491 h"), (dollars(5_576_000), "$5.576 M"), (dollars(238_000), "$238,000"),
     (dollars(2), "$2.00")],
)  # fmt: skip
def test_figures(shown: str, expected: str) -> None:
    assert shown == expected
