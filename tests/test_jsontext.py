"""Strict JSON is tried on headers of safetensors (tests/hub); here stand the names of formats."""

from __future__ import annotations

import pytest

from clearseek.jsontext import is_later


@pytest.mark.parametrize("stated", ["clearseek-code-3", "clearseek-code-10", "clearseek-code-9999"])
def test_a_later_format(stated: str) -> None:
    assert is_later(stated, "clearseek-code-2")


@pytest.mark.parametrize("number", ["2", "1", "03", "٣", "10000", "", "3\n"])
def test_no_later_format(number: str) -> None:
    assert not is_later(f"clearseek-code-{number}", "clearseek-code-2")


@pytest.mark.parametrize("stated", [3, None, [], "x", "clearseek-data-3", " clearseek-code-3"])
def test_no_format(stated: object) -> None:
    assert not is_later(stated, "clearseek-code-2")


def test_formats_that_are_numbers() -> None:
    assert [is_later(stated, 1) for stated in (1, 2, 9999, 10_000, True, 2.0, "2")] == [False, True, True, *[False] * 4]
