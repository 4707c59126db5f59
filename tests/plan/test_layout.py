from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clearseek.config import Recipe
from clearseek.errors import UserError
from clearseek.plan.layout import (
    SINGLE,
    ParallelLayout,
    check_layout,
    conflicts,
    decides_bits,
    layouts,
    nearest_layouts,
    parse_layout,
)
from clearseek.recipe import load_recipe, parse_recipe
from clearseek.train.accumulate import block
from tests.tiny import TINY, tiny

V3 = load_recipe("v3-671b")
SHARED = tiny(model={"num_hidden_layers": 4}, train={"batch_size": 64, "micro_batch_size": 2, "lanes": 8})
"""32 micro-batches in 8 lanes of 4."""
ONE_EACH = tiny(model={"num_hidden_layers": 4}, train={"batch_size": 16, "micro_batch_size": 2})
"""8 micro-batches, each a lane of its own."""
PROBLEMS = {"parent": {"path": "p"}, "grpo": {"completions": 2, "max_tokens": 8}, "problems": {"kind": "sums"}}


@pytest.mark.parametrize(
    ("text", "processes", "layout"),
    [
        ("dp=128,ep=64,pp=16", None, ParallelLayout(128, 64, 16)),
        ("ep=8,pp=2", 32, ParallelLayout(16, 8, 2)),
        ("fsdp=4", 4, ParallelLayout(fsdp=4)),
        (" pp = 4 , schedule = zbv ", 4, ParallelLayout(pp=4, schedule="zbv")),
        ("pp=2,schedule=dualpipev", None, ParallelLayout(pp=2, schedule="dualpipev")),
        ("dp=1", None, SINGLE),
    ],
)
def test_text_is_a_layout(text: str, processes: int | None, layout: ParallelLayout) -> None:
    assert parse_layout(text, processes) == layout == parse_layout(str(layout))


@pytest.mark.parametrize(
    ("text", "processes", "said"),
    [
        ("dp=2,dp=2", None, "dp appears twice"),
        ("pp=2,schedule=zbv,schedule=zbv", None, "schedule appears twice"),
        ("pp=2,schedule=gpipe", None, "schedule is one of 1f1b, zbv, dualpipev"),
        ("tp=2", None, "write it as dp=128,ep=64,pp=16, fsdp=8 or pp=4,schedule=zbv"),
        ("", None, "write it as"),
        ("dp=-1", None, "dp is a number from 1 up"),
        ("dp=1e3", None, "dp is a number from 1 up"),
        ("pp=3", 8, "pp = 3 does not divide WORLD_SIZE 8"),
        ("dp=2,pp=2", 8, "dp x pp = 4 processes, but WORLD_SIZE is 8"),
        ("fsdp=2", 8, "fsdp x pp = 2 processes, but WORLD_SIZE is 8"),
    ],
)
def test_other_text_is_refused(text: str, processes: int | None, said: str) -> None:
    with pytest.raises(UserError) as refused:
        parse_layout(text, processes, "WORLD_SIZE")
    assert f"--layout {text}: " in str(refused.value) and said in str(refused.value)


@pytest.mark.parametrize(
    ("layout", "recipe", "said"),
    [
        (ParallelLayout(8, 8), SHARED, None),
        (ParallelLayout(2, 2, 4), SHARED, None),
        (ParallelLayout(pp=2, schedule="zbv"), SHARED, None),
        (ParallelLayout(pp=2, schedule="dualpipev"), SHARED, None),
        (ParallelLayout(fsdp=8), SHARED, None),
        (ParallelLayout(4, 3), SHARED, ("ep = 3 does not divide dp = 4", "ep = 3 does not divide the 8")),
        (ParallelLayout(6, 3), tiny(model={"n_routed_experts": 9}, train={"batch_size": 12, "micro_batch_size": 1}),
         ("ep = 3 is neither a power of two nor dp = 6", "train.lanes = 4 (left out) is not dp = 6")),
        (ParallelLayout(pp=5), SHARED, ("pp = 5 is more than the 4 layers", "1f1b with pp = 5 needs 5 micro-batches")),
        (ParallelLayout(pp=3, schedule="zbv"), SHARED, ("has 6 stages, which are more than the 4 layers",)),
        (ParallelLayout(schedule="zbv"), SHARED, ("schedule = zbv needs pp from 2 up",)),
        (ParallelLayout(16), SHARED,
         ("train.lanes = 8 is not dp = 16 times 1, 2, 4, ...; train.lanes = 16 would do, with other bits",)),
        (ParallelLayout(dp=3), SHARED, ("no number of lanes of train.batch_size = 64 would do",)),
        (ParallelLayout(fsdp=16), SHARED,
         ("is not fsdp = 16 times a whole number; train.lanes = 16 would do, with other bits",)),
        (ParallelLayout(2, 2, 2), ONE_EACH,
         ("1f1b with pp = 2 needs 2 micro-batches a lane, and a lane has 1 (8 in a step, train.lanes = 8 (left out)); "
          "train.lanes = 2 would do, with other bits: on 4 processes these work: dp=2,ep=2,pp=2,schedule=zbv",)),
        (ParallelLayout(8, 1, 2), ONE_EACH, ("; train.micro_batch_size = 1 and train.lanes = 8 would do",)),
        (ParallelLayout(16, 1, 2), ONE_EACH, ("no number of lanes of train.batch_size = 16 would do; 1f1b",
         "train.lanes = 8 (left out)): on 16 processes these work")),
        (ParallelLayout(fsdp=2, pp=2), SHARED, ("fsdp stands alone",)),
        (ParallelLayout(2), tiny(train={"batch_size": 8}), ("train.lanes = 1 (left out) is not dp = 2",)),
        (ParallelLayout(2), tiny(train={"micro_batch_size": 2, "lanes": 4}), None),
        (ParallelLayout(2), tiny(train={"batch_size": 12, "micro_batch_size": 1, "lanes": 6}), ("dp = 2 times 1, 2",)),
        (ParallelLayout(3), tiny(train={"batch_size": 12, "micro_batch_size": 1, "lanes": 6}), None),
        (ParallelLayout(pp=2), tiny(model={"tie_word_embeddings": True}, train={"micro_batch_size": 1, "lanes": 1}),
         ("pp does not go with model.tie_word_embeddings",)),
    ],
)  # fmt: skip
def test_all_that_forbids_a_layout_is_named(
    layout: ParallelLayout, recipe: Recipe, said: tuple[str, ...] | None
) -> None:
    if said is None:
        return check_layout(layout, recipe)
    with pytest.raises(UserError) as refused:
        check_layout(layout, recipe)
    assert all(each in str(refused.value) for each in said) and "\n" not in str(refused.value)
    assert len(conflicts(layout, recipe)) == len(said)


def test_a_model_that_writes_its_own_texts_trains_on_one_process() -> None:
    recipe = parse_recipe({**TINY, **PROBLEMS, "data": {"sequence_length": 32}}, "tiny.toml")
    check_layout(SINGLE, recipe)
    with pytest.raises(UserError, match=r"\[grpo\] trains on one process.*: use one process"):
        check_layout(ParallelLayout(2), recipe)


def test_experts_and_stages_are_for_pre_training() -> None:
    data = {"source": "jsonl", "paths": ["x"], "sequence_length": 32}
    recipe = parse_recipe({**TINY, "parent": {"path": "p"}, "sft": {}, "data": data}, "tiny.toml")
    recipe = recipe.model_copy(update={"train": SHARED.train})
    check_layout(ParallelLayout(2), recipe)
    for layout in (ParallelLayout(2, 2), ParallelLayout(pp=2)):
        with pytest.raises(
            UserError, match=r"ep and pp do not go with \[parent\]: .*: on 2 processes these work: dp=2"
        ):
            check_layout(layout, recipe)


@pytest.mark.parametrize(
    ("tables", "dp", "said"),
    [
        ({"sft": {}, "lora": {}}, True, r"\[lora\] goes with dp only"),
        ({"distil": {"teacher": "t"}}, True, r"\[distil\] goes with dp only"),
        ({"sft": {}, "experts": {}}, False, r"\[experts\] trains on one process"),
    ],
)
def test_what_modifies_a_model_takes_few_layouts(tables: dict[str, Any], dp: bool, said: str) -> None:
    data = {"sequence_length": 32} | ({"source": "jsonl", "paths": ["x"]} if "sft" in tables else {"paths": ["x"]})
    recipe = parse_recipe({**TINY, "parent": {"path": "p"}, "data": data, **tables}, "tiny.toml")
    recipe = recipe.model_copy(update={"train": SHARED.train})
    check_layout(SINGLE, recipe)
    with pytest.raises(UserError, match=said):
        check_layout(ParallelLayout(fsdp=2), recipe)
    assert (not conflicts(ParallelLayout(2), recipe)) == dp


def test_the_nearest_layouts_that_work_are_named() -> None:
    with pytest.raises(UserError, match="on 2,048 processes these work: dp=128,ep=64,pp=16 or dp=128,ep=32,pp=16"):
        check_layout(ParallelLayout(128, 60, 16), V3)
    with pytest.raises(UserError, match="on 8 processes these work: fsdp=8"):
        check_layout(ParallelLayout(fsdp=9), SHARED)
    assert nearest_layouts(ParallelLayout(pp=3, schedule="zbv"), SHARED)[0] == ParallelLayout(pp=3)
    assert nearest_layouts(ParallelLayout(2, pp=2, schedule="dualpipev"), ONE_EACH)[0].schedule == "zbv"
    for layout in nearest_layouts(ParallelLayout(3, 3, 9), SHARED):
        check_layout(layout, SHARED)


degrees = st.sampled_from([1, 2, 3, 4, 6, 8, 12, 16])


@given(degrees, degrees, degrees, st.sampled_from(["1f1b", "zbv", "dualpipev"]))
@settings(deadline=None, max_examples=200)
def test_what_is_allowed_is_what_is_listed_and_what_the_tree_allows(dp: int, ep: int, pp: int, schedule: str) -> None:
    layout = ParallelLayout(dp, ep, pp, schedule=schedule)  # type: ignore[arg-type]
    allowed = not conflicts(layout, SHARED)
    assert allowed == (layout in set(layouts(SHARED, layout.schedule)))
    if allowed:
        assert all(len(block(SHARED.train.summed_lanes, copy, dp)) for copy in range(dp))


@given(degrees, degrees, st.integers(1, 6))
def test_every_process_has_one_place(dp: int, ep: int, pp: int) -> None:
    layout = ParallelLayout(dp, ep if dp % ep == 0 else 1, pp)
    for rank in range(layout.devices):
        assert layout.copies_of_stage(rank)[layout.copy(rank)] == rank == layout.pipeline(rank)[layout.stage(rank)]
        assert layout.expert_group(rank)[layout.expert_part(rank)] == rank
        assert layout.expert_copies(rank)[layout.copy(rank) // layout.ep] == rank


def test_merged_experts_alone_decide_bits() -> None:
    layout = ParallelLayout(dp=4, ep=2, pp=2)
    assert decides_bits(layout, tiny()) == {}
    assert decides_bits(layout, tiny(train={"expert_gradients": "merged"})) == {"ep": 2, "dp": layout.dp}
    assert decides_bits(ParallelLayout(dp=4), tiny(train={"expert_gradients": "merged"})) == {}
