"""Supervised fine-tuning: learn to write the assistant's part of conversations.

The loss is the cross-entropy of what a model must write itself, and every such token of a step counts alike, in however
many micro-batches and rows it stands: a mean per row would weigh the tokens of short answers more. Prompts are read and
not learnt, and conversations that share a row do not see each other (:mod:`clearseek.data.packs`; DeepSeek-V3 report,
section 5.1). The model is measured in nats per token of held-out answers, and so is the parent before the first step.

Shapes: B rows, S inputs, A look-ahead, X = S + A.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from clearseek.config import Recipe
from clearseek.data.loader import LEARNT, PADDING, PackLoader, Rows
from clearseek.data.manifest import Manifest, read_manifest
from clearseek.data.tokenizer import Tokenizer
from clearseek.errors import UserError
from clearseek.model.transformer import DeepSeekModel
from clearseek.posttrain.child import Child
from clearseek.posttrain.conversations import prepare
from clearseek.posttrain.parent import adopt
from clearseek.train.pretrain import next_tokens_loss
from clearseek.train.record import HELD_OUT_NATS, HELD_OUT_NATS_BEFORE, LOSS
from clearseek.train.run import Run
from clearseek.train.session import OnData, Say
from clearseek.train.task import Batch, Loss, Progress, Task


class Sft(Child):
    """Supervised fine-tuning around the steps."""

    def data(self, recipe: Recipe, run: Run, data: Path | None, resume: bool, on_data: OnData | None, say: Say) -> Path:
        """The folder of packed conversations, made where it is missing; the parent's weights, too."""
        adopt(recipe, run)
        folder, longer = data or run.data, "optimizer_sha256" in (run.read_parent() or {})
        tokenizer = None if longer else Tokenizer.load(run.parent / "tokenizer.json")
        if tokenizer is not None and data is None and not resume:
            prepare(recipe, tokenizer, folder, on_data)
        elif not folder.is_dir():
            raise UserError(
                f"{folder}: the run's data are not in its folder: say where they are, as when it began, with "
                "--data FOLDER"
            )
        manifest = read_manifest(folder)
        refuse_other_packs(recipe, manifest, tokenizer, folder)
        for line in (*manifest.remarks.lines(), *manifest.pack_lines()):
            say(f"data: {line}")
        return folder

    def task(self, recipe: Recipe, run: Run, folder: Path, checked: bool = False) -> Task:
        """What the assistant writes in the folder's conversations."""
        return FineTuning(recipe, folder, checked)


class FineTuning:
    """The task of a recipe's `sft`, with the folder of packed conversations.

    Raises UserError: the folder is missing, altered, or of rows of another length than the recipe's.
    """

    name = "sft"

    def __init__(self, recipe: Recipe, data: str | Path, checked: bool = False) -> None:
        self.recipe, data = recipe, Path(data)
        lookahead = 1 + recipe.model.num_nextn_predict_layers
        length, size, seed = recipe.data.sequence_length, recipe.train.batch_size, recipe.data.seed
        self.packs = PackLoader(data, "train", length, size, seed, lookahead)
        if not checked:
            self.packs.check_hashes()
        self.fingerprint = self.packs.fingerprint
        held_out = self.packs.manifest.heldout.documents
        self.held_out = PackLoader(data, "heldout", length, size, seed, lookahead) if held_out else None
        self._before: float | None = None

    def batch(self, step: int, model: DeepSeekModel) -> Batch:
        """The rows of a step; each token that is learnt has the same weight."""
        if step == 1 < self.recipe.train.steps and self.held_out is not None:
            self._before = self._nats(model, range(self.held_out.windows_per_epoch), None)
        rows = self.packs.rows(self.packs.windows(step - 1))
        learnt_BX, counted = self._learnt(rows)
        weight_BX = torch.from_numpy(learnt_BX).float() / max(counted, 1)
        start_BX, tokens_BX = torch.from_numpy(rows.start_BX), torch.from_numpy(rows.tokens_BX)
        valid_BX = torch.from_numpy(rows.mask_BX != PADDING)
        return Batch(step, tokens_BX, weight_BX, counted, start_BX, valid_BX).to(model.head_weight.device)

    def loss(self, model: DeepSeekModel, micro: Batch) -> Loss:
        """As in pre-training, over what is learnt; an MTP module whose loss counts nothing is left out."""
        train, end = self.recipe.train, self.recipe.data.sequence_length + 1
        if train.mtp_loss_weight or train.mtp_loss_weight_final:
            return next_tokens_loss(self.recipe, model, micro)
        assert micro.start_BX is not None and micro.valid_BX is not None
        every = micro.tokens_BX, micro.weight_BX, micro.start_BX, micro.valid_BX
        tokens_BX, weight_BX, start_BX, valid_BX = (each[:, :end] for each in every)
        losses = model.loss(tokens_BX, train.balance_loss_weight, None, weight_BX, start_BX, None, valid_BX)
        return Loss(losses.total, {LOSS: losses.main}, losses.load_LE)

    def evaluate(self, model: DeepSeekModel, step: int, progress: Progress | None = None) -> dict[str, float]:
        """Nats per token of held-out answers: now and then of a fixed sample of rows, after the last step of all.

        The first step's record has the parent's figure, of all rows; a run of one step has none.
        """
        train, found = self.recipe.train, dict[str, float]()
        if self.held_out is None:
            return found
        if self._before is not None and step == 1:
            found[HELD_OUT_NATS_BEFORE] = self._before
        if step == train.steps or (train.eval_every and step % train.eval_every == 0):
            rows, sample = self.held_out.windows_per_epoch, train.eval_sequences
            chosen = np.linspace(0, rows - 1, min(rows, sample)).astype(int).tolist() if step != train.steps else None
            found[HELD_OUT_NATS] = self._nats(model, chosen or range(rows), progress)
        return found

    def contents(self, step: int) -> list[str]:
        """Files and lines of the conversations in the batch of a step."""
        return self.packs.documents(step - 1)

    def _learnt(self, rows: Rows) -> tuple[np.ndarray, int]:
        """Which tokens are learnt, and how many of them are next tokens of the row's inputs."""
        learnt_BX = rows.mask_BX == LEARNT
        return learnt_BX, int(learnt_BX[:, 1 : self.recipe.data.sequence_length + 1].sum())

    @torch.no_grad()
    def _nats(self, model: DeepSeekModel, rows: range | list[int], progress: Progress | None) -> float:
        """Nats per token that is learnt in some held-out rows."""
        assert self.held_out is not None
        size = self.recipe.train.micro_batch_size or self.recipe.train.batch_size
        device, told = model.head_weight.device, progress or (lambda done, total: None)
        nats, tokens, end = 0.0, 0, self.recipe.data.sequence_length + 1  # what the MTP module looks ahead is not read
        told(0, len(rows))
        for first in range(0, len(rows), size):
            part = self.held_out.rows(np.array(rows[first : first + size], dtype=np.int64))
            learnt_BX, counted = self._learnt(part)
            arrays = part.tokens_BX, learnt_BX.astype(np.float32), part.start_BX
            tokens_BX, weight_BX, start_BX = (torch.from_numpy(each[:, :end]).to(device) for each in arrays)
            losses = model.loss(tokens_BX, 0.0, None, weight_BX, start_BX)
            nats, tokens = nats + losses.main.item(), tokens + counted
            told(first + len(part.tokens_BX), len(rows))
        return nats / max(tokens, 1)


def refuse_other_packs(recipe: Recipe, manifest: Manifest, tokenizer: Tokenizer | None, folder: Path) -> None:
    """Refuse data of another tokenizer than the parent's, where that is given, and other data than the recipe says."""
    packs, cure = manifest.packs, "change the recipe, or prepare anew"
    if packs is None:
        raise UserError(f"{folder}: a stream of documents, and [sft] needs packed conversations: prepare anew")
    if tokenizer is not None and manifest.tokenizer_sha256 != tokenizer.sha256:
        raise UserError(f"{folder}: made with another tokenizer than the parent's: prepare anew")
    pairs = [
        (f"data.{name}", getattr(recipe.data, name), getattr(manifest.config, name))
        for name in ("source", "paths", "exclude", "unusable", "held_out_fraction", "sequence_length")
    ]
    pairs += [("[sft]", recipe.sft, packs.sft), ("[problems]", recipe.problems, packs.problems)]
    wrong = [f"{name} = {ours!r}, but the folder has {theirs!r}" for name, ours, theirs in pairs if ours != theirs]
    if wrong:
        raise UserError(f"{folder}: not the data of the recipe: {'; '.join(wrong)}: {cure}")
