"""What differs between a recorded header and one of now, and what is only newer than the record."""

from __future__ import annotations

from typing import Any

from clearseek.train.header import differences
from tests.tiny import tiny


def header(**data: Any) -> dict[str, Any]:
    return {"recipe": tiny(data=data).model_dump(mode="json"), "environment": {"threads": 1}}


def test_a_setting_that_came_after_the_record_had_its_default() -> None:
    recorded = header()
    del recorded["recipe"]["data"]["exclude"], recorded["recipe"]["data"]["unusable"]
    assert differences(recorded, header()) == []
    assert differences(recorded, header(unusable="skip")) == ['recipe.data.unusable: "refuse" -> "skip"']


def test_a_retired_setting_differs_only_where_the_record_has_another_value() -> None:
    recorded = header()
    recorded["recipe"]["fp8"] |= {"gradient_format": "e4m3", "gradient_tile": "1x128", "accumulate": "fp32"}
    assert differences(recorded, header()) == []
    recorded["recipe"]["fp8"]["gradient_tile"] = "128x128"
    assert differences(recorded, header()) == [], "without effect where nothing is FP8"
    recorded["recipe"]["train"]["precision"] = "fp8"
    assert 'recipe.fp8.gradient_tile: "128x128" -> (absent)' in differences(recorded, header())


def test_every_difference_is_named_and_what_is_no_recipe_is_compared_as_it_is() -> None:
    assert differences({"recipe": {"steps": 1}}, {"recipe": {"steps": 2}, "data": 3}) == [
        "data: (absent) -> 3", "recipe.steps: 1 -> 2"
    ]  # fmt: skip
    assert differences({"recipe": None, "environment": 1}, {"recipe": None, "environment": 1}) == []
