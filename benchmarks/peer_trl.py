"""TRL's side of `grpo_speed.py` and `sft_speed.py`, run by a Python that has TRL and nothing of ClearSeek's.

``peer_trl.py grpo FOLDER`` and ``peer_trl.py sft FOLDER`` read settings, model and data there. A turn is a part of
TRL's own loop, from the end of one optimiser step to the end of another, whatever TRL does in between.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from turns import Turns

TURNS = Turns()  # before the libraries can print

import torch  # noqa: E402
import transformers  # noqa: E402
import trl  # noqa: E402
from datasets import Dataset  # noqa: E402

FOLDER = Path(sys.argv[2])
SETTINGS: dict[str, Any] = json.loads((FOLDER / "settings.json").read_text())


class ByTurns(transformers.TrainerCallback):
    """Holds the loop after every `steps` optimiser steps until it is asked to go on."""

    def __init__(self, steps: int, counted: dict[str, Any], told: Callable[[], dict[str, Any]] = dict) -> None:
        self.steps, self.counted, self.told, self.model = steps, counted, told, None

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **rest: Any) -> None:
        self.model = model
        TURNS.hello(trl=trl.__version__, transformers=transformers.__version__, torch=torch.__version__,
                    threads=torch.get_num_threads())  # fmt: skip
        self._next(control)

    def on_step_end(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        if state.global_step % self.steps == 0:
            TURNS.done(**self.counted, **self.told())
            self._next(control)

    def _next(self, control: Any) -> None:
        request = TURNS.wait()
        self.counted.update({name: type(value)() for name, value in self.counted.items()})
        if request is None:
            control.should_training_stop = True
            return
        if "attention" in request:
            self.model.set_attn_implementation(request["attention"])
            self.model.set_experts_implementation(request["experts"])
        TURNS.restart()


def common() -> dict[str, Any]:
    """Arguments of both trainers."""
    optimizer = SETTINGS["optimizer"]
    return {
        "output_dir": str(FOLDER / "trl"), "use_cpu": True, "bf16": False, "fp16": False,
        "gradient_checkpointing": False, "learning_rate": optimizer["learning_rate"],
        "adam_beta1": optimizer["betas"][0], "adam_beta2": optimizer["betas"][1], "adam_epsilon": optimizer["eps"],
        "weight_decay": optimizer["weight_decay"], "max_grad_norm": optimizer["grad_clip"],
        "optim": "adamw_torch_fused", "lr_scheduler_type": "constant", "warmup_steps": 0, "report_to": "none",
        "logging_strategy": "no", "save_strategy": "no", "disable_tqdm": True, "max_steps": 100_000,
        "model_init_kwargs": {"dtype": "float32"},
    }  # fmt: skip


def grpo() -> None:
    """Policy optimisation."""
    counted: dict[str, Any] = {"samples": 0, "tokens": 0, "prompts": []}
    batch = SETTINGS["prompts"] * SETTINGS["group"]

    def parity(prompts: list[str], completion_ids: list[list[int]], **rest: Any) -> list[float]:
        counted["samples"] += len(completion_ids)
        counted["tokens"] += sum(map(len, completion_ids))
        seen = dict.fromkeys(tuple(ids) for ids in trainer.processing_class(text=prompts)["input_ids"])
        counted["prompts"] += list(seen)
        return [float(sum(ids) % 2) for ids in completion_ids]

    arguments = trl.GRPOConfig(
        **common(), per_device_train_batch_size=batch, num_generations=SETTINGS["group"], steps_per_generation=1,
        gradient_accumulation_steps=1, num_iterations=1, max_completion_length=SETTINGS["tokens"], temperature=1.0,
        top_p=1.0, top_k=0, beta=0.0, loss_type="dapo", scale_rewards="none", epsilon=0.2, epsilon_high=0.28,
        shuffle_dataset=False, mask_truncated_completions=False,
    )  # fmt: skip
    prompts = json.loads((FOLDER / "prompts.json").read_text())
    trainer = trl.GRPOTrainer(
        model=str(FOLDER / "export"), reward_funcs=[parity], args=arguments, 
        callbacks=[ByTurns(1, counted, lambda: {"entropy": trainer._metrics["train"]["entropy"][-1]})],
        train_dataset=Dataset.from_dict({"prompt": prompts}),
    )  # fmt: skip
    trainer.train()


def sft() -> None:
    """Supervised fine-tuning, a conversation a row."""
    counted: dict[str, Any] = {"learnt": 0, "tokens": 0, "rows": 0, "padded": 0}
    arguments = trl.SFTConfig(
        **common(), per_device_train_batch_size=SETTINGS["batch"], gradient_accumulation_steps=1, packing=False,
        assistant_only_loss=True, max_length=SETTINGS["length"], shuffle_dataset=False,
        train_sampling_strategy="group_by_length" if SETTINGS["grouped"] else "sequential",
    )  # fmt: skip
    conversations = json.loads((FOLDER / "conversations.json").read_text())
    trainer = trl.SFTTrainer(
        model=str(FOLDER / "export"), args=arguments, callbacks=[ByTurns(SETTINGS["steps"], counted)],
        train_dataset=Dataset.from_list([{"messages": messages} for messages in conversations]),
    )  # fmt: skip
    collate = trainer.data_collator

    def counting(rows: list[dict[str, Any]]) -> Any:
        made = collate(rows)
        counted["learnt"] += int((made["labels"][:, 1:] != -100).sum())
        counted["tokens"] += int(made["attention_mask"].sum())
        counted["rows"] += len(rows)
        counted["padded"] += made["input_ids"].numel()
        return made

    trainer.data_collator = counting
    made = trainer.data_collator([trainer.train_dataset[number] for number in range(SETTINGS["compared"])])
    (FOLDER / "theirs.json").write_text(json.dumps([
        [[token, label != -100] for token, label, there in zip(*row, strict=True) if there]
        for row in zip(*(made[name].tolist() for name in ("input_ids", "labels", "attention_mask")), strict=True)
    ]))  # fmt: skip
    trainer.train()


if __name__ == "__main__":
    {"grpo": grpo, "sft": sft}[sys.argv[1]]()
