"""A problem as tokens, in three forms, and where a completion of each has its answer.

========= ================================================ ==========================================
template  prompt                                           completion
========= ================================================ ==========================================
plain     the problem's short form                         solution
chat      the question, as DeepSeek-V3.1's chat            solution
r1-zero   R1-Zero's text (arXiv:2501.12948, table 1)       ``<think>…</think> <answer>…</answer>``
========= ================================================ ==========================================

Where a program is asked for, the answer is the program, or has it as its one block between fences.
A completion ends with the end-of-sequence token. Prompts end before ``<think>``: a policy writes the tag itself, as
plain text, since R1-Zero's tags are words that a base model is told to use.
"""

from __future__ import annotations

import json
import re
from typing import Literal

from clearseek.chat.render import Rendered, render
from clearseek.data.tokenizer import Tokenizer
from clearseek.problems.problems import Problem
from clearseek.problems.rewards import LONGEST_COMPLETION, Scored, after, answer_tag, countdown, exact_integer, scored
from clearseek.problems.sandbox import Call, Limits, code_reward

Template = Literal["plain", "chat", "r1-zero"]

R1_ZERO = (
    "A conversation between User and Assistant. The user asks a question, and the Assistant solves it. The assistant "
    "first thinks about the reasoning process in the mind and then provides the user with the answer. The reasoning "
    "process and answer are enclosed within <think> </think> and <answer> </answer> tags, respectively, i.e., <think> "
    "reasoning process here </think> <answer> answer here </answer>. User: {question} Assistant:"
)


_FENCED = re.compile(r"^```(?:python|py)?[ \t]*\n(.*?)^```[ \t]*$", re.M | re.S)


def prompt(tokenizer: Tokenizer, problem: Problem, template: Template) -> list[int]:
    """Ids of a prompt, beginning with BOS."""
    if template == "chat":
        return render(tokenizer, [{"role": "user", "content": problem.question}]).ids
    text = problem.prompt if template == "plain" else R1_ZERO.replace("{question}", problem.question)
    return [tokenizer.bos_id, *_encoded(tokenizer, text)]


def demonstration(tokenizer: Tokenizer, problem: Problem, template: Template) -> Rendered:
    """Ids of a prompt and of the problem's own solution, which alone counts as written."""
    if template == "chat":
        chat = [{"role": "user", "content": problem.question}, {"role": "assistant", "content": problem.solution}]
        return render(tokenizer, chat, prompt=False)
    before = prompt(tokenizer, problem, template)
    text = problem.solution if template == "plain" else _thought_first(problem)
    completion = [*_encoded(tokenizer, text), tokenizer.eos_id]
    return Rendered(before + completion, [False] * len(before) + [True] * len(completion), thinking=False)


def score(problem: Problem, completion: str, ended: bool, template: Template) -> Scored:
    """Reward of a completion: 1 for the right answer in the template's place for it, else 0.

    Args:
        problem: The problem.
        completion: Text after the prompt, without the end-of-sequence token.
        ended: Whether the model ended the completion itself; one that was cut gets 0.
        template: Form of the prompt. In ``"r1-zero"`` the answer is what the one pair of answer tags holds; its form
            has a reward of its own, :func:`clearseek.problems.rewards.right_form`.
    """
    if not ended:
        return scored("not ended")
    if len(completion) > LONGEST_COMPLETION:
        return scored("too long")
    answer = answer_tag(completion) if template == "r1-zero" else after(completion, problem.marker)
    if problem.seconds:
        return program(answer, problem.answer, problem.seconds)
    if problem.numbers:
        return countdown(answer, problem.numbers, int(problem.answer))
    return exact_integer(answer, int(problem.answer))


def program(answer: str | None, tests: str, seconds: int) -> Scored:
    """Reward 1 for a program whose calls all return what they should, run in a process of its own.

    Args:
        answer: The program, or a text with the program as its one block between fences; None for no answer.
        tests: JSON of calls with their values.
        seconds: Processor time; by the clock four times as much.
    """
    blocks = [] if answer is None else _FENCED.findall(answer)
    if answer is None or len(blocks) > 1:
        return scored("no answer")
    calls = [Call(*each) for each in json.loads(tests)]
    return code_reward(blocks[0] if blocks else answer, calls, Limits(seconds=4.0 * seconds, cpu_seconds=seconds))


def _thought_first(problem: Problem) -> str:
    """The solution's steps between tags for thoughts, or, without steps, the short form with its answer."""
    thought, _, answer = problem.solution.rpartition(problem.marker) if problem.marker else ("", "", problem.solution)
    return f" <think> {thought or problem.prompt + answer} </think> <answer> {answer} </answer>"


def _encoded(tokenizer: Tokenizer, text: str) -> list[int]:
    return tokenizer.encode_batch([text])[0]  # encode() would stop all threads
