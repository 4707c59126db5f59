"""Rewards: strict about spelling, quick on hostile text, and the expressions' parser against Python's."""

from __future__ import annotations

import ast
import re
import time
from collections import Counter
from fractions import Fraction

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from clearseek.problems.rewards import (
    DEEPEST,
    LONGEST_COMPLETION,
    Scored,
    after,
    answer_tag,
    countdown,
    exact_integer,
    right_form,
)

HOSTILE = [
    "__import__('os')",
    "__import__('os').system('touch /tmp/clearseek-was-here')",
    "9**9**9",
    "9**9**9**9",
    "1" * 1_000_000,
    "-" * 1_000_000 + "1",
    "(" * 1_000_000,
    "(" * 500_000 + "1" + ")" * 500_000,
    "1+" * 500_000 + "1",
    "\uff11\uff12",
    "1\uff12",
    "²",
    "٣",
    "NaN",
    "nan",
    "inf",
    "-inf",
    "Infinity",
    "1e3",
    "1_000",
    "1,000",
    "1 000",
    "0x10",
    "+12",
    "012",
    "-0",
    "12.0",
    "12\0",
    "\x0012",
    "\0",
    "12\n",
    " 12",
    "12\u200b",
    "\ud800",
    "12\udfff",
    "\u202e12",
    "True",
    "",
    " ",
    "<answer>" * 100_000,
    "<answer>12</answer>" * 50_000,
    "<think>" * 100_000,
    "lambda: 12",
    "[12]",
    "x" * 2_000_000,
]


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_completions_get_nothing_at_once(text: str) -> None:
    scorers = {
        "integer": lambda: exact_integer(text, 12),
        "integer after marker": lambda: exact_integer(after(text, ";"), 12),
        "integer in tags": lambda: exact_integer(answer_tag(text), 12),
        "countdown": lambda: countdown(text, (12, 9, 9, 9), 12),
        "countdown in tags": lambda: countdown(answer_tag(text), (12,), 12),
        "countdown of its own numbers": lambda: countdown(text, (9, 9, 9), 9**9),
        "form": lambda: right_form(text),
        "form around it": lambda: right_form(f"<think>{text}<answer>{text}</answer>"),
    }
    for name, scorer in scorers.items():
        fastest = float("inf")
        for _ in range(3):  # the machine may be busy
            start = time.perf_counter()
            found = scorer()
            fastest = min(fastest, time.perf_counter() - start)
        assert found.reward == 0 and found.note != "right", name
        assert fastest < 0.01, name


@given(st.integers(-(10**30), 10**30))
@example(0)
def test_an_integer_has_one_spelling(number: int) -> None:
    assert exact_integer(str(number), number) == Scored(1.0, "right")
    assert exact_integer(str(number), number + 1) == Scored(0.0, "wrong")
    for other in (f"+{number}", f" {number}", f"{number} ", f"0{number}", f"{number}.", f"--{number}"):
        assert exact_integer(other, number).reward == 0


@given(st.text(max_size=80), st.integers(-99, 99))
def test_only_the_spelling_counts(text: str, truth: int) -> None:
    assert exact_integer(text, truth).reward == float(text == str(truth))


def test_where_an_answer_is() -> None:
    assert after("68", "") == "68"
    assert after("3+5=8;68", ";") == "68" and after("68", ";") is None and after("1;2;68", ";") is None
    assert answer_tag("<think>8</think> <answer> 68 </answer>\n") == "68"
    assert answer_tag("<answer>1</answer><answer>68</answer>") is None
    assert answer_tag("<answer>68") is None and answer_tag("</answer>68<answer>") is None
    assert answer_tag("<answer>68</answer> or 69") is None
    assert exact_integer(None, 1) == countdown(None, (1,), 1) == Scored(0.0, "no answer")


def test_countdown_by_hand() -> None:
    for text, numbers, target, note in (
        ("(25+7)*3", (3, 7, 25), 96, "right"),
        (" ( 25 + 7 ) * 3 ", (3, 7, 25), 96, "right"),
        ("25+7*3", (3, 7, 25), 46, "right"),
        ("8/(3-8/3)", (3, 3, 8, 8), 24, "right"),
        ("5-3-1", (1, 3, 5), 1, "right"),
        ("8/4/2", (2, 4, 8), 1, "right"),
        ("25+7+3", (3, 7, 25), 96, "wrong"),
        ("96", (3, 7, 25), 96, "other numbers"),
        ("25+7*3+3", (3, 7, 25), 96, "other numbers"),
        ("25+7", (3, 7, 25), 32, "other numbers"),
        ("3+3", (3,), 6, "other numbers"),
        ("25", (2, 5), 25, "other numbers"),
        ("-3+7+25", (3, 7, 25), 29, "not an expression"),
        ("3*-7+25", (3, 7, 25), 4, "not an expression"),
        ("3 7 25", (3, 7, 25), 35, "not an expression"),
        ("3(7+25)", (3, 7, 25), 96, "not an expression"),
        ("(3+7+25", (3, 7, 25), 35, "not an expression"),
        ("3+7)+25", (3, 7, 25), 35, "not an expression"),
        ("3+7+25=35", (3, 7, 25), 35, "not an expression"),
        ("3**7", (3, 7), 3**7, "not an expression"),
        ("7//3", (3, 7), 2, "not an expression"),
        ("03+7", (3, 7), 10, "other numbers"),
        ("00+7", (0, 0, 7), 7, "not an expression"),
        ("7/(3-3)", (3, 3, 7), 7, "division by zero"),
        ("3\t+7", (3, 7), 10, "not an expression"),
        ("()", (3,), 3, "other numbers"),
        ("()3", (3,), 3, "not an expression"),
    ):
        assert countdown(text, numbers, target).note == note, text
    for depth, reward in ((DEEPEST, 1), (DEEPEST + 1, 0)):
        assert countdown("(" * depth + "3" + ")" * depth, (3,), 3).reward == reward


def oracle(text: str) -> tuple[Counter[int], Fraction | None] | None:
    """Numbers and value of an expression by Python's own grammar; None where ours has no such expression."""
    if set(text) - set("0123456789+-*/() ") or re.search(r"(?<![0-9])0[0-9]", text):
        return None
    try:
        tree = ast.parse(text.strip(" "), mode="eval").body
    except SyntaxError:
        return None
    numbers: Counter[int] = Counter()

    def value(node: ast.expr) -> Fraction:
        if isinstance(node, ast.Constant) and type(node.value) is int:
            numbers[node.value] += 1
            return Fraction(node.value)
        assert isinstance(node, ast.BinOp)
        left, right = value(node.left), value(node.right)
        if isinstance(node.op, ast.Add):
            return left + right
        if isinstance(node.op, ast.Sub):
            return left - right
        if isinstance(node.op, ast.Mult):
            return left * right
        assert isinstance(node.op, ast.Div)
        return left / right if right else Fraction(0) / 0

    try:
        return numbers, value(tree)
    except AssertionError:
        return None
    except ZeroDivisionError:
        return numbers, None


EXPRESSIONS = st.recursive(
    st.integers(0, 30).map(str),
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from("+-*/"), inner).map("".join),
        inner.map("({})".format),
        st.tuples(inner, st.sampled_from([" + ", " -", "* "]), inner).map("".join),
    ),
    max_leaves=8,
)
NOISE = st.text("0123456789+-*/() ", max_size=14)
MUTATED = st.tuples(EXPRESSIONS, st.integers(0, 40), st.sampled_from(["", "(", ")", "-", "*", "/", " ", "0", "7"])).map(
    lambda parts: parts[0][: parts[1]] + parts[2] + parts[0][parts[1] + 1 :]
)


@given(st.one_of(EXPRESSIONS, NOISE, MUTATED), st.integers(-50, 50))
@settings(max_examples=1500, deadline=None)
@example("00", 0)
@example("2(3)", 6)
@example("()", 0)
@example("1/0)", 0)
def test_countdown_equals_python(text: str, other: int) -> None:
    expected = oracle(text)
    if expected is None:
        digits = [int(number) for number in re.findall("[0-9]+", text)]
        assert countdown(text, digits, other).reward == 0
        return
    numbers, value = expected
    given_numbers = list(numbers.elements())
    if value is None:
        assert countdown(text, given_numbers, other).reward == 0
        return
    for target in {other, int(value)}:
        assert countdown(text, given_numbers, target).reward == float(value == target)
    assert countdown(text, [*given_numbers, 1], int(value)).reward == 0
    assert countdown(text, given_numbers[1:], int(value)).reward == 0


def test_form() -> None:
    assert right_form("<think>a</think><answer>b</answer>").reward == 1
    assert right_form(" <think>\na\n</think>\n<answer> b </answer>\n").reward == 1
    for text in (
        "a</think><answer>b</answer>",
        "<think>a</think>b",
        "<think>a</think><answer></answer>",
        "<think> </think><answer>b</answer>",
        "<think>a</think> so <answer>b</answer>",
        "well <think>a</think><answer>b</answer>",
        "<think>a</think><answer>b</answer>!",
        "<answer>b</answer><think>a</think>",
        "<think>a<answer>b</answer></think>",
        "<think>a</think><think>a</think><answer>b</answer>",
        "<THINK>a</THINK><ANSWER>b</ANSWER>",
        "<think>" + "a" * LONGEST_COMPLETION + "</think><answer>b</answer>",
    ):
        assert right_form(text).reward == 0, text[:60]


@given(st.lists(st.sampled_from(["<think>", "</think>", "<answer>", "</answer>", "a", " ", "\n"]), max_size=9))
@settings(deadline=None)
def test_form_equals_one_regular_expression(parts: list[str]) -> None:
    text = "".join(parts)
    filled = r"\s*a(?:[a\s])*"
    expected = re.fullmatch(rf"\s*<think>{filled}</think>\s*<answer>{filled}</answer>\s*", text)
    assert right_form(text).reward == float(expected is not None)
