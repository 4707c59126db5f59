"""transformers' DeepSeek-V3 under its own Trainer: a contender of `time_to_loss.py`.

The shapes are ClearSeek's, the optimiser AdamW with DeepSeek-V3's decays (0.9 and 0.95), weight decay 0.1, gradients
clipped at 1, rates that rise over a twentieth of the steps and fall linearly to zero. Weights are FP32, BF16 is
autocast. The Trainer would compile a model again for every run; so one model is compiled in place, autocast within it,
and takes new weights for each run.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import accelerate
import torch
import transformers
from contest import Clock, Contest, Logits, Setting, compilers
from torch import Tensor
from torch.utils.data import IterableDataset

RATE = 2e-3


class Windows(IterableDataset[dict[str, Tensor]]):
    """The rows of the batches in their order; the Trainer shifts them itself."""

    def __init__(self, contest: Contest, seed: int) -> None:
        self.contest, self.seed = contest, seed

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        for batch in self.contest.batches(self.seed):
            for row in batch[:, :-1]:
                yield {"input_ids": row, "labels": row}


class ByTurns(transformers.TrainerCallback):
    """Tells the clock of steps."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def on_train_begin(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        self.clock.begin()

    def on_step_end(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        self.clock.step()


def narrowed(forward: Callable[..., Any]) -> Callable[..., Any]:
    """A model's `forward` with products in BF16."""

    @functools.wraps(forward)
    def narrow(*args: Any, **named: Any) -> Any:
        with torch.autocast("cpu", torch.bfloat16):
            return forward(*args, **named)

    return narrow


class Transformers:
    """The peer."""

    def __init__(self, contest: Contest) -> None:
        self.contest, model = contest, contest.recipe.model
        fields = model.model_dump(exclude={"scoring_func", "topk_method", "rope_scaling", "num_nextn_predict_layers"})
        rope = {"rope_theta": model.rope_theta, "rope_type": "default"}
        self._compiled: dict[str, Any] = {}
        self.config = transformers.DeepseekV3Config(
            **fields, num_key_value_heads=model.num_attention_heads, rope_parameters=rope, use_cache=False
        )

    def facts(self) -> dict[str, Any]:
        everything = sum(parameter.numel() for parameter in self._model(0).parameters())
        return {"parameters": everything, "active": self.contest.active, "peak_rates": {"all": RATE},
                "transformers": transformers.__version__, "accelerate": accelerate.__version__}  # fmt: skip

    def settings(self) -> list[Setting]:
        types = ("float32", "bfloat16") if self.contest.bf16 else ("float32",)
        whole = [{"attention": attention, "experts": experts, "compiled": False}
                 for attention in ("sdpa", "eager") for experts in ("eager", "grouped_mm")]  # fmt: skip
        # Eager experts, whose sizes the data decide, gain nothing from the compiler.
        whole += [{"attention": "sdpa", "experts": "grouped_mm", "compiled": True}] * compilers()
        return [{"precision": each} | setting for each in types for setting in whole]

    def _model(self, seed: int) -> Any:
        torch.manual_seed(seed)
        return transformers.DeepseekV3ForCausalLM(self.config).train()

    def _set(self, setting: Setting, seed: int) -> Any:
        """A model with fresh weights that computes in this setting."""
        model = self._model(seed)
        if setting["compiled"] and setting["precision"] in self._compiled:
            old = self._compiled[setting["precision"]].train()
            old.load_state_dict(model.state_dict())
            return old
        if setting["precision"] == "bfloat16":
            model.forward = narrowed(model.forward)
        model.set_attn_implementation(setting["attention"])
        model.set_experts_implementation(setting["experts"])
        if setting["compiled"]:
            self._compiled[setting["precision"]] = model
            model.compile()
        return model

    def train(self, setting: Setting, steps: int, factor: float, seed: int, clock: Clock) -> None:
        self.model = self._set(setting, seed)
        arguments = transformers.TrainingArguments(
            output_dir=str(self.contest.folder / "trainer"), use_cpu=True, remove_unused_columns=False,
            per_device_train_batch_size=self.contest.batch, max_steps=steps, learning_rate=factor * RATE,
            lr_scheduler_type="linear", warmup_steps=max(1, round(0.05 * steps)), optim="adamw_torch_fused",
            adam_beta1=0.9, adam_beta2=0.95, weight_decay=0.1, max_grad_norm=1.0, seed=seed, report_to="none",
            logging_strategy="no", save_strategy="no", disable_tqdm=True,
        )  # fmt: skip
        data = Windows(self.contest, seed)
        transformers.Trainer(self.model, arguments, train_dataset=data, callbacks=[ByTurns(clock)]).train()

    def evaluate(self) -> float:
        self.model.eval()
        plain = transformers.DeepseekV3ForCausalLM.forward  # neither compiled nor narrow
        return self.contest.bits(Logits(lambda tokens: plain(self.model, input_ids=tokens).logits))
