"""What a student trains on: the tasks of distillation.

All three are measured as pre-training is, in bits per byte of the data's held-out documents, so forms of distillation
and plain training can be compared. Order is a function: the documents of a step follow from fingerprint, seed and step,
and what a student writes from its weights too, every draw with noise addressed by (seed, step, sample, position).

Shapes: B sequences, S positions, X = S + look-ahead, T = B * S tokens, D hidden, K likeliest tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from clearseek.config import DistilConfig, Recipe
from clearseek.data.loader import Ints, Permutation
from clearseek.data.manifest import canonical_sha256
from clearseek.data.tokenizer import Tokenizer
from clearseek.errors import UserError
from clearseek.model.transformer import DeepSeekModel
from clearseek.ops.divergence import divergence
from clearseek.ops.loss import cross_entropy
from clearseek.posttrain.soft_labels import SoftLabels, likeliest
from clearseek.posttrain.teacher import Teacher
from clearseek.posttrain.texts import beginnings, read_texts
from clearseek.train.pretrain import PreTraining
from clearseek.train.record import LOSS, MTP_LOSS
from clearseek.train.schedule import value_at
from clearseek.train.task import Batch, Loss, Progress

DIVERGENCE = "divergence"
"""Name of the scalar that is learned from distributions: nats a token, before the factor temperature squared."""


@dataclass(frozen=True)
class Taught(Batch):
    """A batch with a teacher's soft labels."""

    index_BSK: Tensor | None = None
    """Ids of the likeliest next tokens, int64."""
    logp_BSK: Tensor | None = None
    """Log-probabilities of those, FP32."""

    def split(self, count: int) -> Iterator[Batch]:
        """`count` micro-batches of as many sequences each, in order."""
        assert self.index_BSK is not None and self.logp_BSK is not None
        parts = self.index_BSK.chunk(count), self.logp_BSK.chunk(count)
        for micro, index_BSK, logp_BSK in zip(super().split(count), *parts, strict=True):
            yield replace(micro, index_BSK=index_BSK, logp_BSK=logp_BSK)  # type: ignore[call-arg]


class _Lesson:
    """What the tasks share: the data's held-out documents, and a fingerprint of data and teacher together."""

    name = ""

    def __init__(self, recipe: Recipe, data: Path, record: Mapping[str, Any]) -> None:
        assert recipe.distil is not None
        self.recipe, self.settings = recipe, recipe.distil
        self.plain = PreTraining(recipe, data)
        self.fingerprint = canonical_sha256({"data": self.plain.fingerprint, "teacher": record})

    def evaluate(self, model: DeepSeekModel, step: int, progress: Progress | None = None) -> dict[str, float]:
        """Bits per byte of the data's held-out documents, as in pre-training."""
        return self.plain.evaluate(model, step, progress)

    def loss(self, model: DeepSeekModel, micro: Batch) -> Loss:
        """What a micro-batch costs."""
        return self.plain.loss(model, micro)

    def _taught(self, model: DeepSeekModel, micro: Batch, teacher: Teacher | None) -> Loss:
        """The divergence from the teacher, with what the plain loss adds of its own."""
        train, settings, depth = self.recipe.train, self.settings, model.config.num_nextn_predict_layers
        mtp = bool(depth and (train.mtp_loss_weight or train.mtp_loss_weight_final))
        length = micro.tokens_BX.shape[1] - 1 - depth
        tokens_BX = micro.tokens_BX if mtp else micro.tokens_BX[:, : length + 1]
        target_T, weight_T = (each_BX[:, 1 : length + 1].flatten() for each_BX in (tokens_BX, micro.weight_BX))
        weight_B = micro.weight_BX[:, 1 : length + 1].sum(1) if train.balance_loss_weight else None
        states = model.states(tokens_BX, mtp, weight_B, valid_BX=micro.valid_BX)
        hidden_TD, head_VD = states.main_BSD.flatten(0, 1), model.head_weight
        found = self._divergence(hidden_TD, head_VD, weight_T, micro, tokens_BX[:, :length], teacher)
        total, scalars = (1 - settings.hard) * settings.temperature**2 * found, {DIVERGENCE: found.detach()}
        if settings.hard:
            plain = cross_entropy(hidden_TD, head_VD, target_T, weight_T)
            total, scalars[LOSS] = total + settings.hard * plain, plain.detach()
        if states.mtp_BSD is not None:
            ahead = (each_BX[:, 2 : length + 2].flatten() for each_BX in (tokens_BX, micro.weight_BX))
            of_mtp = cross_entropy(states.mtp_BSD.flatten(0, 1), head_VD, *ahead)
            total, scalars[MTP_LOSS] = total + _mtp_weight(self.recipe, micro.step) * of_mtp, of_mtp.detach()
        for routing in states.routings:
            if routing.balance_loss is not None:
                total = total + train.balance_loss_weight * routing.balance_loss
        return Loss(total, scalars, model.loads(states.routings))

    def _divergence(
        self, hidden_TD: Tensor, head_VD: Tensor, weight_T: Tensor, micro: Batch, tokens_BS: Tensor,
        teacher: Teacher | None,
    ) -> Tensor:  # fmt: skip
        s = self.settings
        if isinstance(micro, Taught):
            assert micro.index_BSK is not None and micro.logp_BSK is not None
            labels = micro.index_BSK.flatten(0, 1), micro.logp_BSK.flatten(0, 1)
        else:
            assert teacher is not None
            network = teacher.on(head_VD.device, head_VD.dtype)
            with torch.no_grad():
                states_TD = network(tokens_BS).flatten(0, 1)
            labels = likeliest(states_TD, network.head_weight, s.top_k, s.temperature) if s.top_k else None
        raise NotImplementedError


class Logits(_Lesson):
    """Learn a teacher's distributions over the data's tokens.

    Args:
        recipe: The recipe.
        data: Folder of the data.
        teacher: The teacher, which is run in every step, or the folder of its soft labels.
        record: What the run says of the teacher.
    """

    name = "distillation on logits"

    def __init__(self, recipe: Recipe, data: Path, teacher: Teacher | Path, record: Mapping[str, Any]) -> None:
        super().__init__(recipe, data, record)
        self.teacher = teacher if isinstance(teacher, Teacher) else None
        self.labels = None if isinstance(teacher, Teacher) else SoftLabels(teacher, list(record["files"]))
        windows = self.plain.loader.windows_per_epoch
        if self.labels is not None and len(self.labels) != windows:
            raise UserError(f"{teacher}: soft labels of {len(self.labels)} windows for {windows}: begin the run again")

    def batch(self, step: int, model: DeepSeekModel) -> Batch:
        """The windows of a step, as in pre-training, with their soft labels where the teacher's are kept."""
        batch = self.plain.batch(step, model)
        if self.labels is None:
            return batch
        device = model.head_weight.device
        index_BSK, logp_BSK = (each.to(device) for each in self.labels.rows(self.plain.loader.windows(step - 1)))
        same = {each.name: getattr(batch, each.name) for each in fields(batch)}
        return Taught(**same, index_BSK=index_BSK, logp_BSK=logp_BSK)

    def loss(self, model: DeepSeekModel, micro: Batch) -> Loss:
        """The divergence from the teacher, mixed with the plain loss as the recipe says."""
        return self._taught(model, micro, self.teacher)

    def contents(self, step: int) -> list[str]:
        """Ids of the documents in the batch of a step."""
        return self.plain.contents(step)


class Texts(_Lesson):
    """Learn a teacher's texts, token by token; their prompts are read and not learnt."""

    name = "distillation on text"

    def __init__(self, recipe: Recipe, data: Path, file: Path, record: Mapping[str, Any]) -> None:
        super().__init__(recipe, data, record)
        tokenizer, longest = Tokenizer.load(data / "tokenizer.json"), recipe.data.sequence_length + 1
        self._rows: list[Row] = []
        self._numbers: list[int] = []
        for line in read_texts(file):
            prompt = [tokenizer.bos_id, *tokenizer.encode(line["prompt"])]
            text = tokenizer.encode(line["text"]) + [tokenizer.eos_id] * line["ended"]
            if text and len(prompt) < longest:
                self._rows.append(Row(prompt, text[: longest - len(prompt)]))
                self._numbers.append(line["number"])
        if not self._rows:
            raise UserError(f"{file}: all texts are empty, so there is nothing to learn: ask another teacher")

    def batch(self, step: int, model: DeepSeekModel) -> Batch:
        """The texts of a step, each epoch in an order of its own."""
        chosen = self._chosen(step)
        return _padded(step, [self._rows[number] for number in chosen], model)

    def contents(self, step: int) -> list[str]:
        """Numbers of the texts in the batch of a step."""
        return [f"text {self._numbers[number]}" for number in self._chosen(step)]

    def _chosen(self, step: int) -> list[int]:
        return _order(len(self._rows), step, self.recipe, self.fingerprint)


class OnPolicy(_Lesson):
    """Learn a teacher's distributions over texts that the student writes in the step itself."""

    name = "distillation on-policy"

    def __init__(self, recipe: Recipe, data: Path, teacher: Teacher, record: Mapping[str, Any]) -> None:
        super().__init__(recipe, data, record)
        self.teacher = teacher
        tokenizer, documents = Tokenizer.load(data / "tokenizer.json"), read_manifest(data).train.documents
        self._eos = tokenizer.eos_id
        texts = beginnings(data, documents, self.settings.prompt_tokens)
        self._prompts = [
            [tokenizer.bos_id, *tokenizer.encode(text)[: self.settings.prompt_tokens]] for text in texts
        ]

    def batch(self, step: int, model: DeepSeekModel) -> Batch:
        """What the student writes after the beginnings of a step's documents."""
        s, prompts = self.settings, [self._prompts[number] for number in self._chosen(step)]
        state = model.state_dict()
        config = model.config.model_copy(update={"num_nextn_predict_layers": 0})
        packed = pack(config, state.__getitem__, "F32" if model.head_weight.dtype == torch.float32 else "BF16")
        settings = Settings(s.max_tokens, s.temperature, stop_tokens=frozenset({self._eos}))
        seeds = [
            int(canonical_sha256(["on-policy", self.recipe.train.seed, step, sample])[:15], 16)
            for sample in range(len(prompts))
        ]
        written = completions(packed, prompts, seeds, settings)
        rows = [Row(prompt, each.tokens.tolist()) for prompt, each in zip(prompts, written, strict=True)]
        return _padded(step, rows, model)

    def loss(self, model: DeepSeekModel, micro: Batch) -> Loss:
        """The divergence from the teacher on the written tokens."""
        return self._taught(model, micro, self.teacher)

    def contents(self, step: int) -> list[str]:
        """Numbers of the documents whose beginnings were the prompts of a step."""
        return [f"document {number}" for number in self._chosen(step)]

    def _chosen(self, step: int) -> list[int]:
        return _order(len(self._prompts), step, self.recipe, self.fingerprint)


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


def _order(size: int, step: int, recipe: Recipe, fingerprint: str) -> list[int]:
    """Which of `size` things are in the batch of a step: each once an epoch, in the epoch's own order."""
    count, chosen = recipe.train.batch_size, []
    for sample in range((step - 1) * count, step * count):
        epoch, position = divmod(sample, size)
        order = Permutation(size, canonical_sha256([fingerprint, recipe.data.seed, epoch]))
        chosen.append(int(order(np.array([position]))[0]))
    return chosen


def _mtp_weight(recipe: Recipe, step: int) -> float:
    train = recipe.train
    return value_at(step, train.steps, train.mtp_switch, train.mtp_loss_weight, train.mtp_loss_weight_final)
