"""What the methods of post-training have in common: what is trained, and what is drawn."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch

from clearseek.config import Recipe
from clearseek.model.transformer import DeepSeekModel
from clearseek.posttrain.experts import Chosen, choose_experts, measure_usage
from clearseek.posttrain.lora import add_lora
from clearseek.posttrain.pictures import expert_use
from clearseek.posttrain.rollouts import Writer
from clearseek.train.checkpoints import checkpoint
from clearseek.train.optimizer import Trained
from clearseek.train.run import Run, model_of
from clearseek.train.session import draw_loads
from clearseek.train.task import Batch, Task
from clearseek.train.work import Trainable, everything


class Child:
    """Base of the methods of post-training."""

    def task(self, recipe: Recipe, run: Run, folder: Path, checked: bool = False) -> Task:
        """What the run trains on."""
        raise NotImplementedError

    def resolved(self, recipe: Recipe, run: Run, task: Task) -> Recipe:
        """The recipe with the experts that are trained, chosen by how the parent uses them on the task's batches."""
        experts = recipe.experts
        if experts is None or experts.layers is not None:
            return recipe
        model = _parent(recipe, run)
        usage = measure_usage(model, self.batches(recipe, task, model, experts.batches))
        chosen = choose_experts(usage, experts.score, experts.share)
        layers = {name: numbers for name, numbers in chosen.layers.items() if not name.startswith(_left_out(recipe))}
        found = experts.model_copy(update={"layers": layers})
        return recipe.model_copy(update={"experts": found})

    def batches(self, recipe: Recipe, task: Task, model: DeepSeekModel, count: int) -> Iterator[Batch]:
        """The task's first batches, to see which experts it uses; what a model writes for them is not kept."""
        task = task.without_records() if isinstance(task, Writer) else task
        return (task.batch(step, model) for step in range(1, min(count, recipe.train.steps) + 1))

    def trainable(self, recipe: Recipe, run: Run) -> Trainable:
        """What the recipe trains: adapters, some experts, or all parameters.

        The multi-token-prediction layer is left out where its loss counts nothing.
        """
        chosen, outside = _chosen(recipe), _left_out(recipe)
        return lambda model: [each for each in chosen(model) if not each.name.startswith(outside)]

    def draw(self, run: Run, folder: Path, title: str) -> None:
        """Draw the expert-load heat map and, where experts were tuned, what the task uses before and after."""
        run.pictures.mkdir(parents=True, exist_ok=True)
        draw_loads(run)
        recipe = run.read_recipe()
        if recipe.experts is None:
            return
        task = self.task(recipe, run, folder)
        before, after = _parent(recipe, run), run.load_model()[0]
        batches = list(self.batches(recipe, task, before, recipe.experts.batches))
        used, uses = (measure_usage(model, batches) for model in (before, after))
        layers = {name: tuple(experts) for name, experts in (recipe.experts.layers or {}).items()}
        chosen = Chosen(layers, recipe.experts.score, recipe.experts.share, used.tokens)
        expert_use(used, uses, chosen, run.pictures / "experts-of-the-task.png")


def _left_out(recipe: Recipe) -> tuple[str, ...]:
    """Beginnings of the names of parameters that take no part."""
    counts = recipe.train.mtp_loss_weight or recipe.train.mtp_loss_weight_final
    return () if counts else (f"model.layers.{recipe.model.num_hidden_layers}.",)


def _chosen(recipe: Recipe) -> Trainable:
    lora, experts = recipe.lora, recipe.experts
    if lora is not None:
        return lambda model: [Trained(*pair) for pair in add_lora(model, lora, recipe.train.seed)]
    if experts is None:
        return everything
    assert experts.layers is not None
    chosen = Chosen(experts.layers, experts.score, experts.share, 1)
    return lambda model: [Trained(name, model.get_parameter(name), rows) for name, rows in chosen.rows()]


def _parent(recipe: Recipe, run: Run) -> DeepSeekModel:
    """The model that a run begins with, in FP32."""
    saved = checkpoint.load(checkpoint.find(run.parent, 0), checkpoint.MODEL)
    return model_of(recipe, saved.tensors, torch.float32)
