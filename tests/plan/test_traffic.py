from __future__ import annotations

import pytest
from torch.distributed.pipelining import schedules

from clearseek.plan.layout import ParallelLayout, Schedule
from clearseek.plan.placement import Placement
from clearseek.plan.propose import cures, describe, others
from clearseek.plan.traffic import ACROSS, Bytes, bubble, traffic
from clearseek.recipe import load_recipe

V3 = load_recipe("v3-671b", ["train.precision=fp8", "optimizer.moments=bf16"])
LITE = load_recipe("v2-lite-16b")
DEEPSEEK = ParallelLayout(128, 64, 16)


def test_gradients_go_to_their_owners_as_in_a_ring() -> None:
    """3.6 GB of gradients on 128 copies: 68 ms one to all, 28 ms where machines add first; experts on two copies 8."""
    sent = traffic(V3, DEEPSEEK, 1024).gradients
    stage = Placement(V3)._stages(16, "1f1b")[8]
    dense, experts = 4 * stage.dense, 4 * stage.experts // 64
    assert sum(sent) == pytest.approx(dense * 127 / 128 + experts / 2, rel=1e-6)
    assert sent.across / ACROSS == pytest.approx((dense * 120 / 128 + experts / 2) / ACROSS)
    apart = traffic(LITE, ParallelLayout(64), 0)
    whole = 4 * sum(spec.dense + spec.experts for spec in Placement(LITE)._stages(1, "1f1b"))
    assert apart.gradients == Bytes(whole * 7 // 8, round(whole / 8 * 7 / 8))
    assert apart.weights == Bytes(apart.gradients.inside // 2, apart.gradients.across // 2)
    assert not sum(apart.experts) and not sum(apart.pipeline)


def test_rows_travel_twice_and_states_along_the_pipeline() -> None:
    sent, tokens = traffic(V3, DEEPSEEK, 1024), 120 * 4096
    out, back = 7168 + 4 * 56, 2 * 7168  # a row in FP8 with its scales, and its result in BF16
    assert sum(sent.experts) == tokens * 8 * 4 // 64 * 63 * 2 * (out + back)
    assert sent.experts.inside * 8 == sent.experts.across  # 7 of the 63 others are in the same machine
    assert traffic(V3, DEEPSEEK, 1024 + 12).experts == sent.experts  # also of the one in the middle of a machine
    assert sent.pipeline == Bytes(0, 2 * 2 * tokens * 7168 * 2)  # hidden states and embeddings, forth and back
    folded = traffic(V3, ParallelLayout(128, 64, 16, schedule="zbv"), 1024).pipeline
    assert folded == sent.pipeline  # twice the stages, and no embeddings


def test_fsdp_gathers_a_layer_for_each_forward_and_backward() -> None:
    sent = traffic(load_recipe("v2-lite-16b", ["train.lanes=4608"]), ParallelLayout(fsdp=8), 0)
    assert sent.weights.inside == sent.gradients.inside and not sent.weights.across


class _Stage:
    """As much of a stage as a schedule asks for."""

    def __init__(self, index: int, pp: int) -> None:
        self.stage_index, self.num_stages, self.group_size, self.group_rank = index, 2 * pp, pp, 0
        self.is_first, self.is_last = index == 0, index == 2 * pp - 1
        self.has_backward, self.group, self.device, self.submod = True, None, "cpu", None


@pytest.mark.parametrize("pp", [2, 4])
@pytest.mark.parametrize("name", ["zbv", "dualpipev"])
def test_idle_time_is_that_of_the_schedules(name: Schedule, pp: int) -> None:
    """The actions of PyTorch's schedules, each as soon as what it needs is there: F, I and W take one unit each."""
    which = schedules.ScheduleZBVZeroBubble if name == "zbv" else schedules.ScheduleDualPipeV
    length, last = 4 * pp, 2 * pp - 1
    made = which([_Stage(0, pp), _Stage(last, pp)], length, loss_fn=lambda *_: None)  # type: ignore[list-item]
    work = {rank: [a for a in actions if a is not None] for rank, actions in made.pipeline_order.items()}
    done: dict[tuple[str, int, int | None], int] = {}
    clock, place = dict.fromkeys(work, 0), dict.fromkeys(work, 0)
    while any(place[rank] < len(work[rank]) for rank in work):
        before = dict(place)
        for rank, actions in work.items():
            if place[rank] == len(actions):
                continue
            action = actions[place[rank]]
            together = [(a.computation_type.name, a.stage_index, a.microbatch_index)
                        for a in action.sub_actions or (action,)]  # fmt: skip
            needs = [key for kind, stage, k in together for key in {
                "FORWARD": [("F", stage - 1, k)] if stage else [],
                "BACKWARD_WEIGHT": [("I", stage, k)],
            }.get(kind, [("F", stage, k), *([("I", stage + 1, k)] if stage < last else [])])]  # fmt: skip
            if any(key not in done for key in needs):
                continue
            units = sum(2 if kind == "FULL_BACKWARD" else 1 for kind, _, _ in together)
            clock[rank] = max([clock[rank], *(done[key] for key in needs)]) + units
            done |= {("F" if kind == "FORWARD" else "W" if kind == "BACKWARD_WEIGHT" else "I", stage, k): clock[rank]
                     for kind, stage, k in together}  # fmt: skip
            place[rank] += 1
        assert place != before, "the schedule is stuck"
    idle = max(clock.values()) - 6 * length
    recipe = load_recipe("v2-lite-16b", [f"train.batch_size={length}", "train.lanes=1"])
    assert bubble(recipe, ParallelLayout(pp=pp, schedule=name)) == idle / (6 * length + idle)


def test_a_pipeline_of_one_schedule_idles_as_the_report_says() -> None:
    assert bubble(V3, DEEPSEEK) == 15 / 135
    assert bubble(V3, ParallelLayout(64)) == 0


def test_other_layouts_that_fit_are_proposed() -> None:
    placement, budget = Placement(V3), 72e9
    found = others(placement, DEEPSEEK, budget, work=15.0)
    assert 0 < len(found) <= 3 and DEEPSEEK not in [each.layout for each in found]
    assert all(each.layout.devices == 2048 and each.memory <= budget for each in found)
    lost = [15.0 * each.bubble / (1 - each.bubble) + each.traffic.seconds for each in found]
    assert lost == sorted(lost)
    shown = describe(placement, DEEPSEEK)
    assert (shown.lanes, shown.micro_batches, shown.partial_sums) == (1, 120, 1)
    assert shown.memory == placement.memory(DEEPSEEK).total
    assert shown.traffic == traffic(V3, DEEPSEEK, 1024)  # of the ninth stage of 16


def test_settings_with_which_a_layout_fits_are_named() -> None:
    exact = load_recipe("v3-671b", ["train.precision=fp8", "train.expert_gradients=exact", "optimizer.moments=bf16"])
    assert [setting for setting, _ in cures(exact, Placement(exact), DEEPSEEK, 72e9)] == [
        'train.expert_gradients = "merged"'
    ]
