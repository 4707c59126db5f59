"""The trainer's steps against a second one that shares no code with it, across every switch of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from clearseek.train.pretrain import PreTraining
from clearseek.train.record import StepRecord
from clearseek.train.run import read_metrics
from clearseek.train.trainer import Trainer
from clearseek.train.transcript import check_transcript
from tests.tiny import tiny, trainer_of
from tests.train.reference import Model, Tally, Training, per_matrix

STEPS = 8
FACTORS = [0.5, 1.0, 1.0, 1.0, 0.55, 0.1, 0.05, 0.05]
"""Of the schedule below: a warm-up, a plateau, half of a cosine from 1 to 0.1 and all of it, a constant end."""
SCHEDULE = [
    {"shape": "linear", "until": 0.25, "to": 1.0},
    {"shape": "constant", "until": 0.5, "to": 1.0},
    {"shape": "cosine", "until": 0.75, "to": 0.1},
    {"shape": "constant", "until": 1.0, "to": 0.05},
]
MTP = [0.3, 0.3, 0.3, 0.1, 0.1, 0.1, 0.1, 0.1]
SPEED = [0.02, 0.02, 0.02, 0.02, 0.02, 0.0, 0.0, 0.0]
TRAIN: dict[str, Any] = {
    "steps": STEPS, "batch_size": 6, "micro_batch_size": 2, "precision": "fp32", "checkpoint_every": 100,
    "bias_update_speed": 0.02, "bias_update_until": 0.625, "balance_loss_weight": 0.05,
    "mtp_loss_weight": 0.3, "mtp_loss_weight_final": 0.1, "mtp_switch": 0.375, "eval_every": 3, "eval_sequences": 5,
}  # fmt: skip
OPTIMIZER: dict[str, Any] = {
    # An epsilon above the rounding of FP32 gradients: without it AdamW makes whole steps of a gradient's noise.
    "eps": 1e-5, "learning_rate": 4e-3, "muon_learning_rate": 8e-3, "weight_decay": 0.2, "schedule": SCHEDULE,
    "betas": [0.8, 0.9], "momentum": 0.9, "grad_clip": 2.05,
}  # fmt: skip
V2 = {"scoring_func": "softmax", "topk_method": "greedy", "norm_topk_prob": False, "num_nextn_predict_layers": 0}
GROUPS = {"n_group": 4, "topk_group": 2}
YARN = {"factor": 4.0, "original_max_position_embeddings": 16}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "adamw, v3, large epsilon in norms": ("adamw", {"rms_norm_eps": 1e-4}),
    "adamw, plain queries, no MTP": ("adamw", {"q_lora_rank": None, "num_nextn_predict_layers": 0}),
    "adamw, groups, two shared, YaRN": ("adamw", GROUPS | {"n_shared_experts": 2, "rope_scaling": YARN}),
    "adamw, tied, no dense layer": ("adamw", {"tie_word_embeddings": True, "first_k_dense_replace": 0}),
    "adamw, v2": ("adamw", V2 | {"routed_scaling_factor": 1.5}),
    "muon, v3, groups": ("muon", {"n_group": 2, "topk_group": 1}),
    "muon, v3": ("muon", {}),
    "muon, plain queries, no MTP": ("muon", {"q_lora_rank": None, "num_nextn_predict_layers": 0}),
    "muon, v2": ("muon", V2 | GROUPS | {"topk_method": "group_limited_greedy"}),
}


def bits_per_byte(model: Model, data: Path, length: int, sample: int | None) -> float:
    """Of the held-out text, from half-overlapping windows: all of them, or `sample` of them evenly spread."""
    tokens = torch.from_numpy(np.fromfile(data / "heldout-00000.bin", dtype="<u2").astype(np.int64))
    starts = range(0, len(tokens) - 1 - length // 2, length // 2)
    places = range(len(starts)) if sample is None else [i * (len(starts) - 1) // (sample - 1) for i in range(sample)]
    nats, predicted = 0.0, 0
    for place in places:
        piece = tokens[starts[place] : starts[place] + length + 1]
        first = 0 if place == 0 else length // 2  # the other half was predicted by the window before
        with torch.no_grad():
            hidden = model.hidden(piece[None, :-1], Tally())[0, first:]
            nats += model.nats(hidden, piece[1 + first :]).item() * len(hidden)
        predicted += len(hidden)
    assert sample is not None or predicted == len(tokens) - 1
    return nats / np.log(2) / predicted * (len(tokens) - 1) / (data / "heldout.txt").stat().st_size


class Comparison:
    """Looks at the trainer after each step, and takes the same step with the reference."""

    def __init__(self, trainer: Trainer, data: Path) -> None:
        self.trainer, self.data = trainer, data
        self.reference = Training(trainer.recipe, trainer.training.work.masters.weights())
        self.clipped: set[bool] = set()
        self.evaluated: list[int] = []

    def update(self, record: StepRecord) -> None:
        trainer, step = self.trainer, record.step
        if step == STEPS and "held_out_bpb" in record.scalars:  # told again, with its evaluation
            self.compare_bits(step, record.scalars["held_out_bpb"], sample=None)
            return
        task = trainer.training.task
        assert isinstance(task, PreTraining)
        tokens = torch.from_numpy(task.loader.batch(step - 1))
        expected = self.reference.step(tokens, FACTORS[step - 1], MTP[step - 1], SPEED[step - 1])
        self.clipped.add(expected.norm > trainer.recipe.optimizer.grad_clip)
        assert record.scalars["loss"] == pytest.approx(expected.loss, rel=2e-6)
        assert record.scalars.get("mtp_loss", 0.0) == pytest.approx(expected.mtp_loss or 0.0, rel=2e-6)
        assert record.grad_norm == pytest.approx(expected.norm, rel=2e-6)
        assert record.learning_rate == pytest.approx(4e-3 * FACTORS[step - 1])
        self.compare_weights()
        self.compare_loads(record, expected.loads)
        assert ("held_out_bpb" in record.scalars) == (step in (3, 6))
        if "held_out_bpb" in record.scalars:
            self.compare_bits(step, record.scalars["held_out_bpb"], sample=5)

    def compare_bits(self, step: int, bits: float, sample: int | None) -> None:
        self.evaluated.append(step)
        assert bits == pytest.approx(bits_per_byte(self.reference.model, self.data, 32, sample), rel=2e-6)

    def compare_weights(self) -> None:
        ours = per_matrix(self.trainer.training.work.masters.weights())
        model = per_matrix(dict(self.trainer.training.model.named_parameters()))
        for name, weight in self.reference.model.weights.items():
            assert (ours[name] - weight).abs().max() <= 2e-6, name
            assert torch.equal(model[name], ours[name]), name

    def compare_loads(self, record: StepRecord, loads: torch.Tensor) -> None:
        *_, last = read_metrics(self.trainer.run.metrics)
        assert last["load"] == loads.tolist()
        assert record.balance == pytest.approx([max(row) / np.mean(row) for row in loads.tolist()])
        buffers = dict(self.trainer.training.model.named_buffers())
        v3 = self.trainer.recipe.model.topk_method == "noaux_tc"
        assert len(buffers) == (len(self.reference.model.moe) if v3 else 0)
        for name, bias in buffers.items():
            layer = int(name.split(".")[2])
            torch.testing.assert_close(bias.double(), self.reference.model.biases[layer], rtol=0, atol=1e-7)


SCALED = "muon, v3"
"""The case with scaled initial weights, and a rate of the embedding's own."""


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=pytest.mark.slow if number else ()) for number, case in enumerate(CASES)]
)
def test_steps_are_those_of_an_independent_implementation(case: str, tmp_path: Path, data: Path) -> None:
    """The trainer is FP32 and the reference FP64: after eight steps weights of about 1 differ by 3e-7 from rounding."""
    name, changes = CASES[case]
    optimizer, train = OPTIMIZER | {"name": name}, TRAIN
    if case == SCALED:
        optimizer |= {"embedding_learning_rate": 0.05, "grad_clip": 1.3}  # its gradients are smaller
        train = TRAIN | {"initial_weights": "scaled"}
    trainer = trainer_of(tiny(model=changes, optimizer=optimizer, train=train), tmp_path, data)
    comparison = Comparison(trainer, data)
    assert trainer.train(comparison.update).finished
    assert comparison.clipped == {True, False}  # the gradient norm is on both sides of the limit
    assert comparison.evaluated == [3, 6, 8]
    tokens = [step.tokens for step in check_transcript(tmp_path / "transcript.jsonl").steps]
    assert tokens == [6 * 32 * step for step in range(1, STEPS + 1)]
