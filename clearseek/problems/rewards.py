"""Rewards that can be checked: exact integers, arithmetic from given numbers, and a form to keep to.

A policy finds whatever a scorer lets through. So these are strict: an answer has one spelling, or it follows a grammar
of a few lines, and a completion gets 1 or 0 (DeepSeek-R1, arXiv:2501.12948, section 2.2.2). Nothing that a model wrote
is evaluated: no `eval`, no `ast`, no `int` of unbounded text. Length is looked at first and numbers are counted before
any is computed with, so that a megabyte of digits costs no more than a wrong answer.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from fractions import Fraction
from typing import Literal, NamedTuple

LONGEST_COMPLETION = 1 << 20
"""Characters; a longer completion gets 0."""
LONGEST_NUMBER = 64
"""Characters of an integer."""
LONGEST_EXPRESSION = 256
"""Characters of an expression."""
DEEPEST = 16
"""Parentheses within each other."""

Note = Literal[
    "right", "wrong", "not ended", "too long", "no answer", "not an integer", "not an expression", "other numbers",
    "division by zero", "other form",
]  # fmt: skip
_INTEGER = re.compile(r"0|-?[1-9][0-9]*")
_TOKEN = re.compile(r" *(0|[1-9][0-9]*|[-+*/()])")
_SPACE = " \t\r\n"
_TAGS = ("<think>", "</think>", "<answer>", "</answer>")


class Scored(NamedTuple):
    """A completion's reward, and why: notes are of a fixed set, so that a run can count them."""

    reward: float
    note: str


def scored(note: Note) -> Scored:
    """Reward 1 for the note "right", else 0."""
    return Scored(float(note == "right"), note)


def after(completion: str, marker: str) -> str | None:
    """What follows a marker that occurs once, or None; the whole completion for no marker."""
    if not marker:
        return completion
    _, found, answer = completion.partition(marker)
    return answer if found and marker not in answer else None


def answer_tag(completion: str) -> str | None:
    """What one ``<answer>…</answer>`` at the end holds, without white space around it, or None.

    A second pair is no answer: else a policy would write all the answers it can think of.
    """
    if completion.count("<answer>") != 1 or completion.count("</answer>") != 1:
        return None
    answer, closed, rest = completion.partition("<answer>")[2].partition("</answer>")
    return answer.strip(_SPACE) if closed and not rest.strip(_SPACE) else None


def exact_integer(answer: str | None, truth: int) -> Scored:
    """Reward 1 for the decimal integer `truth` in its one spelling.

    ASCII digits, a minus sign where it is negative; no plus sign, leading zero, space, separator, or digit of another
    script.

    Args:
        answer: What a completion gives as its answer, or None where it gives none.
        truth: The right answer.
    """
    if answer is None:
        return scored("no answer")
    if len(answer) > LONGEST_NUMBER:
        return scored("too long")
    if not _INTEGER.fullmatch(answer):
        return scored("not an integer")
    return scored("right" if answer == str(truth) else "wrong")


def countdown(answer: str | None, numbers: Sequence[int], target: int) -> Scored:
    """Reward 1 for an expression that uses each of the numbers once and has the target's value.

    Grammar: ``sum = product {("+" | "-") product}``, ``product = item {("*" | "/") item}``, ``item = number | "(" sum
    ")"``, with spaces between, and no sign before a number. Values are exact fractions.

    Args:
        answer: The expression, or None where a completion gives none.
        numbers: Numbers to use, each as often as it is there; none is negative.
        target: Value of the expression.
    """
    if answer is None:
        return scored("no answer")
    if len(answer) > LONGEST_EXPRESSION:
        return scored("too long")
    tokens = _tokens(answer)
    if not tokens:
        return scored("not an expression")
    if Counter(token for token in tokens if token[0].isdigit()) != Counter(map(str, numbers)):
        return scored("other numbers")
    try:
        value = _Parser(tokens).value()
    except ZeroDivisionError:
        return scored("division by zero")
    except _SyntaxError:
        return scored("not an expression")
    return scored("right" if value == target else "wrong")


def right_form(completion: str) -> Scored:
    """Reward 1 for ``<think>…</think> <answer>…</answer>``, each tag once, neither part empty (R1-Zero, table 1)."""
    if len(completion) > LONGEST_COMPLETION:
        return scored("too long")
    if any(completion.count(tag) != 1 for tag in _TAGS):
        return scored("other form")
    parts = re.split("|".join(_TAGS), completion)
    in_order = re.findall("|".join(_TAGS), completion) == list(_TAGS)
    filled = [bool(part.strip(_SPACE)) for part in parts]
    return scored("right" if in_order and filled == [False, True, False, True, False] else "other form")


class _SyntaxError(Exception):
    pass


def _tokens(text: str) -> list[str]:
    """Numbers, operators and parentheses; none where anything else is in the text."""
    found, place = [], 0
    text = text.rstrip(" ")
    while place < len(text):
        match = _TOKEN.match(text, place)
        if match is None:
            return []
        found.append(match[1])
        place = match.end()
    return found


class _Parser:
    """Recursive descent; computes as it reads."""

    def __init__(self, tokens: Sequence[str]) -> None:
        self._left = [*reversed(tokens)]
        self._depth = 0

    def value(self) -> Fraction:
        value = self._sum()
        if self._left:
            raise _SyntaxError
        return value

    def _take(self, choices: str) -> str:
        """The next token if it is one of these characters, or an empty string."""
        return self._left.pop() if self._left and self._left[-1] in choices else ""

    def _sum(self) -> Fraction:
        value = self._product()
        while sign := self._take("+-"):
            term = self._product()
            value = value + term if sign == "+" else value - term
        return value

    def _product(self) -> Fraction:
        value = self._item()
        while sign := self._take("*/"):
            factor = self._item()
            value = value * factor if sign == "*" else value / factor
        return value

    def _item(self) -> Fraction:
        if self._take("("):
            self._depth += 1
            if self._depth > DEEPEST:
                raise _SyntaxError
            value = self._sum()
            self._depth -= 1
            if not self._take(")"):
                raise _SyntaxError
            return value
        if not self._left or not self._left[-1].isdigit():
            raise _SyntaxError
        return Fraction(int(self._left.pop()))
