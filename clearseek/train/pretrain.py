"""Pre-training: predict the next token of a stream of documents, and with an MTP module the one after.

Windows of the stream are visited in an order that the seed chooses (:mod:`clearseek.data.loader`), every token counts
alike, and the model is measured in bits per byte of held-out text.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from clearseek.config import Recipe
from clearseek.data.loader import Loader, Stream
from clearseek.evaluate.bits import Spread, bits_per_byte, window_count
from clearseek.model.transformer import DeepSeekModel
from clearseek.train.record import HELD_OUT, LOSS, MTP_LOSS
from clearseek.train.schedule import value_at
from clearseek.train.task import Batch, Loss, Progress


class PreTraining:
    """The task of a recipe's `data`, with the data folder that they became.

    Its files are compared with their hashes, unless another process of this machine does that (`checked`).

    Raises UserError: the folder is missing, altered, or of other documents than its manifest says.
    """

    name = "pre-training"

    def __init__(self, recipe: Recipe, data: str | Path, checked: bool = False) -> None:
        self.recipe, data = recipe, Path(data)
        lookahead = 1 + recipe.model.num_nextn_predict_layers
        length, size = recipe.data.sequence_length, recipe.train.batch_size
        self.loader = Loader(data, "train", length, size, recipe.data.seed, lookahead)
        if not checked:
            self.loader.check_hashes()
        self.fingerprint = self.loader.fingerprint
        held_out = Stream(data, "heldout")
        self.held_out = held_out if len(held_out) > 1 else None

    def batch(self, step: int, model: DeepSeekModel, rows: Sequence[int] | None = None) -> Batch:
        """The windows of a step or `rows` of them, every token with the same weight."""
        tokens_BX = torch.from_numpy(self.loader.batch(step - 1, rows))
        counted = self.recipe.train.batch_size * self.recipe.data.sequence_length
        weight_BX = torch.full(tokens_BX.shape, 1.0 / counted, dtype=torch.float32)
        return Batch(step, tokens_BX, weight_BX, counted).to(model.device)

    def loss(self, model: DeepSeekModel, micro: Batch) -> Loss:
        """Cross-entropy, the MTP module's times lambda, and the sequence-wise balance loss times alpha."""
        return next_tokens_loss(self.recipe, model, micro)

    def evaluate(self, model: DeepSeekModel | Spread, step: int, progress: Progress | None = None) -> dict[str, float]:
        """Bits per byte of held-out text: now and then of a fixed sample of windows, after the last step of all."""
        train, length = self.recipe.train, self.recipe.data.sequence_length
        if self.held_out is None or (step != train.steps and (not train.eval_every or step % train.eval_every)):
            return {}
        windows = None
        if step != train.steps:
            count = window_count(len(self.held_out), length)
            windows = np.linspace(0, count - 1, min(count, train.eval_sequences)).astype(int).tolist()
        size = self.held_out.manifest.heldout.bytes
        return {HELD_OUT: bits_per_byte(model, self.held_out, size, length, windows, progress)}

    def contents(self, step: int) -> list[str]:
        """Ids of the documents in the batch of a step."""
        return self.loader.documents(step - 1)


def loss_weights(recipe: Recipe, step: int) -> tuple[float, float]:
    """Factors of the balance loss and of the MTP module's loss in a step."""
    train = recipe.train
    until, first, final = train.mtp_switch, train.mtp_loss_weight, train.mtp_loss_weight_final
    return train.balance_loss_weight, value_at(step, train.steps, until, first, final)


def next_tokens_loss(recipe: Recipe, model: DeepSeekModel, micro: Batch) -> Loss:
    """Cross-entropy, the MTP module's times lambda, and the sequence-wise balance loss times alpha."""
    balance_weight, mtp_weight = loss_weights(recipe, micro.step)
    losses = model.loss(
        micro.tokens_BX, balance_weight, mtp_weight, micro.weight_BX, micro.start_BX, micro.routing_LBSK, micro.valid_BX
    )
    scalars = {LOSS: losses.main} | ({} if losses.mtp is None else {MTP_LOSS: losses.mtp})
    return Loss(losses.total, scalars, losses.load_LE)
