"""The ladder: from a random model to one that reasons right, in DeepSeek-R1's order (arXiv 2501.12948, section 2.3).

======== ============================================================================ =========================
rung     what is done                                                                 in R1
======== ============================================================================ =========================
base     pre-training on text                                                         DeepSeek-V3-Base
start    a cold start: fine-tuning on answers, stopped early                          section 2.3.1
grpo     reinforcement learning with checked answers                                  section 2.3.2
student  the policy answers, wrong answers are thrown away, and the *base* learns     sections 2.3.3 and 2.4
         the right ones (rejection sampling)
======== ============================================================================ =========================

A rung is a run folder, made by a shipped recipe, and names its parent and teacher by the hashes of their weights. So
the ladder keeps no state of its own: what is done follows from the folders. ``ladder.json`` holds what only this
module measures, pass@1 and pass@16 of each rung on the same held-out problems.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from clearseek.config import ParentConfig, Recipe
from clearseek.data.manifest import canonical_sha256
from clearseek.data.tokenizer import Tokenizer
from clearseek.errors import UserError, nearest
from clearseek.files import reading, write_atomic
from clearseek.jsontext import strict_json
from clearseek.posttrain.grpo import PolicyOptimisation
from clearseek.posttrain.material import Exercises
from clearseek.posttrain.pictures import Column, ladder_picture
from clearseek.posttrain.samples import chosen_rounds, shown, table_of
from clearseek.posttrain.solved import PASS, measure, measure_at_k, pass_at
from clearseek.posttrain.texts import TEXTS, read_texts
from clearseek.problems.questions import Questions, questions_of
from clearseek.recipe import load_recipe
from clearseek.train.run import Run
from clearseek.train.transcript import check_transcript, last_line

SAMPLES = 16
"""Completions of a held-out problem, for pass@16."""
LOG, REPORT, PICTURE = "ladder.json", "ladder.md", "ladder.png"
_WEIGHTS, _BY = "weights_sha256", "measured_by"
_NUMBERS = ("steps", "seconds", *(f"{name}{end}" for name in (PASS, pass_at(SAMPLES)) for end in ("", "_low", "_high")))

Log = dict[str, dict[str, Any]]
"""What is known of the rungs that were measured, by name: hash of the weights, steps, seconds, shares solved."""


@dataclass(frozen=True)
class Rung:
    """A run of the ladder."""

    name: str
    """Name of its folder."""
    parent: str | None = None
    """Rung whose weights it begins with."""
    teacher: str | None = None
    """Rung whose answers it learns."""

    @property
    def recipe(self) -> str:
        """Name of its shipped recipe."""
        return f"ladder-{self.name}"


RUNGS = (Rung("base"), Rung("start", "base"), Rung("grpo", "start"), Rung("student", "base", "grpo"))
"""The rungs, from the first; a parent or teacher comes before those that need it."""


def recipes_of(out: Path, overrides: Sequence[str] = ()) -> dict[str, Recipe]:
    """Recipes of all rungs by name, with parents and teachers in the folder `out`.

    Args:
        out: Folder of the rungs' run folders.
        overrides: ``rung.table.key=value`` strings.

    Raises:
        UserError: an unknown rung, what :func:`clearseek.recipe.load_recipe` refuses, or rungs with different problems.
    """
    changes = _by_rung(overrides)
    base = _loaded(RUNGS[0], changes, None)
    dimensions = base.model.model_dump(mode="json")
    found = {RUNGS[0].name: base}
    for rung in RUNGS[1:]:
        found[rung.name] = _placed(_loaded(rung, changes, dimensions), out, rung)
    problems = {name: recipe.problems for name, recipe in found.items() if recipe.problems is not None}
    for name, each in problems.items():
        if each != problems["grpo"]:
            raise UserError(
                f"--set: the rungs {name} and grpo have different [problems]: set them alike in start, grpo and student"
            )
    return found


def _loaded(rung: Rung, changes: Mapping[str, Sequence[str]], dimensions: dict[str, Any] | None) -> Recipe:
    """A rung's recipe with its changes, and with a parent of these dimensions."""
    try:
        return load_recipe(rung.recipe, changes[rung.name], None if dimensions is None else lambda _: dimensions)
    except UserError as error:
        raise UserError("\n".join(f"rung {rung.name}: {line}" for line in str(error).split("\n"))) from None


def _by_rung(overrides: Sequence[str]) -> dict[str, list[str]]:
    changes: dict[str, list[str]] = {rung.name: [] for rung in RUNGS}
    for override in overrides:
        name, _, rest = override.partition(".")
        name, key = name.strip(), rest.partition("=")[0].replace(" ", "")
        if name not in changes:
            raise UserError(
                f"--set {override}: no rung {name!r}{nearest(name, changes)}: write it as RUNG.table.key=value, with "
                f"one of {', '.join(changes)}"
            )
        if key in ("parent.path", "distil.teacher"):
            raise UserError(f"--set {override}: the ladder decides which model a rung begins with: choose an --out")
        changes[name].append(rest)
    return changes


def _placed(recipe: Recipe, out: Path, rung: Rung) -> Recipe:
    """The recipe with its parent and teacher in the folder `out`."""
    assert recipe.parent is not None and rung.parent is not None
    update: dict[str, Any] = {"parent": ParentConfig(path=str(out / rung.parent), sha256=recipe.parent.sha256)}
    if rung.teacher is not None:
        assert recipe.distil is not None
        update["distil"] = recipe.distil.model_copy(update={"teacher": str(out / rung.teacher)})
    return recipe.model_copy(update=update)


def state_of(out: Path, rung: Rung, recipes: Mapping[str, Recipe], log: Log) -> Literal["begin", "resume", "done"]:
    """What there is to do for a rung whose earlier ones are done; to go on with a finished one only measures it.

    Raises UserError where its folder holds a run of other settings, or one that began with other weights than the
    earlier rungs have.
    """
    run, recipe, by = Run(out / rung.name), recipes[rung.name], _measured_by(recipes)
    if not run.begun:
        return "begin"
    again = "delete its folder and those of later rungs, or choose another --out"
    if _placed_alike(run.read_recipe(), out, rung) != recipe:
        raise UserError(f"{run.root}: a run of other settings: {again}")
    for other, record in ((rung.parent, run.read_parent()), (rung.teacher, run.read_teacher())):
        if other is not None and (record or {}).get(_WEIGHTS) != weights_of(Run(out / other)):
            raise UserError(f"{run.root}: it began with other weights than those of {out / other}: {again}")
    entry = log.get(rung.name, {})
    numbers = all(isinstance(entry.get(name), (int, float)) for name in _NUMBERS)
    return "done" if numbers and (entry.get(_WEIGHTS), entry.get(_BY)) == (weights_of(run), by) else "resume"


def _placed_alike(recipe: Recipe, out: Path, rung: Rung) -> Recipe:
    """A recorded recipe as if the ladder's folder had been `out`: it may have been moved, or named otherwise."""
    matches = recipe.parent is not None and (rung.teacher is None or recipe.distil is not None)
    return _placed(recipe, out, rung) if rung.parent is not None and matches else recipe


def weights_of(run: Run) -> str | None:
    """SHA-256 of a run's weights in its last recorded step, or None where that is not hashed."""
    record = last_line(run.transcript).record
    return None if record is None else record.weights_sha256


def _measured_by(recipes: Mapping[str, Recipe]) -> str:
    """Hash of all that decides what is measured of weights."""
    recipe = recipes["grpo"]
    assert recipe.problems is not None and recipe.grpo is not None
    problems = recipe.problems.model_dump(mode="json")
    return canonical_sha256([problems, recipe.grpo.evaluate_problems, recipe.grpo.max_tokens, recipe.data.seed])


def measure_rung(out: Path, rung: Rung, recipes: Mapping[str, Recipe]) -> dict[str, Any]:
    """Shares of held-out problems that a finished rung solves, with one completion and with :data:`SAMPLES`.

    The problems, their number and the first completions are those that the grpo rung measures itself by.
    """
    grpo, run = recipes["grpo"], Run(out / rung.name)
    assert grpo.grpo is not None
    questions, (model, _) = _questions(run, grpo), run.load_model()
    problems, longest, seed = questions.held_out(grpo.grpo.evaluate_problems), grpo.grpo.max_tokens, grpo.data.seed
    once = measure(model, questions, problems, longest, seed)
    return {_BY: _measured_by(recipes), **once, **measure_at_k(model, questions, problems, SAMPLES, longest, seed)}


def _questions(run: Run, recipe: Recipe) -> Questions:
    return questions_of(recipe, Tokenizer.load(run.tokenizer))


def read_log(out: Path) -> Log:
    """What ``ladder.json`` says; nothing where there is no such file. Raises UserError where it is damaged."""
    file = out / LOG
    with reading(file):
        if not file.exists():
            return {}
        log = strict_json(file.read_bytes(), str(file))
    if not all(map(_is_entry, log.values())):
        raise UserError(f"{file}: damaged: delete it; the rungs are measured again")
    return log


def _is_entry(entry: Any) -> bool:
    """Whether a value is what is known of a rung: an object, whose figures are numbers where it has them."""
    if not isinstance(entry, dict):
        return False
    figures = [entry[name] for name in _NUMBERS if name in entry]
    return all(type(each) in (int, float) and math.isfinite(each) for each in figures)


def write_log(out: Path, log: Log) -> None:
    """Write ``ladder.json``."""
    write_atomic(out / LOG, json.dumps(log, indent=1) + "\n")


def kept_answers(out: Path, recipe: Recipe) -> tuple[int, int] | None:
    """How many answers the finished student's teacher wrote, and how many were right, one of each problem.

    None for a `recipe` of the student that learns something else.
    """
    run = Run(out / "student")
    if recipe.distil is None or not recipe.distil.correct:
        return None
    lines = read_texts(run.teacher / TEXTS)
    return len(lines), len(Exercises(recipe, run.parent).solved(lines))


def rows(log: Log) -> list[tuple[str, ...]]:
    """The table of the rungs that were measured: a heading, then a row each."""
    found: list[tuple[str, ...]] = [("rung", "steps", "seconds", "pass@1", f"pass@{SAMPLES}")]
    for name, entry in ((rung.name, log[rung.name]) for rung in RUNGS if rung.name in log):
        found.append((name, f"{entry['steps']:,}", f"{entry['seconds']:.0f}", *shares_of(entry)))
    return found


def shares_of(entry: Mapping[str, Any]) -> tuple[str, str]:
    """What a measured rung solves with one completion and with :data:`SAMPLES`, in per cent with intervals."""
    return _share(entry, PASS), _share(entry, pass_at(SAMPLES))


def _share(entry: Mapping[str, Any], name: str) -> str:
    """A share in per cent with its interval."""
    value, low, high = (100 * entry[key] for key in (name, f"{name}_low", f"{name}_high"))
    return f"{value:.1f} % ({low:.1f} to {high:.1f})"


def write_report(out: Path, recipes: Mapping[str, Recipe], log: Log) -> None:
    """Write ``ladder.md`` and ``ladder.png`` of a complete ladder."""
    grpo, run, answers = recipes["grpo"], Run(out / "grpo"), kept_answers(out, recipes["student"])
    assert grpo.grpo is not None
    lines = ["# The ladder", "", *_table(rows(log)), ""]
    lines += [
        f"Shares of {grpo.grpo.evaluate_problems:,} held-out problems that are solved at temperature 1, with intervals "
        f"of 95 %: by one completion, and by at least one of {SAMPLES}. Seconds are of training, with its own "
        "evaluations.", "",
    ]  # fmt: skip
    if answers is not None:
        written, kept = answers
        lines += [f"Of {written:,} answers by grpo the student learnt {kept:,}: right ones, one of each problem.", ""]
    lines += ["Completions below are different answers to four training problems of a round.", ""]
    lines += [f"![rewards, shares solved and completions]({PICTURE})", ""]
    lines += [f"- **{rung.name}** {log[rung.name][_WEIGHTS]}: {recipes[rung.name].description}" for rung in RUNGS]
    questions, records = _questions(run, grpo), check_transcript(run.transcript).steps
    task, count = PolicyOptimisation(grpo, run, questions), -(-len(records) // grpo.grpo.updates)
    columns = []
    for number, rollouts in chosen_rounds([task.file_of(number) for number in range(count)]):
        share, reward = 100 * number / max(1, count - 1), float(rollouts.reward_N.mean())
        lines += ["", f"## Completions at {share:.0f} % of grpo: mean reward {reward:.3f}", ""]
        lines += table_of(rollouts, questions)
        columns.append(Column(f"at {share:.0f} %: reward {reward:.2f}", tuple(shown(rollouts, questions))))
    shares = {rung.name: [log[rung.name][f"{PASS}{end}"] for end in ("", "_low", "_high")] for rung in RUNGS}
    ladder_picture(records, PASS, shares, columns, out / PICTURE)
    write_atomic(out / REPORT, "\n".join(lines) + "\n")


def _table(cells: Sequence[Sequence[str]]) -> list[str]:
    """A table in Markdown."""
    head, *rest = (f"| {' | '.join(row)} |" for row in cells)
    return [head, "|" + "---|" * len(cells[0]), *rest]
