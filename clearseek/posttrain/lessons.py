"""What a student trains on: the tasks of distillation.

Over documents all three are measured as pre-training is, in bits per byte of those that are held out, so that they can
be compared with each other and with plain training (:mod:`clearseek.posttrain.material`). Order is a function: the
documents of a step follow from fingerprint, seed and step, and what a student writes from its weights too, every draw
with noise addressed by (seed, step, sample, position).

Shapes: B sequences, S positions, X = S + look-ahead, T = B * S tokens, D hidden, K likeliest tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from clearseek.config import Recipe
from clearseek.data.manifest import taught_fingerprint
from clearseek.data.tokenizer import Tokenizer
from clearseek.errors import UserError
from clearseek.inference.request import Settings
from clearseek.model.transformer import DeepSeekModel
from clearseek.ops.divergence import TopK, divergence
from clearseek.ops.loss import cross_entropy
from clearseek.posttrain.material import Documents, Exercises, Material, ids_of, order
from clearseek.posttrain.rollouts import Asked, Writer, seed_of
from clearseek.posttrain.soft_labels import SoftLabels, likeliest
from clearseek.posttrain.teacher import Teacher
from clearseek.posttrain.texts import read_texts
from clearseek.train.pretrain import PreTraining, next_tokens_loss
from clearseek.train.record import LOSS, MTP_LOSS
from clearseek.train.run import Run
from clearseek.train.schedule import value_at
from clearseek.train.task import Batch, Loss, Progress

DIVERGENCE = "divergence"
"""Name of the scalar: the weighted mean of the tokens' divergences in nats, before the factor temperature squared."""


class _Lesson:
    """What the tasks share: what they are about, and a fingerprint of that and the teacher together."""

    def __init__(self, recipe: Recipe, material: Material, record: Mapping[str, Any]) -> None:
        assert recipe.distil is not None
        self.recipe, self.settings, self.material = recipe, recipe.distil, material
        self.fingerprint = taught_fingerprint(material.fingerprint, record)

    def evaluate(self, model: DeepSeekModel, step: int, progress: Progress | None = None) -> dict[str, float]:
        """Bits per byte of held-out documents, or the share of held-out problems that are solved."""
        return self.material.evaluate(model, step, progress)


class _Soft(_Lesson):
    """Tasks that learn distributions: a teacher that is run in every step, or its soft labels."""

    def __init__(
        self, recipe: Recipe, material: Material, teacher: Teacher | SoftLabels | None, record: Mapping[str, Any]
    ) -> None:
        super().__init__(recipe, material, record)
        self.teacher = teacher

    def loss(self, model: DeepSeekModel, micro: Batch) -> Loss:
        """The divergence from the teacher, mixed with the plain loss as the recipe says.

        The divergence counts temperature squared, so that its gradients keep their size (arXiv 1503.02531, section 2).
        """
        train, s, depth = self.recipe.train, self.settings, model.config.num_nextn_predict_layers
        mtp = bool(depth and (train.mtp_loss_weight or train.mtp_loss_weight_final))
        length = micro.tokens_BX.shape[1] - 1 - depth
        weight_B = micro.weight_BX[:, 1 : length + 1].sum(1) if train.balance_loss_weight else None
        tokens_BX = micro.tokens_BX if mtp else micro.tokens_BX[:, : length + 1]
        states = model.states(tokens_BX, mtp, weight_B, valid_BX=micro.valid_BX)
        hidden_TD, weight_T = states.main_BSD.flatten(0, 1), micro.weight_BX[:, 1 : length + 1].flatten()
        found = self._divergence(hidden_TD, model.head_weight, weight_T, micro, length)
        total, scalars = (1 - s.hard) * s.temperature**2 * found, {DIVERGENCE: found.detach()}
        if s.hard:
            plain = cross_entropy(hidden_TD, model.head_weight, tokens_BX[:, 1 : length + 1].flatten(), weight_T)
            total, scalars[LOSS] = total + s.hard * plain, plain.detach()
        if states.mtp_BSD is not None:
            ahead_T, weight_T = (each_BX[:, 2 : length + 2].flatten() for each_BX in (tokens_BX, micro.weight_BX))
            of_mtp = cross_entropy(states.mtp_BSD.flatten(0, 1), model.head_weight, ahead_T, weight_T)
            at_first, at_last = train.mtp_loss_weight, train.mtp_loss_weight_final
            total = total + value_at(micro.step, train.steps, train.mtp_switch, at_first, at_last) * of_mtp
            scalars[MTP_LOSS] = of_mtp.detach()
        for routing in states.routings:
            if routing.balance_loss is not None:
                total = total + train.balance_loss_weight * routing.balance_loss
        return Loss(total, scalars, model.loads(states.routings))

    def _divergence(self, hidden_TD: Tensor, head_VD: Tensor, weight_T: Tensor, micro: Batch, length: int) -> Tensor:
        """The weighted sum of the tokens' divergences, FP32 scalar."""
        s, device = self.settings, head_VD.device
        beta = {"forward": 0.0, "reverse": 1.0, "jsd": s.beta}[s.divergence]
        said: TopK | Callable[[slice], Tensor]
        if isinstance(self.teacher, SoftLabels):
            assert micro.row_B is not None
            said = self.teacher.rows(micro.row_B.cpu().numpy(), device)
        else:
            assert self.teacher is not None
            network = self.teacher.on(device, head_VD.dtype)
            with torch.no_grad():
                states_TE = network(micro.tokens_BX[:, :length]).flatten(0, 1)
            head_VE = network.head_weight
            said = (
                likeliest(states_TE, head_VE, s.top_k, s.temperature)
                if s.top_k
                else (lambda rows: states_TE[rows] @ head_VE.T)
            )
        return divergence(hidden_TD, head_VD, said, weight_T, beta, s.temperature)


class Logits(_Soft):
    """Learn a teacher's distributions over the tokens of documents."""

    name = "distillation on logits"

    @property
    def _plain(self) -> PreTraining:
        assert isinstance(self.material, Documents)
        return self.material.plain

    def batch(self, step: int, model: DeepSeekModel) -> Batch:
        """The windows of a step, as in pre-training."""
        windows_B = torch.from_numpy(self._plain.loader.windows(step - 1))
        return replace(self._plain.batch(step, model), row_B=windows_B)

    def contents(self, step: int) -> list[str]:
        """Ids of the documents in the batch of a step."""
        return self._plain.contents(step)


class Texts(_Lesson):
    """Learn a teacher's texts, token by token; their prompts are read and not learnt."""

    name = "distillation on text"

    def __init__(
        self, recipe: Recipe, material: Material, tokenizer: Tokenizer, file: Path, record: Mapping[str, Any]
    ) -> None:
        super().__init__(recipe, material, record)
        longest = recipe.data.sequence_length + 1
        self._rows: list[Row] = []
        self._numbers: list[int] = []
        for line in self._learnt(read_texts(file), file):
            prompt = ids_of(tokenizer, line["prompt"])
            text = tokenizer.encode(line["text"]) + [tokenizer.eos_id] * line["ended"]
            if text and len(prompt) < longest:
                self._rows.append(Row(prompt, text[: longest - len(prompt)]))
                self._numbers.append(line["number"])
        if not self._rows:
            raise UserError(f"{file}: all texts are empty, so there is nothing to learn: ask another teacher")

    def _learnt(self, lines: Sequence[Mapping[str, Any]], file: Path) -> Sequence[Mapping[str, Any]]:
        """All texts, or those that solve their problem (rejection sampling, arXiv 2501.12948, section 2.3.3)."""
        if not self.settings.correct:
            return lines
        assert isinstance(self.material, Exercises)
        if not (right := self.material.solved(lines)):
            raise UserError(
                f"{file}: none of {len(lines):,} texts solves its problem: ask a better teacher, or for more"
            )
        return right

    def batch(self, step: int, model: DeepSeekModel) -> Batch:
        """The texts of a step, each epoch in an order of its own."""
        chosen = self._chosen(step)
        return _padded(step, [self._rows[number] for number in chosen], model)

    def contents(self, step: int) -> list[str]:
        """Numbers of the texts in the batch of a step."""
        return [f"text {self._numbers[number]}" for number in self._chosen(step)]

    def _chosen(self, step: int) -> list[int]:
        return order(len(self._rows), step, self.recipe, self.fingerprint)

    def loss(self, model: DeepSeekModel, micro: Batch) -> Loss:
        """The plain loss, over the texts' tokens."""
        return next_tokens_loss(self.recipe, model, micro)


class OnPolicy(_Soft, Writer):
    """Learn a teacher's distributions over texts that the student writes in the step itself."""

    name = "distillation on-policy"

    def __init__(
        self, recipe: Recipe, run: Run, material: Material, tokenizer: Tokenizer, teacher: Teacher | None,
        record: Mapping[str, Any],
    ) -> None:  # fmt: skip
        """Without a teacher it takes no step, and knows what the student is asked."""
        super().__init__(recipe, material, teacher, record)
        s, self.run = self.settings, run
        self.drawing = Settings(s.max_tokens, s.temperature, stop_tokens=frozenset({tokenizer.eos_id}))

    def asked(self, number: int) -> Asked:
        """The prompts of a step, which is one more than its round."""
        step = number + 1
        chosen, prompts = self.material.step(step)
        numbers = list(range(len(prompts)))
        return Asked(chosen, prompts, numbers, [seed_of(self.recipe.data.seed, step, k) for k in numbers])

    def batch(self, step: int, model: DeepSeekModel) -> Batch:
        """What the student writes after the prompts of a step."""
        written = self.rollouts(step - 1, model)
        pieces = written.token_T.split(written.length_N.tolist())
        rows = [
            Row(tokens[:prompt].tolist(), tokens[prompt:].tolist())
            for tokens, prompt in zip(pieces, written.prompt_N.tolist(), strict=True)
        ]
        return replace(
            _padded(step, rows, model),
            scalars={
                "length": sum(len(row.text) for row in rows) / len(rows),
                "ended": sum(written.ended_N.tolist()) / len(rows),
            },
            rollouts_sha256=written.sha256(),
        )

    def contents(self, step: int) -> list[str]:
        """Numbers of the documents or problems that were the prompts of a step."""
        return [f"prompt {number}" for number in self.material.step(step)[0]]


class Row(NamedTuple):
    """A sequence of which the end is learnt."""

    prompt: list[int]
    text: list[int]


def _padded(step: int, rows: Sequence[Row], model: DeepSeekModel) -> Batch:
    """Rows side by side, padded at their ends; every token of their texts counts alike."""
    width = max(len(row.prompt) + len(row.text) for row in rows) + model.config.num_nextn_predict_layers
    tokens_BX = torch.zeros(len(rows), width, dtype=torch.int64)
    weight_BX, valid_BX = torch.zeros(len(rows), width), torch.zeros(len(rows), width, dtype=torch.bool)
    counted = sum(len(row.text) for row in rows)
    for row, (prompt, text) in enumerate(rows):
        begin, end = len(prompt), len(prompt) + len(text)
        tokens_BX[row, :end] = torch.tensor(prompt + text)
        weight_BX[row, begin:end] = 1.0 / counted
        valid_BX[row, :end] = True
    return Batch(step, tokens_BX, weight_BX, counted, valid_BX=valid_BX).to(model.head_weight.device)
