"""Training runs whose makers published tokens and GPU-hours: what an estimate of cost is checked against.

Every figure is the publisher's own. Hours are of the final run alone unless `scope` says otherwise, and publishers do
not all count alike, which shows in the utilisation: 14 to 48 % of the same kind of peak.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Phase:
    """A part of a run as its publisher lists it."""

    name: str
    gpu_hours: float


@dataclass(frozen=True, slots=True)
class Published:
    """A published training run."""

    name: str
    activated: float
    """Parameters a token visits, without the input embedding where that is known."""
    tokens: float
    device: str
    gpu_hours: float
    """Of pre-training."""
    source: str
    total: int = 0
    """Parameters of the main model, where a recipe is recognised by them."""
    flops_per_token: float = 0.0
    """Where the publisher gives it, attention included."""
    phases: tuple[Phase, ...] = ()
    dollars_per_hour: float = 0.0
    scope: str = ""
    """What the publisher says the hours leave out."""


RUNS: Final = (
    Published(
        "DeepSeek-V3", 36.626e9, 14.8e12, "H800", 2_664_000, "arXiv 2412.19437, table 1", 671_026_419_200, 250.4e9,
        (Phase("pre-training", 2_664_000), Phase("context extension", 119_000), Phase("post-training", 5_000)), 2.0,
        "prior research and ablation experiments on architectures, algorithms or data",
    ),
    Published("LLaMA-7B", 6.74e9, 1.0e12, "A100", 82_432, "arXiv 2302.13971, table 15"),
    Published("LLaMA-13B", 13.02e9, 1.0e12, "A100", 135_168, "arXiv 2302.13971, table 15"),
    Published("LLaMA-33B", 32.53e9, 1.4e12, "A100", 530_432, "arXiv 2302.13971, table 15"),
    Published("LLaMA-65B", 65.29e9, 1.4e12, "A100", 1_022_362, "arXiv 2302.13971, table 15"),
    Published("Llama-2-7B", 6.74e9, 2.0e12, "A100", 184_320, "arXiv 2307.09288, table 2"),
    Published("Llama-2-13B", 13.02e9, 2.0e12, "A100", 368_640, "arXiv 2307.09288, table 2"),
    Published("Llama-2-70B", 68.98e9, 2.0e12, "A100", 1_720_320, "arXiv 2307.09288, table 2"),
    Published("BLOOM-176B", 176.25e9, 366e9, "A100", 1_082_990, "arXiv 2211.05100 and arXiv 2211.02001"),
    Published("Llama-3.1-8B", 8.03e9, 15e12, "H100", 1_460_000, "Llama 3.1 model card", scope="tokens stated as 15T+"),
    Published("Llama-3.1-70B", 70.55e9, 15e12, "H100", 7.0e6, "Llama 3.1 model card", scope="tokens stated as 15T+"),
    Published("Llama-3.1-405B", 405.85e9, 15.6e12, "H100", 30_840_000, "Llama 3.1 model card; arXiv 2407.21783"),
)  # fmt: skip


def run_of(total: int) -> Published | None:
    """The published run of the model with exactly so many parameters."""
    return next((run for run in RUNS if run.total and run.total == total), None)
