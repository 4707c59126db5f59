"""TRL's own policy losses on fixed vectors: ``python -m tests.posttrain.trl_losses`` records them in fixtures/.

``GRPOTrainer._compute_loss`` is called with a stand-in for the trainer that holds its settings and, for the model's
log-probabilities, a table of numbers that has a gradient. All is FP64, so what is recorded is rounded once.
"""

from __future__ import annotations

import importlib.metadata
import itertools
import json
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

FIXTURE = Path(__file__).parent / "fixtures" / "trl_losses.json"
LENGTHS = (5, 1, 9, 3, 4, 7, 2, 6)
COMPLETIONS, LONGEST = len(LENGTHS), max(LENGTHS)
BOUNDS = {"gspo": (0.03, 0.04), "cispo": (0.2, 0.3)}
"""clip_low and clip_high, for CISPO the paper's; others have 0.2 and 0.28."""


def cases() -> list[dict[str, Any]]:
    """Settings by our names."""
    levels = [(kind, level) for kind in ("grpo", "dr-grpo", "dapo", "cispo") for level in ("token", "sequence")]
    found = []
    for (kind, level), (beta, unbiased), threshold in itertools.product(
        [*levels, ("gspo", "sequence")], [(0.0, False), (0.04, False), (0.04, True)], [None, 0.05]
    ):
        low, high = BOUNDS.get(kind, (0.2, 0.28))
        found.append(
            {
                "kind": kind, "importance": level, "beta": beta, "unbiased_kl": unbiased, "clip_low": low,
        "clip_high": high, "off_policy_threshold": threshold, "max_completion": 12 if kind == "dr-grpo" else 0,
            }
        )  # fmt: skip
    return found


def vectors(seed: int = 0) -> dict[str, list[float]]:
    """Log-probabilities of all tokens and advantages of all completions, each a multiple of 2^-20."""
    draw = torch.Generator().manual_seed(seed)

    def rounded(x: Tensor) -> list[float]:
        return ((x * 2**20).round() / 2**20).tolist()

    tokens = sum(LENGTHS)
    logp = -torch.empty(tokens).exponential_(1.0, generator=draw)
    advantage = torch.randn(COMPLETIONS, generator=draw)
    advantage[3] = 0.0
    return {
        "logp": rounded(logp),
        "old": rounded((logp + 0.35 * torch.randn(tokens, generator=draw)).clamp(max=0)),
        "ref": rounded((logp + 0.5 * torch.randn(tokens, generator=draw)).clamp(max=0)),
        "advantage": rounded(advantage),
    }


def padded(values: list[float]) -> Tensor:
    rows = torch.zeros(COMPLETIONS, LONGEST, dtype=torch.float64)
    rows[mask() > 0] = torch.tensor(values, dtype=torch.float64)
    return rows


def mask() -> Tensor:
    return (torch.arange(LONGEST)[None] < torch.tensor(LENGTHS)[:, None]).double()


def trl_loss(case: dict[str, Any], data: dict[str, list[float]]) -> dict[str, Any]:
    """Loss, gradient of each token's log-probability, and metrics, by TRL."""
    from trl import GRPOTrainer

    leaf = padded(data["logp"]).requires_grad_()
    kind = {"dr-grpo": "dr_grpo", "gspo": "grpo"}.get(case["kind"], case["kind"])
    trainer = SimpleNamespace(
        _get_per_token_logps_and_entropies=lambda *_, **__: (leaf, torch.zeros_like(leaf), None),
        get_off_policy_mask=GRPOTrainer.get_off_policy_mask,
        aux_loss_enabled=False, top_entropy_quantile=1.0, use_vllm=False, _entropy_bonus_enabled=False,
        off_policy_mask_threshold=case["off_policy_threshold"], importance_sampling_level=case["importance"],
        beta=case["beta"], loss_type=kind, max_completion_length=case["max_completion"],
        epsilon_low=case["clip_low"], epsilon_high=case["clip_high"] + (kind == "cispo"),
        args=SimpleNamespace(use_bias_correction_kl=case["unbiased_kl"], delta=None, steps_per_generation=1),
        model=SimpleNamespace(training=True), current_gradient_accumulation_steps=1,
        _metrics=defaultdict(lambda: defaultdict(list)),
        accelerator=SimpleNamespace(num_processes=1, gather=lambda x: x, reduce=lambda x, reduction: x),
    )  # fmt: skip
    ones = torch.ones(COMPLETIONS, 1, dtype=torch.long)
    inputs = {
        "prompt_ids": ones, "prompt_mask": ones, "completion_ids": mask().long(), "completion_mask": mask(),
        "advantages": torch.tensor(data["advantage"], dtype=torch.float64), "old_per_token_logps": padded(data["old"]),
        "ref_per_token_logps": padded(data["ref"]), "num_items_in_batch": mask().sum(),
    }  # fmt: skip
    loss = GRPOTrainer._compute_loss(trainer, trainer.model, inputs)
    loss.backward()
    assert leaf.grad is not None
    return {
        "loss": loss.item(),
        "gradient": leaf.grad[mask() > 0].tolist(),
        "metrics": {name: value[0] for name, value in trainer._metrics["train"].items() if "clip" in name},
    }


def trl_advantages(rewards: list[float], group: int) -> list[float]:
    """TRL's lines of advantages, by its own standard deviation."""
    from trl.trainer.utils import nanstd

    reward = torch.tensor(rewards, dtype=torch.float64)
    mean = reward.view(-1, group).nanmean(1).repeat_interleave(group)
    spread = nanstd(reward.view(-1, group), dim=1).repeat_interleave(group)
    return ((reward - mean) / (spread + 1e-4)).tolist()


REWARDS = [0.0, 1.0, 1.0, 0.0, 0.5, 0.25, 0.125, 3.0, 0.1, 0.1, 0.1, 0.1]


def short(value: Any) -> Any:
    """Numbers with ten digits."""
    if isinstance(value, dict):
        return {key: short(each) for key, each in value.items()}
    if isinstance(value, list):
        return [short(each) for each in value]
    return float(f"{value:.10g}")


def main() -> None:
    data = vectors()
    record = {
        "versions": {name: importlib.metadata.version(name) for name in ("trl", "torch")},
        "lengths": LENGTHS,
        "vectors": data,
        "cases": [{"settings": case, **short(trl_loss(case, data))} for case in cases()],
        "advantages": {"rewards": REWARDS, "group": 4, "std": trl_advantages(REWARDS, 4)},
    }

    FIXTURE.parent.mkdir(exist_ok=True)
    text = json.dumps(record).replace('{"settings"', '\n{"settings"')
    FIXTURE.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
