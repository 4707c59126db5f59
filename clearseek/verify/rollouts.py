"""Published completions checked: who drew them, from what, and what they were rewarded with.

A run that learns from its own completions publishes them, a file a round. Of every file: the transcript states its
hash; problems, prompts and seeds are functions of recipe and round, and are compared; rewards are given again. And of
rounds whose weights are here, of the parent or a checkpoint, every draw is recomputed by one pass
(:mod:`clearseek.verify.forced`), which costs less than to write the completions again, and does not need the machine to
have the same bits.
"""

from __future__ import annotations

import re

import torch

from clearseek.audit import questions as ask
from clearseek.audit.evidence import Grade, Row
from clearseek.config import ModelConfig
from clearseek.posttrain.rollouts import ROUNDS, Rollouts, Writer, round_file
from clearseek.reading.evidence import Evidence, amount
from clearseek.sysfiles import system_file
from clearseek.train.checkpoints import checkpoint
from clearseek.verify.children import published_round
from clearseek.verify.draws import Judged
from clearseek.verify.forced import check_draws
from clearseek.verify.replay import Replay
from clearseek.verify.rows import attempted

_FILE = re.compile(r"round-(\d{8})\.safetensors")
DECIDED = 0.999
"""Share of draws that rounding must leave decided for the record to count as made again."""


def rollouts_row(replay: Replay) -> Row:
    """Row of a run's published completions."""
    place = Evidence(f"training/{ROUNDS}/")
    return attempted(ask.VERIFY_ROLLOUTS, lambda: _rollouts(replay, place), place)


def _rollouts(replay: Replay, place: Evidence) -> Row:
    release, question = replay.release, ask.VERIFY_ROLLOUTS
    folder = release.run.root / ROUNDS
    names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    found = [int(match[1]) for name in names if (match := _FILE.fullmatch(name))]
    strange = [number for number in found if number not in release.stated_rounds]
    if strange:
        return question.no(Grade.CLAIMED, f"there was no round {strange[0]} by the transcript", place)
    if other := [name for name in names if not _FILE.fullmatch(name) and not system_file(name)]:
        return question.no(Grade.CLAIMED, f"{other[0]} is no round", place)
    if not found:
        return question.unknown(Grade.ABSENT, "the completions are not in the release", place)
    task = replay.task
    assert isinstance(task, Writer)
    passed, judged = 0, Judged()
    for number in found:
        rollouts = published_round(release.run, number, release.stated_rounds[number])
        if wrong := _not_its_address(task, release.recipe.model, number, rollouts):
            return question.no(Grade.CLAIMED, f"round {number}: {wrong}", _file(replay, number))
        step = number * task.updates
        if step in release.steps and (step > release.begin or checkpoint.steps(replay.run.parent)):
            device = str(release.environment.get("device"))
            judged.add(check_draws(replay.at(step).model, rollouts, task.drawing, device))
            passed += 1
        if judged.wrong:
            more = f"; {len(judged.wrong) - 1} more" if len(judged.wrong) > 1 else ""
            return question.no(Grade.CLAIMED, f"round {number}: {judged.wrong[0]}{more}", _file(replay, number))
    right = "problems, prompts, seeds and rewards" if release.recipe.grpo is not None else "prompts and seeds"
    reason = f"of {amount(len(release.stated_rounds), 'round')} {len(found):,} are here, with the hashes of the "
    reason += f"transcript, and their {right} are right"
    return _found(reason, len(release.stated_rounds), len(found), passed, judged, place)


def _found(reason: str, every: int, here: int, passed: int, judged: Judged, place: Evidence) -> Row:
    """Row of completions without a contradiction; nothing is decided of rounds that are not here."""
    question = ask.VERIFY_ROLLOUTS
    if not passed:
        reason += "; the weights of none are here, so no draw was made again"
        return question.unknown(Grade.CHECKED, reason, place)
    reason += f"; the draws of {passed:,} of them, {judged.draws:,} tokens, were made again in one pass each: "
    reason += f"{judged.undecided:,} undecided"
    if judged.close:
        reason += f"; {judged.close:,} of {judged.choices:,} choices of experts are as close as rounding"
    if here < every or judged.undecided > (1 - DECIDED) * judged.draws:
        return question.unknown(Grade.CHECKED, reason, place)
    return question.yes(Grade.REEXECUTED if passed == every else Grade.CHECKED, reason, place)


def _file(replay: Replay, number: int) -> Evidence:
    return Evidence(f"training/{ROUNDS}/{round_file(replay.release.run.root, number).name}")


def _not_its_address(task: Writer, model: ModelConfig, number: int, rollouts: Rollouts) -> str:
    """First contradiction between a record and what recipe and round say of it, in words; else empty."""
    problems, prompts, prompt_N, seeds = task.asked(number)
    if len(rollouts) != len(seeds):
        return f"{amount(len(rollouts), 'completion')}, and the recipe asks for {len(seeds)}"
    pairs = zip(rollouts.problem_N.tolist(), rollouts.seed_N.tolist(), prompt_N, seeds, strict=True)
    for k, (problem, seed, asked, own) in enumerate(pairs):
        if problem != problems[asked]:
            return f"completion {k} is of problem {problem}, and the recipe asks for {problems[asked]}"
        if seed != own:
            return f"completion {k} was drawn with seed {seed}, and its address gives {own}"
    vocabulary, experts = model.vocab_size, model.n_routed_experts
    if int(rollouts.token_T.min()) < 0 or int(rollouts.token_T.max()) >= vocabulary:
        return "a token is not in the vocabulary"
    layers = sum(map(model.is_moe_layer, range(model.num_hidden_layers)))
    route_LTK = rollouts.route_LTK
    if route_LTK.shape[0] != layers or (layers and route_LTK.shape[2] != model.num_experts_per_tok):
        return "the experts are not those of the model's layers"
    if route_LTK.numel() and not 0 <= int(route_LTK.min()) <= int(route_LTK.max()) < experts:
        return "there is no such expert"
    if bool((rollouts.drawn_n > task.drawing.max_tokens).any()):
        return f"a completion is longer than max_tokens = {task.drawing.max_tokens}"
    return _not_its_text(task, rollouts, [prompts[k] for k in prompt_N])


def _not_its_text(task: Writer, rollouts: Rollouts, prompts: list[list[int]]) -> str:
    """As :func:`_not_its_address`, of prompts, ends and rewards."""
    (end,), rewards, most = task.drawing.stop_tokens, task.rewards(rollouts), task.drawing.max_tokens
    written = zip(rollouts.token_T.split(rollouts.length_N.tolist()), rollouts.completions(), prompts, strict=True)
    for k, (tokens, drawn, prompt) in enumerate(written):
        if tokens[: int(rollouts.prompt_N[k])].tolist() != prompt:
            return f"completion {k} has another prompt than its problem"
        if bool(rollouts.ended_N[k]) != (drawn[-1] == end) or end in drawn[:-1]:
            return f"completion {k} does not end where its tokens say"
        if drawn[-1] != end and len(drawn) < most:
            return f"completion {k} was cut off before max_tokens = {most}"
        if not torch.equal(rollouts.reward_N[k], rewards[k]):
            return f"completion {k} earns {float(rewards[k]):g}, and the record says {float(rollouts.reward_N[k]):g}"
    return ""
