"""Four real processes tell each other what they must, and raise one error."""

from __future__ import annotations

import json
from typing import Any

import pytest

from clearseek.errors import UserError
from clearseek.train.parallel.compare import Pace
from clearseek.train.parallel.group import ALONE, Group
from clearseek.train.parallel.world import join_world
from tests.train.parallel.jobs import end, start


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of four processes found."""
    folder = tmp_path_factory.mktemp("tour")
    code, out, err = end(start("tour", folder, "-"))
    assert (code, out, err) == (0, "printed by 0\n", "")
    assert [file.read_text().splitlines()[1:] for file in sorted(folder.glob("ranks/*"))] == [
        [f"printed by {rank}"] for rank in (1, 2, 3)
    ]
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(4)]


def test_values_go_to_all_processes_in_their_order(told: list[dict[str, Any]]) -> None:
    for rank, found in enumerate(told):
        assert found["share"] == {"from": 0, "text": "é" * 1000}
        assert found["gather"] == [[0, ""], [1, "x"], [2, "xx"], [3, "xxx"]]
        assert found["collect"] == (None if rank else ["", "x", "xx", "xxx"])
        assert found["largest"] == 30
        assert found["numbers"] == [[other / 3, 1.0] for other in range(4)]
        assert found["after_main"][0] == rank
    first, *others = (found["after_main"][1] for found in told)
    assert all(first < other for other in others)


def test_groups_of_processes_sum_among_themselves(told: list[dict[str, Any]]) -> None:
    assert [found["sums"] for found in told] == [[1, 6, 1, 2], [1, 6, 1, 4], [5, 6, 5, 2], [5, 6, 5, 4]]


def test_all_raise_the_error_of_one_and_name_it(told: list[dict[str, Any]]) -> None:
    for rank, found in enumerate(told):
        one, everywhere, defect, own_class, none = found["errors"]
        assert one.startswith("UserError: process 2 (") and one.endswith("): a full disk")
        assert everywhere == "UserError: wrong everywhere"
        if rank == 3:
            assert defect == "KeyError: 'what'"
        else:
            assert "process 3" in defect and "KeyError: 'what' (standin.py:" in defect and "ranks/00003.log" in defect
        assert own_class.endswith("): another version") and none is None


def test_what_differs_is_named_with_its_process(told: list[dict[str, Any]]) -> None:
    for found in told:
        differs, same = found["compare"]
        assert "process 2 (" in differs and "environment.threads: 1 -> 2" in differs and same is None


def test_one_process_is_alone_and_agrees_with_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    assert join_world() is ALONE
    assert ALONE.share(3) == ALONE.largest(3) == ALONE.after_main(lambda: 3) == 3
    assert ALONE.gather("x") == ALONE.collect("x") == ["x"] and ALONE.numbers(1.0, 2.0) == [(1.0, 2.0)]


def test_a_rank_without_an_address_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    with pytest.raises(UserError, match="start with torchrun"):
        join_world()


def four() -> Group:
    group = Group()
    group.size, group.hosts = 4, ["a", "b", "c", "d"]
    return group


def test_a_straggler_is_named_once_after_three_steps() -> None:
    pace, slow, even = Pace(four()), [1.0, 1.1, 0.9, 2.5], [1.0, 1.1, 0.9, 1.9]
    said = [pace.note(seconds) for seconds in (slow, slow, even, *[slow] * 5, even, *[slow] * 3)]
    assert said[:5] == [None] * 5 and said[6:] == [None] * 6
    assert said[5] is not None and said[5].startswith("process 3 (d) takes 2.5 times as long")


@pytest.mark.parametrize("size", [2, 4])
def test_a_slow_half_is_named_too(size: int) -> None:
    group = four()
    group.size = size
    pace, seconds = Pace(group), [1.0] * (size // 2) + [100.0] * (size // 2)
    said = [pace.note(seconds) for _ in range(3)][-1]
    assert said is not None and said.count("takes 100.0 times as long") == size // 2


def test_processes_are_compared_with_those_of_equal_work() -> None:
    pace = Pace(four(), [[0, 1], [2, 3]])
    assert [pace.note([1.0, 1.0, 5.0, 5.0]) for _ in range(5)] == [None] * 5
