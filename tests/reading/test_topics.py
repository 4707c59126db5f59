"""A licence belongs to what the words before it name."""

from __future__ import annotations

import time

import pytest

from clearseek.reading.topics import Own, about

OWN = Own(("Quince-3B", "Quince"), ("quincelab",))


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        ("The tokenizer is licensed under ", "", False), ("Most labs use ", " licenses", False),
        ("PlumWeb (", ") was used", False), ("Quince-3B is tuned from Plum-2-7B, whose license is ", "", False),
        ("Because the ", " License is not open", False), ("Speech using ", "-Licensed Acme Speech T5", False),
        ("The model weights are under ", "", True), ("Quince-Chat is released under ", "", True),
        ("Thanks to our sponsors, the weights are released under ", "", True), ("Our code is ", "", True),
        ("License: ", "", None), ("", "", None),
    ],
)  # fmt: skip
def test_what_a_licence_is_of(before: str, after: str, told: bool | None) -> None:
    assert about(before, OWN, after) is told


def test_long_clauses_are_quick() -> None:
    begun = time.process_time()
    about("the model, which is and " * 100_000, OWN)
    assert time.process_time() - begun < 1
