"""What a program is for, by what it does: train a model, define, run or score one, prepare data for one.

Each deed is a statement about calls, classes and commands (:mod:`clearseek.reading.program`), so that any names of
files and variables serve. Training, for example, is taking gradients and stepping an optimiser, or handing both to a
trainer of a library, or starting a program that does. The names to know are in ``deeds.toml``.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from clearseek.reading.program import Call, Program
from clearseek.reading.words import words

_TABLE: Final = tomllib.loads(Path(__file__).with_suffix(".toml").read_text("utf-8"))
WORDS: Final = {name: frozenset(text.split()) for name, text in _TABLE.items()}
_GOES_ON: Final = {"--model_name_or_path", "--base_model", "--finetune", "--use_lora"}
TUNING: Final = "it goes on from weights that are there: fine-tuning"
DEMONSTRATION: Final = "a demonstration of training, by its name"


@dataclass(frozen=True, slots=True)
class Deed:
    """Something that a file does."""

    how: str = ""
    """How, in words, where there are several ways."""
    lack: str = ""
    """What is missing or different, in words, where it counts only in part."""
    launches: bool = False
    """Whether it has another program do it."""
    at: Call | None = None
    """The call that does it, where it is one."""

    @property
    def told(self) -> str:
        """All that is to be said, in words."""
        return "; ".join(each for each in (self.how, self.lack) if each)


def has(name: str, *lists: str) -> bool:
    """Whether a name or path has a word of these lists in it; fine-tuning is written in two words, too."""
    found = words(name)
    if "fine" in found and found & {"tune", "tuner", "tuning"}:
        found |= {"finetune"}
    return any(found & WORDS[each] for each in lists)


def _roots(names: Iterable[str]) -> set[str]:
    """The packages of modules and commands."""
    return {re.split(r"[./]", each.lstrip(".-"))[0].lower().replace("-", "_") for each in names}


def training(program: Program, path: str, here: frozenset[str]) -> Deed | None:
    """How a file trains a model: in its own loop, through a library's trainer, or by starting a program that does.

    Args:
        program: The file, taken apart.
        path: Its path.
        here: Names of the release's files, among which a program that it starts may be.
    """
    folders, _, base = path.rpartition("/")
    if (has(base, "not_model") and not has(base, "train")) or has(folders, "beside"):
        return None
    lack = TUNING if tuning(program, path) else DEMONSTRATION if has(path, "demonstrates") else ""
    if step := _loop(program):
        return Deed("a training loop", lack, at=step)
    if call := next((call for call in program.calls if _fits(call, program, base)), None):
        return Deed("calls a library's trainer", lack, True, call)
    runs = _roots(program.imports) & WORDS["frameworks"] - WORDS["libraries"]
    if runs and has(base, "train") and any(call.last in ("main", "run", "train") for call in program.calls):
        return Deed(f"runs {sorted(runs)[0]}", lack, True)
    starts = [start for command in program.commands if (start := _started(command, here))]
    starts.sort(key=lambda start: not start[1])
    return Deed(f"starts {starts[0][0]}", lack or "which is not here" * (not starts[0][1]), True) if starts else None


def serves(command: tuple[str, ...]) -> bool:
    """Whether a command starts a program of others that answers with a model."""
    return not WORDS["servers"].isdisjoint(re.split(r"[./]", word.lower())[0] for word in command[:3])


def trains_by_name(name: str) -> bool:
    """Whether a repository is called after a framework of training, or after training."""
    return has(name, "train") or not words(name).isdisjoint(WORDS["frameworks"])


def _loop(program: Program) -> Call | None:
    """The step of a training loop: gradients are taken, and an optimiser, or a line written by hand, uses them."""
    taken = {call.owner for call in program.calls if call.last in WORDS["gradients"] or "backward" in words(call.last)}
    for call in program.calls:
        named = " ".join((call.name, call.maker, *call.given))
        both = call.last in WORDS["both"] and (taken or has(named, "optimiser"))
        steps = taken and words(call.last) & WORDS["steps"] and (
            has(named, "optimiser") or (call.owner in taken and not call.given))  # fmt: skip
        by_hand = taken and call.last in WORDS["subtracts"] and has(" ".join(call.given), "rate")
        if both or steps or by_hand or call.last in WORDS["whole_step"]:
            return call
    return None


def _fits(call: Call, program: Program, base: str) -> bool:
    """Whether a call hands the model to a trainer of a library, or makes one with all that it needs."""
    owner = f"{call.owner} {call.maker}"
    if has(owner, "not_model"):
        return False
    if has(owner, "trainer") and call.last in WORDS["fits"]:
        return True
    if has(call.last, "trainer") and call.last[:1].isupper() and call.keys & WORDS["trains_with"]:
        return True
    if "estimator" in words(owner):
        return call.last.startswith("train")
    if call.last == "fit":
        return bool(call.keys & WORDS["fits_with"]) or any(
            each.owner == call.owner and each.last == "compile" and each.keys & {"optimizer", "loss"}
            for each in program.calls)  # fmt: skip
    root, _, rest = call.name.partition(".")
    verb = re.match(r"[a-z]*", call.last)
    assert verb is not None
    trains = has(verb[0], "train") or (verb[0] in ("run", "main", "launch") and has(f"{rest} {base}", "train"))
    return root in WORDS["frameworks"] and trains


def _started(command: tuple[str, ...], here: frozenset[str]) -> tuple[str, bool] | None:
    """The program that trains and that a command starts, if it is not here, and whether anybody can have it."""
    tool = command[0].rpartition("/")[2].lower().replace("-", "_")
    if tool in WORDS["no_start"]:
        return None
    if tool.removesuffix("_cli") in WORDS["frameworks"] or tool.startswith("fairseq_"):
        return (command[0], True) if has(" ".join(command[1:4]), "train") or has(tool, "train") else None
    for before, word in zip(("", *command), command, strict=False):
        module = before == "-m" and word.partition(".")[0] not in ("torch", "accelerate", "deepspeed", "paddle")
        if not module and (not word.endswith(".py") or word.startswith("-")):
            continue
        parts = re.split(r"[/.]", word.removesuffix(".py"))
        named = word if module else parts[-1]
        if not has(named, "train") or has(named, "not_model") or f"{parts[-1]}.py" in here:  # that speaks for itself
            return None
        return word, parts[-1].lower() in WORDS["scripts"] or not WORDS["frameworks"].isdisjoint(parts)
    return None


def tuning(program: Program, path: str) -> bool:
    """Whether a file that trains goes on from weights that are there, as fine-tuning does."""
    if "pretrain" in path.lower():
        return False
    if has(path, "tunes") or _roots(program.imports) & {"trl", "trlx", "peft"}:
        return True
    anew = [any(not _loads(each) for each in makers) for makers in program.makers.values() if any(map(_loads, makers))]
    if any(_loads(call.name) for call in program.calls) and not (anew and all(anew)):
        return True
    return any(not _GOES_ON.isdisjoint(command) for command in program.commands)


def started_from_weights(programs: Iterable[Program]) -> set[str]:
    """Names of the programs that others start on weights which are there."""
    commands = (command for each in programs for command in each.commands if not _GOES_ON.isdisjoint(command))
    return {word.rpartition("/")[2] for command in commands for word in command if word.endswith(".py")}


def _loads(name: str) -> bool:
    """Whether a call loads weights with a library's class; a class of the release itself may begin from nothing."""
    owner, _, last = name.rpartition(".")
    library = owner.partition(".")[0] in ("transformers", "diffusers", "unsloth", "peft", "trl") or "Auto" in owner
    return last == "from_pretrained" and library and not has(owner, "no_weights")


def base(program: Program) -> str:
    """The model, by its name on a hub, that a file starts from; empty where it names none."""
    loaded = [call.given[0] for call in program.calls if _loads(call.name) and call.given]
    keys = ("model_name_or_path", "base_model", "model_name", "model_id", "pretrained_model_name_or_path", "model")
    named = [program.settings.get(key, "") for key in keys]
    return next((each for each in (*loaded, *named) if re.fullmatch(r"[\w-]{2,60}/[\w.-]{2,90}", each)), "")


def architecture(program: Program, path: str) -> Deed | None:
    """Whether a file defines a model: classes or functions with layers of parameters, and a way through them."""
    folders, _, base = path.rpartition("/")
    if has(folders, "beside", "aside") or has(base, "not_architecture"):
        return None
    last = [call.last for call in program.calls]
    if any(has(base.rpartition(".")[2], "modules") for bases in program.classes.values() for base in bases):
        layers = sum(1 for each in last if each in WORDS["layers"] or each in program.classes)
        ways = program.functions & {"forward", "__call__", "call", "construct", "apply"}
        if layers >= 3 and ways:
            return Deed()
    if sum(1 for each in last if each in WORDS["layers"]) >= 3 and WORDS["chains"].intersection(last):
        return Deed()
    variables = sum(1 for each in last if each in ("get_variable", "param", "get_parameter"))
    foreign = sum(1 for each in program.functions if each.endswith("_forward"))
    return Deed() if max(variables, foreign) >= 3 else None


def inference(program: Program, path: str = "") -> Deed | None:
    """Whether a file runs a model: chooses tokens or steps of its own, or loads one and has it answer."""
    if words(path) & (WORDS["chooses"] | WORDS["aside"]) - WORDS["runs"]:
        return None  # it works on texts
    last = {call.last for call in program.calls if call.owner not in WORDS["formats"]}
    if last & WORDS["choices"] and any(has(name, "runs") for name in program.functions):
        return Deed()
    asks = any(has(call.last, "runs") and not words(call.owner) & {"tokenizer", "processor", "random", "rng"} and
               call.last not in ("sample", "decode") for call in program.calls)  # fmt: skip
    return Deed() if last & WORDS["loads"] and (asks or last & {"pipe", "pipeline"}) else None


def evaluation(program: Program, path: str) -> Deed | None:
    """Whether a file scores a model: with a harness, or with functions of its own."""
    if _roots((*program.imports, *(word for each in program.commands for word in each[:8]))) & WORDS["harnesses"]:
        return Deed("a harness that is public")
    names = (*program.functions, *(call.last for call in program.calls))
    validates = any(call.last in ("validate", "evaluate") and has(call.owner, "trainer") for call in program.calls)
    if has(path, "aside", "speed") or not (
            validates or (has(path, "scoring") and any(has(name, "scores") for name in names))):  # fmt: skip
        return None
    told = {
        part for name in (path, *names, *program.settings.values()) for part in re.split(r"[^a-z0-9]+", name.lower())
    }
    asked = told & WORDS["benchmarks"] or any(has(name, "benchmarks") for name in (path, *names))
    return Deed(lack="" if asked else "it names no benchmark") if asked or not validates else None


def preparation(program: Program, path: str) -> Deed | None:
    """Whether a file makes training data: with a toolkit for that, or by writing what it makes of texts.

    Code that fetches texts and brings them into the form for training made data only in part; what loads them while
    a model trains, or rewards its answers, made none.
    """
    folders = words(path.rpartition("/")[0])
    if folders & (WORDS["beside"] | WORDS["aside"]) - WORDS["prepares"] or has(path, "rewards"):
        return None
    last = {call.last for call in program.calls}
    library = program.classes and not last & WORDS["starts"]
    loads = any(has(base, "loaders") for bases in program.classes.values() for base in bases)
    if library and loads:
        return None
    if _roots(program.imports) & WORDS["toolkits"]:
        return Deed()
    if not has(path, "prepares") or (library and not has(path, "chooses")) or last & WORDS["of_weights"]:
        return None
    writing = next((call for call in program.calls if call.last in WORDS["writes"] or has(call.last, "writes")), None)
    if writing is None or not any(has(each, "makes") for each in last | program.functions):
        return None
    chosen = has(path, "chooses") or (not loads and any(has(name, "chooses") for name in program.functions))
    lack = "" if chosen else "it brings texts into the form for training, and chooses or cleans none"
    return Deed(lack=lack, at=writing)
