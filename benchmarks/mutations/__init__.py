"""Faults that people make, for `mutate.py`: where, which text, what instead, and what it is.

A place is a file below `clearseek/`, and after a colon the function in it whose text is meant; the text stands there
once. Each fault is one that passes for right at a glance: a sign, an axis, an order, a scale, a type, a forgotten part.
"""

from __future__ import annotations

from mutations import data, fp8, hub, kernels, model, parallel, posttrain, train

FAULTS: dict[str, list[tuple[str, str, str]]] = {}
"""Place -> faults there: the text, what instead, and what it is."""
for table in (train, model, kernels, fp8, data, hub, posttrain, parallel):
    for place, rows in table.FAULTS.items():
        FAULTS[place] = [*FAULTS.get(place, ()), *rows]

STEPS = ("train/test_reference.py",)
FORWARD = (
    "model/test_documents.py",
    "model/test_layers.py",
    "ops/test_rope.py",
    *STEPS,
    "model/test_transformer.py",
    "model/test_bf16.py",
    "model/test_parity.py",
)
IN_EIGHT_BITS = (
    "fp8/test_formats.py",
    "fp8/test_quantise.py",
    "fp8/test_matmul.py",
    "fp8/test_linear.py",
    "fp8/test_feed_forward.py",
    "model/test_fp8.py",
)
POLICY = ("posttrain/test_grpo_gradients.py", "posttrain/test_grpo.py", "posttrain/test_rollouts.py")
FINE_TUNING = ("posttrain/test_conversations.py", "posttrain/test_sft.py")
DISTILLATION = ("ops/test_divergence.py", "posttrain/test_teacher.py", "posttrain/test_distil.py")
ADAPTERS = ("model/test_lora.py", "posttrain/test_lora.py", "posttrain/test_peft.py")
RECORDS = ("verify/test_forced.py", "verify/test_children.py")
MANY = "train/parallel/"
CONVERT = ("hub/convert/test_run.py", "hub/convert/test_refusals.py", "hub/convert/test_resume.py")
TESTS: dict[str, tuple[str, ...]] = {
    "train/schedule.py": ("train/test_schedule.py", *STEPS),
    "train/accumulate.py": ("train/test_accumulate.py", *STEPS),
    "train/chunks.py": ("train/test_chunks.py", *STEPS),
    "train/record.py": ("train/test_transcript.py", *STEPS),
    "train/checkpoints/checkpoint.py": ("train/checkpoints/test_checkpoint.py", "train/test_trainer.py"),
    "train/checkpoints/files.py": ("train/checkpoints/test_checkpoint.py", "train/checkpoints/test_stored.py"),
    "train/checkpoints/record.py": ("train/checkpoints/test_checkpoint.py", "train/checkpoints/test_stored.py"),
    "train/checkpoints/stored.py": ("train/checkpoints/test_stored.py",),
    "train/checkpoints/saver.py": ("train/checkpoints/test_saver.py", "train/parallel/test_saving.py"),
    "train/transcript.py": ("train/test_transcript.py", "train/test_trainer.py"),
    "train/writer.py": ("train/test_transcript.py", "train/test_trainer.py"),
    "train/extend.py": ("train/test_extend.py",),
    "train": (*STEPS, "train/test_optimizer.py", "train/test_trainer.py", "train/test_run.py", "train/test_extend.py"),
    "config/model.py": ("ops/test_rope.py", *FORWARD),
    "model/router.py": ("model/test_router.py", *FORWARD),
    "fp8/feed_forward.py": IN_EIGHT_BITS[::-1],
    "ops": (*FORWARD, "model/test_fp8.py"),
    "model": (*FORWARD, "model/test_fp8.py"),
    "kernels": ("kernels/test_kernels.py",),
    "ops/swiglu.py": ("model/test_layers.py", *STEPS, *IN_EIGHT_BITS),
    "fp8": IN_EIGHT_BITS,
    "data/loader.py": ("data/test_loader.py",),
    "data/tokenizer.py": ("data/test_tokenizer.py", "data/test_shards.py"),
    "data/scan.py": ("data/test_scan.py", "data/test_shards.py"),
    "data/decode.py": ("data/test_decode.py",),
    "data": ("data/test_shards.py", "data/test_loader.py", "data/test_decode.py"),
    "hub/block_fp8.py": ("hub/test_block_fp8.py", "hub/test_fp8.py", *CONVERT),
    "hub/config_json.py": ("hub/test_config_json.py", "hub/test_write.py", "hub/test_portability.py"),
    "hub/rope.py": ("hub/test_config_json.py", "hub/test_write.py"),
    "hub/write.py": ("hub/test_write.py", "hub/test_fp8.py", "hub/test_foreign.py"),
    "tensors.py": ("test_tensors.py", "hub/test_write.py"),
    "counts.py": ("test_tensors.py", "plan/test_plan.py"),
    "jsontext.py": ("hub/test_safetensors.py",),
    "recipe.py": ("test_recipe.py", "train/test_header.py"),
    "hub/safetensors.py": ("hub/test_safetensors.py", *CONVERT),
    "hub": CONVERT,
    "hub/read.py": ("hub/test_write.py", "hub/test_fp8.py", "hub/test_foreign.py"),
    "evaluate/statistics.py": ("evaluate/test_statistics.py",),
    "evaluate/comparison.py": ("evaluate/test_comparison.py",),
    "evaluate/robustness.py": ("evaluate/test_robustness.py",),
    "reading/scores.py": ("reading/test_scores.py",),
    "audit/checks/scores.py": ("audit/checks/test_scores.py",),
    "evaluate/records.py": ("evaluate/test_records.py",),
    "evaluate/evaluation.py": ("evaluate/test_evaluation.py", "evaluate/test_remote.py"),
    "evaluate/answerers.py": ("evaluate/test_answerers.py",),
    "evaluate/remote.py": ("evaluate/test_remote.py",),
    "evaluate/scores.py": ("evaluate/test_evaluation.py",),
    "evaluate/check.py": ("evaluate/test_check.py",),
    "evaluate/tasks": ("evaluate/test_tasks.py",),
    "evaluate": ("evaluate/test_bits.py", *STEPS),
    "inference": ("inference/test_sampler.py",),
    "posttrain/losses.py": ("posttrain/test_losses.py", *POLICY),
    "posttrain/grpo.py": POLICY,
    "posttrain/grpo.py:_notes": ("posttrain/test_grpo.py",),
    "posttrain/rollouts.py": (*POLICY[::-1], *RECORDS),
    "problems/rewards.py": ("problems/test_rewards.py", "problems/test_problems.py"),
    "problems/problems.py": ("problems/test_problems.py",),
    "problems/prompts.py": ("problems/test_problems.py", *FINE_TUNING),
    "problems/questions.py": ("problems/test_problems.py", "posttrain/test_code.py", "posttrain/test_grpo.py"),
    "posttrain/solved.py": ("posttrain/test_solved.py", "posttrain/test_ladder.py", "posttrain/test_grpo.py"),
    "posttrain/conversations.py": FINE_TUNING,
    "posttrain/sft.py": FINE_TUNING,
    "posttrain/lessons.py": ("posttrain/test_lessons.py", *DISTILLATION),
    "posttrain/soft_labels.py": DISTILLATION,
    "posttrain/distil.py": DISTILLATION,
    "posttrain/material.py": ("posttrain/test_lessons.py", *DISTILLATION),
    "posttrain/texts.py": ("posttrain/test_texts.py", *DISTILLATION),
    "posttrain/lora.py": ADAPTERS,
    "posttrain/peft.py": ADAPTERS[::-1],
    "posttrain/experts.py": ("posttrain/test_experts.py",),
    "posttrain/child.py": ("posttrain/test_child.py", "posttrain/test_experts.py"),
    "posttrain/parent.py": ("posttrain/test_child.py", "posttrain/test_teacher.py"),
    "data/packs.py": ("data/test_packs.py", *FINE_TUNING),
    "ops/loss.py": ("ops/test_loss.py", *FORWARD, "model/test_fp8.py"),
    "ops/divergence.py": ("ops/test_divergence.py", *FORWARD, "model/test_fp8.py"),
    "model/lora.py": (*ADAPTERS, "posttrain/test_child.py"),
    "kernels/low_rank.py": ("kernels/test_kernels.py", *ADAPTERS),
    "inference/batch.py": ("inference/test_batch.py", "posttrain/test_rollouts.py"),
    "verify": RECORDS,
    "verify/rollouts.py": ("verify/test_rollouts.py", *RECORDS),
    "verify/parts.py": ("verify/test_parts.py",),
    "verify/join.py": ("verify/test_parts.py",),
    "train/parallel/hashes.py": (f"{MANY}test_work.py",),
    "train/parallel/work.py": (f"{MANY}test_work.py",),
    "train/parallel/work.py:SharedWork.held": (f"{MANY}test_pipeline.py", f"{MANY}test_work.py"),
    "train/parallel/exchange.py": (f"{MANY}test_exchange.py", f"{MANY}test_work.py"),
    "train/parallel/fsdp.py": (f"{MANY}test_work.py", f"{MANY}test_fsdp.py", f"{MANY}test_dry.py"),
    "train/parallel/pipeline.py": (f"{MANY}test_pipeline.py", f"{MANY}test_idle.py"),
    "train/parallel/staged.py": (f"{MANY}test_pipeline.py",),
    "train/parallel/experts.py": (f"{MANY}test_experts.py", f"{MANY}test_work.py"),
    "train/parallel/compare.py": (f"{MANY}test_world.py",),
    "train/parallel/promise.py": (f"{MANY}test_promise.py",),
    "train/parallel/pulse.py": (f"{MANY}test_pulse.py", f"{MANY}test_launch.py"),
    "train/parallel/worker.py": (f"{MANY}test_launch.py", f"{MANY}test_world.py"),
    "train/parallel/world.py": (f"{MANY}test_world.py", f"{MANY}test_launch.py"),
    "model/stages.py": (f"{MANY}test_pipeline.py",),
    "ops/deferred.py": ("ops/test_deferred.py", "model/test_recompute.py"),
    "ops/travel.py": (f"{MANY}test_experts.py",),
    "ops/recompute.py": ("model/test_recompute.py",),
    "parts.py": (f"{MANY}test_exchange.py", "plan/test_states.py", "train/checkpoints/test_stored.py"),
    "plan/layout.py": ("plan/test_layout.py",),
    "plan/stages.py": ("plan/test_stages.py", f"{MANY}test_pipeline.py"),
    "plan/states.py": ("plan/test_states.py", f"{MANY}test_dry.py"),
    "plan/traffic.py": ("plan/test_traffic.py",),
    "plan/propose.py": ("plan/test_traffic.py", "plan/test_plan.py"),
}
"""What a place starts with -> the test files that should notice, below `tests/`; the longest such name counts."""
