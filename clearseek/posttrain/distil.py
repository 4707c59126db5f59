"""Distillation: learn from another model (Hinton et al., arXiv 1503.02531).

A token of text says which word came; a teacher's distribution says also which words might have come, and how likely
each was, so the same text teaches a small model more. Three forms:

- ``logits``: over the data, compare the student's distribution with the teacher's at every token;
- ``text``: the teacher writes texts once, and the student learns them token by token (Kim and Rush, arXiv 1606.07947);
- ``on-policy``: the student writes, and is compared with the teacher on its own texts, where its own mistakes are
  (GKD, arXiv 2306.13649).

This module is what is done around the steps: data, teacher, answers that are asked for once. The tasks themselves are
in :mod:`clearseek.posttrain.lessons`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from clearseek.config import DistilConfig, Recipe
from clearseek.data.loader import Loader, Stream
from clearseek.data.manifest import canonical_sha256, read_manifest
from clearseek.data.shards import prepare_data
from clearseek.data.tokenizer import Tokenizer
from clearseek.errors import UserError
from clearseek.files import amount
from clearseek.posttrain import asked
from clearseek.posttrain.child import Child
from clearseek.posttrain.lessons import Logits, OnPolicy, Texts
from clearseek.posttrain.material import Material, material_of
from clearseek.posttrain.parent import adopt
from clearseek.posttrain.soft_labels import SoftLabels, window_bytes, write_soft_labels
from clearseek.posttrain.teacher import Teacher, open_teacher
from clearseek.posttrain.texts import TEXTS, write_texts, writer_of
from clearseek.train.run import Run
from clearseek.train.session import OnData, Say, refuse_other_data
from clearseek.train.task import Task


class Distil(Child):
    """What is done around the steps of a run with ``[distil]``."""

    def data(self, recipe: Recipe, run: Run, data: Path | None, resume: bool, on_data: OnData | None, say: Say) -> Path:
        """The folder of data, made where it is missing, with the teacher's answers asked for beside it in the run."""
        adopt(recipe, run)
        if recipe.problems is None:
            folder = self._documents(recipe, run, data, resume, on_data, say)
        elif data is None:
            folder = run.parent  # of the tokenizer: problems are made, not read
        else:
            raise UserError("--data: [problems] are made, not read: leave the option out")
        if resume:
            asked.check(run)
        else:
            _ask(recipe, run, folder, on_data or (lambda stage, done, total: None), say)
        return folder

    def _documents(
        self, recipe: Recipe, run: Run, data: Path | None, resume: bool, on_data: OnData | None, say: Say
    ) -> Path:
        """The folder of documents, made where it is missing."""
        folder, tokenizer = data or run.data, Tokenizer.load(run.parent / "tokenizer.json")
        if data is None and not resume:
            config = recipe.data.model_copy(update={"tokenizer": str(run.parent / "tokenizer.json")})
            for line in prepare_data(config, recipe.model.vocab_size, folder, on_data).remarks.lines():
                say(f"data: {line}")
        elif not folder.is_dir():
            raise UserError(
                f"{folder}: the run's data are not in its folder: say where they are, as when it began, with "
                "--data FOLDER"
            )
        refuse_other_data(recipe, folder, given=data is not None and not resume)
        if read_manifest(folder).tokenizer_sha256 != tokenizer.sha256:
            raise UserError(
                f"{folder}: made with another tokenizer than the parent's: leave --data out, or give data that were "
                "made with the parent's tokenizer.json as data.tokenizer"
            )
        return folder

    def task(self, recipe: Recipe, run: Run, folder: Path, checked: bool = False) -> Task:
        """What the form of distillation trains on."""
        settings, record, material = _settings(recipe), asked.check(run), material_of(recipe, folder, checked)
        tokenizer = Tokenizer.load(folder / "tokenizer.json")
        if settings.form == "text":
            return Texts(recipe, material, tokenizer, run.teacher / TEXTS, record)
        teacher = None
        if settings.form == "on-policy" or not settings.top_k:
            teacher = open_teacher(settings, str(record["tokenizer_sha256"]), recipe.model.vocab_size)
            if teacher.weights_sha256 != record["weights_sha256"]:
                raise UserError(
                    f"{settings.teacher}: not the teacher that the run began with: its weights have the SHA-256 "
                    f"{teacher.weights_sha256}, and then {record['weights_sha256']}: put it back"
                )
        if settings.form == "on-policy":
            return OnPolicy(recipe, run, material, tokenizer, teacher, record)
        labels = SoftLabels(run.teacher, list(record["files"])) if teacher is None else teacher
        return Logits(recipe, material, labels, record)


def student(recipe: Recipe, run: Run, folder: Path) -> OnPolicy:
    """The task of on-policy distillation without its teacher: what the student is asked, and no step."""
    tokenizer = Tokenizer.load(folder / "tokenizer.json")
    return OnPolicy(recipe, run, material_of(recipe, folder), tokenizer, None, asked.check(run))


def _settings(recipe: Recipe) -> DistilConfig:
    assert recipe.distil is not None
    return recipe.distil


def _ask(recipe: Recipe, run: Run, folder: Path, on_data: OnData, say: Say) -> None:
    """Ask the teacher for everything that does not depend on the student, where that is not done yet."""
    settings = _settings(recipe)
    if settings.form == "text":
        _ask_for_texts(recipe, run, material_of(recipe, folder), on_data, say)
        return
    tokenizer = Tokenizer.load(folder / "tokenizer.json")
    teacher = open_teacher(settings, tokenizer.sha256, recipe.model.vocab_size)
    record: dict[str, Any] = {"form": settings.form, **teacher.record()}
    say(f"teacher: {teacher.name}, weights {teacher.weights_sha256[:16]}")
    if settings.form == "on-policy" or not settings.top_k:
        asked.begin(run, record)
        asked.finish(run, [])
        return
    record |= {
        "data_fingerprint": read_manifest(folder).fingerprint,
        "sequence_length": recipe.data.sequence_length,
        "windows": _windows(recipe, folder),
        "top_k": settings.top_k,
        "temperature": settings.temperature.hex(),
    }
    if not asked.begin(run, record):
        asked.finish(run, _soft_labels(recipe, run, folder, teacher, on_data, say))


def _windows(recipe: Recipe, folder: Path) -> int:
    """Windows of an epoch: one fewer, perhaps, for a student that looks further ahead."""
    length, lookahead = recipe.data.sequence_length, 1 + recipe.model.num_nextn_predict_layers
    return Loader(folder, "train", length, 1, 0, lookahead).windows_per_epoch


def _soft_labels(recipe: Recipe, run: Run, folder: Path, teacher: Teacher, on_data: OnData, say: Say) -> list[str]:
    settings, length, windows = _settings(recipe), recipe.data.sequence_length, _windows(recipe, folder)
    size = windows * window_bytes(length, settings.top_k, recipe.model.vocab_size)
    network = teacher.on(torch.device("cuda" if torch.cuda.is_available() else "cpu"), torch.float32)
    say(
        f"teacher: the {settings.top_k} likeliest tokens at each of {windows * length:,} places are kept, log-"
        f"probabilities in FP32: {size:,} bytes ({amount(size)}) in {run.teacher}"
    )
    return write_soft_labels(
        run.teacher, network, Stream(folder, "train"), windows, length, settings.top_k, settings.temperature,
        lambda done, total: on_data("teacher", done, total),
    )  # fmt: skip


def _ask_for_texts(recipe: Recipe, run: Run, material: Material, on_data: OnData, say: Say) -> None:
    settings = _settings(recipe)
    writer = writer_of(settings)
    prompts = material.prompts(settings.texts)
    record: dict[str, Any] = {
        "form": settings.form,
        **writer.record(),
        "data_fingerprint": material.fingerprint,
        "prompts_sha256": canonical_sha256(prompts),
        "max_tokens": settings.max_tokens,
        "temperature": settings.temperature.hex(),
        "seed": recipe.data.seed,
        **({"correct": True} if settings.correct else {}),
    }
    say(f"teacher: {record['name']} writes {settings.texts:,} texts of at most {settings.max_tokens} tokens")
    if not asked.begin(run, record):
        file = run.teacher / TEXTS
        write_texts(file, prompts, writer, recipe.data.seed, lambda done, total: on_data("texts", done, total))
        asked.finish(run, [file.name])
