"""Training runs whose cost was published, which the planner is measured against.

Each entry is the publisher's word, with its source. A run is listed only if activated parameters, tokens, device and
device hours are all published; where hours follow from a published rate or from days on a number of devices, `derived`
says how. The one constant of a plan is fitted on these runs (:mod:`clearseek.plan.calibration`); a recipe is matched to
a run by exact parameter counts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from clearseek.counts import ParameterCount
from clearseek.plan.formulas import DOLLARS_PER_HOUR, price, six_nd, utilisation
from clearseek.plan.hardware import DEVICES, Hardware


@dataclass(frozen=True, slots=True)
class Stage:
    """One line of a published cost table."""

    name: str
    hours: float
    """Device hours."""


@dataclass(frozen=True, slots=True)
class PublishedRun:
    """One published pre-training run."""

    name: str
    activated: float
    """Parameters that a token visits, as published; all parameters of a dense model."""
    tokens: float
    """Tokens of pre-training, as published."""
    device: str
    """Name of the device in :data:`~clearseek.plan.hardware.DEVICES`."""
    hours: float
    """Device hours of pre-training."""
    precision: Literal["bf16", "fp8", "unstated"]
    """Precision of the matrix products."""
    source: str
    """Publication of these figures."""
    derived: str = ""
    """Derivation of the hours, where they are not printed themselves."""
    devices: int | None = None
    """Number of devices, where published."""
    exact: tuple[int, int] | None = None
    """Total and activated parameters counted from shapes, by which a recipe is recognised."""
    later: tuple[Stage, ...] = ()
    """Stages after pre-training."""
    leaves_out: str = ""
    """Costs that the publisher says are not in these figures."""

    @property
    def hardware(self) -> Hardware:
        """The device."""
        return DEVICES[self.device]

    @property
    def flops(self) -> float:
        """Operations by ``6ND``."""
        return six_nd(self.activated, self.tokens)

    @property
    def utilisation(self) -> float:
        """Share of the BF16 peak that the published hours imply."""
        return utilisation(self.flops, self.hours, self.hardware.bf16)

    @property
    def stages(self) -> tuple[Stage, ...]:
        """Every line of the cost table, pre-training first."""
        return (Stage("pre-training", self.hours), *self.later)

    @property
    def total_hours(self) -> float:
        """Device hours of all stages."""
        return sum(stage.hours for stage in self.stages)

    def dollars(self, dollars_per_hour: float = DOLLARS_PER_HOUR) -> float:
        """Rent for all stages."""
        return price(self.total_hours, dollars_per_hour)


_LLAMA_1 = "LLaMA paper (arXiv 2302.13971), tables 2 and 15"
_LLAMA_2 = "Llama 2 model card (github.com/meta-llama/llama-models, models/llama2)"
_LLAMA_31 = "Llama 3.1 model card (github.com/meta-llama/llama-models, models/llama3_1)"
_LLAMA_4 = "Llama 4 model card (github.com/meta-llama/llama-models, models/llama4)"
_V2 = "DeepSeek-V2 report (arXiv 2405.04434), page 16"

RUNS: tuple[PublishedRun, ...] = (
    PublishedRun("LLaMA-7B", 6.7e9, 1.0e12, "a100-80gb", 82_432, "unstated", _LLAMA_1),
    PublishedRun("LLaMA-13B", 13.0e9, 1.0e12, "a100-80gb", 135_168, "unstated", _LLAMA_1),
    PublishedRun("LLaMA-33B", 32.5e9, 1.4e12, "a100-80gb", 530_432, "unstated", _LLAMA_1),
    PublishedRun("LLaMA-65B", 65.2e9, 1.4e12, "a100-80gb", 1_022_362, "unstated", _LLAMA_1, devices=2048),
    PublishedRun("Llama-2-7B", 7e9, 2.0e12, "a100-80gb", 184_320, "unstated", _LLAMA_2),
    PublishedRun("Llama-2-13B", 13e9, 2.0e12, "a100-80gb", 368_640, "unstated", _LLAMA_2),
    PublishedRun("Llama-2-70B", 70e9, 2.0e12, "a100-80gb", 1_720_320, "unstated", _LLAMA_2),
    PublishedRun("BLOOM-176B", 176.247e9, 366e9, "a100-80gb", 1_082_990, "bf16",
                 "BLOOM paper (arXiv 2211.05100)", devices=384),
    PublishedRun("StarCoderBase", 15.5e9, 1.0e12, "a100-80gb", 320_256, "bf16",
                 "StarCoder paper (arXiv 2305.06161)", devices=512),
    PublishedRun("Llama-3.1-8B", 8e9, 15e12, "h100", 1.46e6, "bf16", _LLAMA_31),
    PublishedRun("Llama-3.1-70B", 70e9, 15e12, "h100", 7.0e6, "bf16", _LLAMA_31),
    PublishedRun("Llama-3.1-405B", 405e9, 15.6e12, "h100", 30.84e6, "bf16",
                 f"{_LLAMA_31}; tokens: Llama 3 paper (arXiv 2407.21783), section 3"),
    PublishedRun("SmolLM3-3B", 3.08e9, 11.2e12, "h100", 384 * 24 * 24, "bf16", "huggingface.co/blog/smollm3",
                 derived="24 days on 384 devices", devices=384),
    PublishedRun("Llama-4-Scout", 17e9, 40e12, "h100", 5.0e6, "unstated", _LLAMA_4),
    PublishedRun("Llama-4-Maverick", 17e9, 22e12, "h100", 2.38e6, "unstated", _LLAMA_4),
    PublishedRun("DeepSeek-67B", 67e9, 2.0e12, "h800", 2.0 * 300_600, "bf16", _V2,
                 derived="300.6K hours per trillion tokens x 2"),
    PublishedRun("DeepSeek-V2", 21e9, 8.1e12, "h800", 8.1 * 172_800, "unstated", _V2,
                 derived="172.8K hours per trillion tokens x 8.1"),
    PublishedRun("DeepSeek-V3", 37e9, 14.8e12, "h800", 2_664_000, "fp8",
                 "DeepSeek-V3 report (arXiv 2412.19437), table 1",
                 derived="180K hours per trillion tokens x 14.8, as the report does", devices=2048,
                 exact=(671_026_419_200, 37_552_297_472),
                 later=(Stage("context extension", 119_000), Stage("post-training", 5_000)),
                 leaves_out="earlier research and ablations on architectures, algorithms and data"),
)  # fmt: skip
"""The published runs, by device and age."""


def match(count: ParameterCount) -> PublishedRun | None:
    """The published run of a model with exactly these parameters, or None."""
    return next((run for run in RUNS if run.exact == (count.total, count.activated)), None)
