"""Every setting of a run, in one place.

A *recipe* is one TOML file with tables such as ``[model]``, ``[data]`` and ``[train]``. It is read into
frozen pydantic models, so a setting has one name, one type, one default and one explanation (the text under the field).
Unknown keys are refused, with the nearest valid key; settings that contradict each other are refused together, in one
error that names them all. Nothing is changed behind the user's back. :mod:`clearseek.recipe` reads the files.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from clearseek.config.model import ModelConfig, RopeScaling
from clearseek.config.posttraining import (
    METHODS,
    TABLES,
    DistilConfig,
    ExpertsConfig,
    GrpoConfig,
    LoraConfig,
    ParentConfig,
    ProblemsConfig,
    SftConfig,
)
from clearseek.config.settings import Settings, refuse
from clearseek.config.training import DataConfig, Fp8Config, OptimizerConfig, Phase, TrainConfig
from clearseek.errors import nearest

__all__ = [
    "DataConfig", "DistilConfig", "ExpertsConfig", "Fp8Config", "GrpoConfig", "LoraConfig", "ModelConfig",
    "OptimizerConfig", "ParentConfig", "Phase", "ProblemsConfig", "Recipe", "RopeScaling", "Settings", "SftConfig",
    "TrainConfig",
]  # fmt: skip


class Recipe(Settings):
    """One run: the whole TOML file."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=80)]
    """Name of the run and of its default folder."""
    description: str = ""
    """One line for people."""
    model: ModelConfig
    data: DataConfig = DataConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    train: TrainConfig
    fp8: Fp8Config = Fp8Config()
    """Only read under ``train.precision = "fp8"``."""
    parent: ParentConfig | None = None
    """The model to begin with. With it, `model` is the parent's, and one of `sft`, `grpo`, `distil` says what to do."""
    problems: ProblemsConfig | None = None
    """Problems to learn from, instead of files."""
    sft: SftConfig | None = None
    """Supervised fine-tuning: learn to write the assistant's part of conversations."""
    grpo: GrpoConfig | None = None
    """Policy optimisation: make rewarded answers to problems likelier."""
    distil: DistilConfig | None = None
    """Distillation: learn another model's distributions, or the texts that it writes."""
    lora: LoraConfig | None = None
    """Train low-rank adapters instead of the weights."""
    experts: ExpertsConfig | None = None
    """Train some experts only."""

    @model_serializer(mode="wrap")
    def _without_absent_tables(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """A record of pre-training has no word of post-training, as before there was any."""
        return {name: value for name, value in handler(self).items() if name not in TABLES or value is not None}

    @property
    def tokens(self) -> int:
        """Tokens of all training steps."""
        return self.train.steps * self.train.batch_size * self.data.sequence_length

    @property
    def conversational(self) -> bool:
        """Whether a model learns to answer in the chat template."""
        made = self.sft is None or bool(self.sft.demonstrations)
        return self.problems is not None and self.problems.template == "chat" if made else True

    @model_validator(mode="after")
    def _consistent(self) -> Recipe:
        data, longest = self.data, self.model.max_position_embeddings
        refuse(
            (data.sequence_length > longest,
             f"data.sequence_length = {data.sequence_length} is above model.max_position_embeddings = {longest}: lower "
             "the first or raise the second"),
            (data.source != "python-stdlib" and not data.paths and (self.sft is None or not self.sft.demonstrations),
             f'data.paths is empty, but data.source = "{data.source}" needs it'),
            *((self.train.precision == "fp8" and size % 128,
               f'model.{name} = {size} is not a multiple of 128, as train.precision = "fp8" needs it: gate and up are '
               "one product, and a block of 128 rows must not hold rows of both")
              for name in ("intermediate_size", "moe_intermediate_size") if (size := getattr(self.model, name))),
            (self.optimizer.embedding_learning_rate is not None and self.model.tie_word_embeddings,
             "optimizer.embedding_learning_rate with model.tie_word_embeddings: the embedding is the output head too, "
             "and learns at optimizer.learning_rate: leave one of them out of the recipe's file"),
            *self._wrong_tables(),
        )  # fmt: skip
        return self

    def _wrong_experts(self) -> Iterator[str]:
        """What is wrong with the numbers of experts that the recipe lists."""
        depth, most = self.model.num_hidden_layers + self.model.num_nextn_predict_layers, self.model.n_routed_experts
        names = [f"model.layers.{layer}.mlp.experts" for layer in range(depth) if self.model.is_moe_layer(layer)]
        listed = None if self.experts is None else self.experts.layers
        for name, numbers in (listed or {}).items():
            if name not in names:
                yield f'experts.layers: "{name:.60}": no layer with experts{nearest(name, names)}'
            elif list(numbers) != sorted(set(numbers)) or not 0 <= numbers[0] <= numbers[-1] < most:
                yield f'experts.layers: "{name}": give numbers from 0 to {most - 1}, ascending, each once'

    def _wrong_tables(self) -> list[tuple[object, str]]:
        """Contradictions between the tables of post-training."""
        methods = [name for name in METHODS if getattr(self, name) is not None]
        listed = ", ".join(f"[{name}]" for name in METHODS)
        without = [f"[{name}]" for name in (*METHODS, "problems", "lora", "experts") if getattr(self, name) is not None]
        child, grpo, demonstrations = (
            self.parent is not None,
            self.grpo,
            self.sft is not None and self.sft.demonstrations,
        )
        return [
            (not child and without, f"{' and '.join(without)} without [parent]: say which model to begin with"),
            (child and len(methods) != 1, f"[parent] needs one of {listed}, and here are {len(methods)}"),
            (self.lora is not None and self.experts is not None, "[lora] and [experts] exclude each other"),
            (grpo is not None and self.problems is None, "[grpo] needs [problems]"),
            (demonstrations and self.problems is None, "sft.demonstrations needs [problems]"),
            (self.sft is not None and not demonstrations and self.problems is not None,
             "[problems] beside [sft] needs sft.demonstrations, how many of them to learn from"),
            (self.problems is not None and self.data.paths and (self.sft is None or demonstrations),
             "data.paths beside [problems], which are not read from there: leave one out"),
            *((True, fault) for fault in self._wrong_experts()),
            (self.sft is not None and not demonstrations and self.data.source != "jsonl",
             f'[sft] reads data.source = "jsonl", not "{self.data.source}", or sft.demonstrations of [problems]'),
            (grpo is not None and self.train.batch_size % grpo.completions,
             f"train.batch_size = {self.train.batch_size}, the completions of a step, is no multiple of "
             "grpo.completions"),
            (grpo is not None and grpo.max_tokens >= self.data.sequence_length,
             f"grpo.max_tokens leaves no room for a prompt in data.sequence_length = {self.data.sequence_length}"),
            (self.distil is not None and self.distil.top_k > self.model.vocab_size,
             f"distil.top_k is above model.vocab_size = {self.model.vocab_size}: leave it out for all tokens"),
            (self.distil is not None and self.distil.form != "logits" and self.problems is None
             and self.distil.prompt_tokens + self.distil.max_tokens > self.data.sequence_length,
             "distil.prompt_tokens and distil.max_tokens are more than data.sequence_length together: lower one"),
            (self.distil is not None and self.problems is not None and self.distil.form == "logits",
             '[problems] have no tokens to compare distributions over: use distil.form = "text" or "on-policy"'),
            (self.distil is not None and self.distil.correct and self.problems is None,
             "distil.correct needs [problems]: only their answers can be checked"),
            (child and self.train.initial_weights != "normal",
             "train.initial_weights is for pre-training: the weights are the parent's: leave it out"),
            (child and self.data.fim_rate, "data.fim_rate is for pre-training: leave it out"),
            (child and self.data.tokenizer is not None, "data.tokenizer: the tokenizer is the parent's: leave it out"),
            (self.sft is not None and self.data.text_field != "text",
             "data.text_field is for pre-training: sft.messages, or sft.prompt and sft.answer, name a line's keys"),
        ]  # fmt: skip
