"""Problems by address: the same for ever, solvable as shown, and never both tested and trained on."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clearseek.config import ProblemsConfig
from clearseek.data.tokenizer import EOS, SMALLEST_VOCABULARY, Tokenizer, train
from clearseek.errors import UserError
from clearseek.problems.problems import GENERATOR, Draw, Problem, Problems, columns
from clearseek.problems.prompts import Template, demonstration, prompt, score
from clearseek.problems.rewards import right_form
from tests.posttrain.tiny import child, parent
from tests.problems.test_rewards import HOSTILE

TEMPLATES: tuple[Template, ...] = ("plain", "chat", "r1-zero")
EVERY: list[tuple[str, dict[str, Any]]] = [
    ("addition", {}),
    ("addition", {"digits": 1}),
    ("addition", {"digits": 3, "working": True}),
    ("addition", {"digits": 6, "working": True}),
    ("sums", {"numbers": 4, "digits": 2}),
    ("countdown", {}),
    ("countdown", {"numbers": 2, "largest": 9, "largest_target": 20}),
    ("countdown", {"numbers": 6, "largest": 99, "largest_target": 999}),
]
of_every_kind = pytest.mark.parametrize(("kind", "chosen"), EVERY)


def problems_of(kind: Any, chosen: dict[str, Any] | None = None, seed: int = 0, share: float = 0.1) -> Problems:
    return Problems(ProblemsConfig(kind=kind, seed=seed, held_out_fraction=share, **chosen or {}))


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train(["0123456789"], SMALLEST_VOCABULARY)


def test_problems_of_this_version_stay_the_same() -> None:
    """Another problem for an address needs another GENERATOR, or old runs could not be replayed."""
    assert GENERATOR == 1
    found = {
        (which, index): (problem.prompt, problem.solution)
        for which in (0, 2, 4, 5)
        for index in (0, 1, 2**63 - 1)
        for problem in [problems_of(*EVERY[which], seed=1).train(index)]
    }
    assert found == GOLDEN
    assert problems_of("addition", {"digits": 3}, seed=1).fingerprint == FINGERPRINT


@of_every_kind
@given(seed=st.integers(0, 2**31 - 1), index=st.integers(0, 2**63 - 1))
@settings(max_examples=40, deadline=None)
def test_a_demonstration_is_right_in_every_template(kind: str, chosen: dict[str, Any], seed: int, index: int) -> None:
    problems = problems_of(kind, chosen, seed)
    for problem in (problems.train(index), problems.held_out(index)):
        for template in ("plain", "chat"):
            assert score(problem, problem.solution, True, template).note == "right"
            assert score(problem, problem.solution, False, template).note == "not ended"
            for other in (f"{problem.solution}0", f"{problem.solution}x", f"{problem.solution};{problem.answer}", ""):
                assert score(problem, other, True, template).reward == 0
        assert score(problem, problem.solution, True, "r1-zero").note == "no answer"
        assert len(problem.question) < 200 and problem.question.isascii() and problem.prompt.isascii()


@of_every_kind
@given(seeds=st.lists(st.integers(0, 99), min_size=2, max_size=2), index=st.integers(0, 10**9))
@settings(max_examples=25, deadline=None)
def test_sides_share_no_problem_under_any_seeds(
    kind: str, chosen: dict[str, Any], seeds: list[int], index: int
) -> None:
    one, other = (problems_of(kind, chosen, seed) for seed in seeds)
    trained, tested = one.train(index), other.held_out(index)
    assert not other.is_held_out(trained) and one.is_held_out(tested)
    assert trained.name != tested.name and trained.prompt != tested.prompt
    assert one.train(index) == problems_of(kind, chosen, seeds[0]).train(index)


def test_two_digit_additions_are_split_whole() -> None:
    """All 8,100 fall on a side, a pair and its mirror image on the same one, and training reaches its whole side."""
    problems = problems_of("addition", {"digits": 2}, seed=3)

    def held(first: int, second: int) -> bool:
        name = "addition " + "+".join(map(str, sorted((first, second))))
        return problems.is_held_out(Problem(name, "", "", "", ""))

    tested = {f"{a}+{b}=" for a in range(10, 100) for b in range(10, 100) if held(a, b)}
    assert 700 < len(tested) < 920
    assert all(f"{prompt[3:5]}+{prompt[:2]}=" in tested for prompt in tested)
    drawn = [problems.train(index).prompt for index in range(5000)]
    assert not tested & set(drawn) and len(set(drawn)) > 3000
    chosen = problems.held_out_set(512)
    assert len({problem.prompt for problem in chosen}) == 512 and {problem.prompt for problem in chosen} <= tested
    assert chosen[:100] == problems.held_out_set(100)


def test_the_split_knows_no_seed_kind_or_steps() -> None:
    plain = [problems_of("addition", {"digits": 3}, seed=seed) for seed in range(3)]
    written = problems_of("addition", {"digits": 3, "working": True}, seed=5)
    pairs = problems_of("sums", {"numbers": 2, "digits": 3}, seed=5)
    for index in range(40):
        for problem in (plain[0].train(index), written.held_out(index), pairs.held_out(index)):
            sides = {problems.is_held_out(problem) for problems in (*plain, written, pairs)}
            assert len(sides) == 1


def test_another_seed_index_or_setting_is_another_problem() -> None:
    one = [problems_of("addition", {"digits": 6}, seed=0).train(index).prompt for index in range(200)]
    assert len(set(one)) == 200
    others = [
        problems_of("addition", {"digits": 6}, seed=1),
        problems_of("addition", {"digits": 6, "working": True}, seed=0),
    ]
    for other in others:
        assert not set(one) & {other.train(index).prompt for index in range(200)}
    assert not set(one) & {problems_of("addition", {"digits": 6}).held_out(index).prompt for index in range(200)}


def test_fingerprint_names_all_that_decides() -> None:
    found = {
        problems_of(kind, chosen, seed, share).fingerprint
        for kind, chosen in EVERY
        for seed in (0, 1)
        for share in (0.1, 0.2)
    }
    assert len(found) == 4 * len(EVERY)
    assert problems_of("addition", {"digits": 2}).fingerprint == problems_of("addition").fingerprint


@given(st.integers(0, 10**7), st.integers(0, 10**7))
def test_columns_add_up(first: int, second: int) -> None:
    carry, digits = 0, ""
    for column in columns(first, second).split(","):
        match = re.fullmatch(r"(\d)\+(\d)\+([01])=(\d+)", column)
        assert match is not None and int(match[3]) == carry
        total = int(match[4])
        assert total == int(match[1]) + int(match[2]) + carry
        carry, digits = total // 10, str(total % 10) + digits
    assert int(str(carry) + digits) == first + second


def test_steps_are_scored_by_the_answer_after_them() -> None:
    problem = problems_of("addition", {"digits": 2, "working": True}).train(0)
    steps, _, answer = problem.solution.partition(";")
    for completion, note in (
        (f"{steps};{answer}", "right"),
        (f";{answer}", "right"),
        (answer, "no answer"),
        (steps, "no answer"),
        (f"{steps};1;{answer}", "no answer"),
        (f"{steps};0{answer}", "not an integer"),
        (f"{steps};{int(answer) + 1}", "wrong"),
    ):
        assert score(problem, completion, True, "plain").note == note


def test_countdown_problems_hold_their_bounds() -> None:
    problems = problems_of("countdown", {"numbers": 4, "largest": 7, "largest_target": 30}, seed=2)
    signs = ""
    for index in range(300):
        problem = problems.train(index)
        assert len(problem.numbers) == 4 and all(1 <= number <= 7 for number in problem.numbers)
        assert 1 <= int(problem.answer) <= 30 and "**" not in problem.solution
        assert problem.prompt == ",".join(map(str, problem.numbers)) + f"={problem.answer}:"
        signs += problem.solution
    assert all(signs.count(sign) > 30 for sign in "+-*/()")


@of_every_kind
@pytest.mark.parametrize("template", TEMPLATES)
def test_tokens(kind: str, chosen: dict[str, Any], template: Template, tokenizer: Tokenizer) -> None:
    problem = problems_of(kind, chosen).train(0)
    before, shown = prompt(tokenizer, problem, template), demonstration(tokenizer, problem, template)
    assert before[0] == tokenizer.bos_id and before.count(tokenizer.bos_id) == 1
    assert shown.ids[: len(before)] == before and shown.ids[-1] == tokenizer.eos_id
    assert shown.written == [False] * len(before) + [True] * (len(shown.ids) - len(before))
    completion = tokenizer.decode(shown.ids[len(before) : -1])
    assert EOS not in completion
    assert score(problem, completion, True, template).note == "right"
    assert right_form(completion).reward == float(template == "r1-zero")
    if template == "r1-zero":
        text = tokenizer.decode(before)
        assert (
            text.endswith(f"User: {problem.question} Assistant:")
            and "</answer> tags, respectively, i.e., <think>" in text
        )
        assert tokenizer.id_of("<think>") not in shown.ids  # tags are text


@of_every_kind
def test_hostile_completions(kind: str, chosen: dict[str, Any]) -> None:
    problem = problems_of(kind, chosen).train(1)
    for text in HOSTILE:
        for template in TEMPLATES:
            for completion in (text, f"<answer>{text}</answer>", f";{text}", f"{problem.solution};{text}"):
                assert score(problem, completion, True, template).reward == 0 or text == problem.answer


def test_draws_are_even() -> None:
    counts = [0] * 7
    for index in range(700):
        draw = Draw("0" * 64, 5, index, 0, False)
        for _ in range(10):
            counts[draw(7)] += 1
    assert all(850 < count < 1150 for count in counts)


@pytest.mark.parametrize(
    ("kind", "chosen", "words"),
    [
        ("adition", {}, "problems.kind = \"adition\": input should be 'addition', "),
        ("addition", {"digit": 2}, 'unknown key problems.digit .did you mean "digits"'),
        ("addition", {"digits": 7}, "problems.digits = 7"),
        ("addition", {"digits": "2"}, 'problems.digits = "2"'),
        ("addition", {"digits": True}, "problems.digits = true"),
        ("sums", {"numbers": 1}, "problems.numbers = 1"),
        ("countdown", {"numbers": 3, "largest": 0}, "problems.largest = 0"),
        ("countdown", {"digits": 1}, 'problems: digits goes with kind = "addition" or "sums", not "countdown"'),
        ("addition", {"numbers": 4}, 'numbers goes with kind = "sums" or "countdown", not "addition"'),
        ("sums", {"working": True}, 'working goes with kind = "addition", not "sums"'),
        ("sums", {"largest_target": 7}, 'largest_target goes with kind = "countdown", not "sums"'),
        ("addition", {"options": {}}, 'options goes with kind = "reasoning-gym"'),
        ("addition", {"seconds": 3}, 'seconds goes with kind = "code"'),
        ("reasoning-gym", {}, "needs dataset"),
        ("code", {}, "needs file"),
        ("addition", {"held_out_fraction": 1.0}, "held_out_fraction = 1.0"),
        ("addition", {"held_out_fraction": float("nan")}, "held_out_fraction"),
        ("addition", {"seed": -1}, "seed = -1"),
    ],
)
def test_refused_settings(kind: str, chosen: dict[str, Any], words: str, tmp_path: Path) -> None:
    base = parent(tmp_path / "base")
    with pytest.raises(UserError, match=words):
        child(base, problems={"kind": kind, **chosen}, grpo={})


def test_too_few_problems_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clearseek.problems.problems.MOST_TRIES", 300)
    with pytest.raises(UserError, match="too few exist"):
        problems_of("addition", {"digits": 1}, share=1e-9).held_out(0)
    with pytest.raises(UserError, match="ask for fewer"):
        problems_of("addition", {"digits": 1}).held_out_set(90)


def test_reasoning_gym() -> None:
    pytest.importorskip("reasoning_gym")
    problems = problems_of("reasoning-gym", {"dataset": "chain_sum", "options": {"max_terms": 3}}, seed=4)
    for index in range(30):
        problem = problems.train(index)
        assert problem == problems.train(index) and not problems.is_held_out(problem)
        assert problems.is_held_out(problems.held_out(index))
        for template in ("plain", "chat"):
            assert score(problem, problem.solution, True, template).note == "right"
            assert score(problem, f"{problem.solution} or so", True, template).reward == 0
    for settings_, words in (
        ({"dataset": "nothing"}, "nothing"),
        ({"dataset": "chain_sum", "options": {"terms": 3}}, "terms"),
        ({"dataset": "chain_sum", "options": {"min_terms": -1}}, "min_terms"),
    ):
        with pytest.raises(UserError, match=words):
            problems_of("reasoning-gym", settings_)
    with pytest.raises(UserError, match="too few exist"):
        problems_of("reasoning-gym", {"dataset": "spell_backward"}).train(0)


FINGERPRINT = "d269db6f69415b5034799d46cf91d58fd36e89dbd5c700d3b2c252bfecc243e5"
GOLDEN: dict[tuple[int, int], tuple[str, str]] = {
    (0, 0): ("78+78=", "156"),
    (0, 1): ("24+81=", "105"),
    (0, 9223372036854775807): ("39+48=", "87"),
    (2, 0): ("715+827=", "5+7+0=12,1+2+1=4,7+8+0=15;1542"),
    (2, 1): ("657+379=", "7+9+0=16,5+7+1=13,6+3+1=10;1036"),
    (2, 9223372036854775807): ("164+421=", "4+1+0=5,6+2+0=8,1+4+0=5;585"),
    (4, 0): ("39+93+71+85=", "288"),
    (4, 1): ("36+52+49+46=", "183"),
    (4, 9223372036854775807): ("64+91+66+21=", "242"),
    (5, 0): ("22,1,4=27:", "22+4+1"),
    (5, 1): ("15,13,13=41:", "15+13+13"),
    (5, 9223372036854775807): ("20,2,13=31:", "20+13-2"),
}
