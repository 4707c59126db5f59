"""Contenders of `time_to_loss.py`, each a process of its own: ``python contenders.py NAME FOLDER``."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from contest import TURNS, Clock, Contest, Logits, Setting, compilers  # before the libraries can print

import torch  # isort: skip
from dense_gpt import RATES, DenseGpt, Optimizer, shape_of
from torch import Tensor

from clearseek.config import ModelConfig, Recipe
from clearseek.counts import count_parameters
from clearseek.train.preflight import preflight
from clearseek.train.pretrain import PreTraining
from clearseek.train.step import NotFiniteError, Training

RATES_OF_OURS = ("learning_rate", "muon_learning_rate", "embedding_learning_rate")
"""Peak rates of our recipes; the last may be absent."""


class Contender(Protocol):
    """One way to train."""

    def facts(self) -> dict[str, Any]:
        """What is worth recording."""

    def settings(self) -> list[Setting]:
        """Settings that may be the fastest here."""

    def train(self, setting: Setting, steps: int, factor: float, seed: int, clock: Clock) -> None:
        """Train from fresh weights, with the peak rates times `factor`."""

    def evaluate(self) -> float:
        """Held-out bits per byte."""


class ClearSeek:
    """Our trainer's steps, of the recipe's model or of another."""

    def __init__(self, contest: Contest, model: ModelConfig) -> None:
        self.contest, self.recipe = contest, contest.recipe.model_copy(update={"model": model})

    def facts(self) -> dict[str, Any]:
        count = count_parameters(self.recipe.model)
        return {
            "parameters": count.total, "active": count.activated_without_embedding,
            "precision": str(self.contest.setup.precision.dtype).removeprefix("torch."),
            "model": self.recipe.model.model_dump(mode="json"),
            "peak_rates": {name: getattr(self.recipe.optimizer, name) for name in RATES_OF_OURS},
        }  # fmt: skip

    def settings(self) -> list[Setting]:
        sizes = {self.recipe.train.micro_batch_size or self.contest.batch, self.contest.batch}
        kernels = ("auto", "compile") if compilers() else ("auto",)
        return [{"micro_batch_size": size, "kernels": each} for size in sorted(sizes) for each in kernels]

    def train(self, setting: Setting, steps: int, factor: float, seed: int, clock: Clock) -> None:
        o, raw = self.recipe.optimizer, self.recipe.model_dump(mode="json")
        raw["optimizer"] |= {name: factor * rate for name in RATES_OF_OURS if (rate := getattr(o, name)) is not None}
        raw["data"]["seed"] = raw["train"]["seed"] = seed
        raw["train"] |= setting | {"steps": steps, "eval_every": 0, "hash_every": steps + 1, "lanes": None}
        recipe = Recipe.model_validate(raw)
        self.training = Training(recipe, PreTraining(recipe, self.contest.data, checked=True), preflight(recipe))
        clock.begin()
        for _ in range(steps):
            self.training.advance()
            clock.step()

    def evaluate(self) -> float:
        return self.contest.bits(self.training.model)


def twin(model: ModelConfig) -> ModelConfig:
    """The same model without experts, and with as many active parameters."""
    wanted = count_parameters(model).activated_without_embedding
    dense = model.model_copy(update={"first_k_dense_replace": model.num_hidden_layers})
    widths = [dense.model_copy(update={"intermediate_size": width}) for width in range(8, 8192, 8)]
    return min(widths, key=lambda each: abs(count_parameters(each).activated_without_embedding - wanted))


class Nanochat:
    """A dense GPT of as many active parameters as our model has."""

    def __init__(self, contest: Contest) -> None:
        self.contest = contest
        self.shape = shape_of(contest.active, contest.vocabulary, contest.recipe.model.num_hidden_layers)
        self.model = DenseGpt(self.shape, contest.length)
        self._compiled: Callable[..., Tensor] | None = None

    def facts(self) -> dict[str, Any]:
        everything = sum(parameter.numel() for parameter in self.model.parameters())
        return {"parameters": everything, "active": self.shape.active, "peak_rates": RATES,
                "model": vars(self.shape)}  # fmt: skip

    def settings(self) -> list[Setting]:
        compiled = (False, True) if compilers() else (False,)
        types = ("float32", "bfloat16") if self.contest.bf16 else ("float32",)
        return [{"precision": each, "compiled": how} for each in types for how in compiled]

    def train(self, setting: Setting, steps: int, factor: float, seed: int, clock: Clock) -> None:
        self.model.initialise(seed)
        if setting["compiled"] and self._compiled is None:
            self._compiled = torch.compile(self.model, dynamic=False)
        call = self._compiled if setting["compiled"] and self._compiled is not None else self.model
        narrow = setting["precision"] == "bfloat16"
        optimizer = Optimizer(self.model, factor, steps, torch.bfloat16 if narrow else torch.float32)
        clock.begin()
        for number, tokens in zip(range(steps), self.contest.batches(seed), strict=False):
            with torch.autocast("cpu", torch.bfloat16, enabled=narrow):
                loss = call(tokens[:, :-1], tokens[:, 1:])
            loss.backward()
            optimizer.step(number)
            clock.step(loss.item())

    def evaluate(self) -> float:
        return self.contest.bits(Logits(self.model.logits))


def contender(name: str, contest: Contest) -> Contender:
    """A contender by its name."""
    model = contest.recipe.model
    if name == "clearseek":
        return ClearSeek(contest, model)
    if name == "dense twin":
        return ClearSeek(contest, twin(model))
    if name == "dense gpt":
        return Nanochat(contest)
    from peer_trainer import Transformers

    return Transformers(contest)


def serve(one: Contender) -> None:
    """Do what is asked, until nothing more is."""
    TURNS.hello(**one.facts(), torch=torch.__version__, threads=torch.get_num_threads(), settings=one.settings())
    while (request := TURNS.wait()) is not None:
        if request["do"] == "evaluate":
            TURNS.done(bpb=one.evaluate())
            continue
        clock, finite = Clock(), True
        try:
            one.train(request["setting"], request["steps"], request["factor"], request["seed"], clock)
        except NotFiniteError:
            finite = False
        TURNS.done(finished=True, finite=finite, steps=len(clock.times), seconds=sum(clock.times), times=clock.times)


if __name__ == "__main__":
    serve(contender(sys.argv[1], Contest(Path(sys.argv[2]))))
