"""Write tests/ops/fixtures/divergence.json: TRL's generalised Jensen-Shannon divergence and its gradients.

Needs TRL, which the tests do not. ``python -m benchmarks.record_divergence``.
"""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

TARGET = Path(__file__).parents[1] / "tests/ops/fixtures/divergence.json"
TOKENS, VOCABULARY = 5, 11


def main() -> None:
    """Record a few betas and temperatures on the same logits."""
    from trl.experimental.gkd import GKDTrainer  # type: ignore[import-not-found]

    draw = torch.Generator().manual_seed(7)
    student, teacher = (3 * torch.randn(1, TOKENS, VOCABULARY, generator=draw) for _ in range(2))
    labels = torch.zeros(1, TOKENS, dtype=torch.int64)
    labels[0, 1] = -100
    cases: list[dict[str, Any]] = []
    for beta in (0.0, 0.1, 0.5, 0.9, 1.0):
        for temperature in (1.0, 0.7, 2.0):
            leaf = student.clone().requires_grad_()
            loss = GKDTrainer.generalized_jsd_loss(leaf, teacher, labels, beta, temperature)
            loss.backward()
            assert leaf.grad is not None
            cases.append(
                {"beta": beta, "temperature": temperature, "loss": loss.item(), "gradient": leaf.grad[0].tolist()}
            )
    record = {
        "versions": {name: version(name) for name in ("trl", "torch")},
        "student": student[0].tolist(),
        "teacher": teacher[0].tolist(),
        "left_out": [1],
        "cases": cases,
    }
    TARGET.parent.mkdir(exist_ok=True)
    TARGET.write_text(json.dumps(record) + "\n")


if __name__ == "__main__":
    main()
