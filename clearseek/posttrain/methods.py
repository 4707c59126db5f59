"""Which method a recipe asks for, with the parts that all methods of post-training share."""

from __future__ import annotations

from clearseek.config import Recipe
from clearseek.posttrain.distil import Distil
from clearseek.posttrain.grpo import Grpo
from clearseek.posttrain.lora import targets_of
from clearseek.posttrain.sft import Sft
from clearseek.train.session import Method, PreTrain


def method_of(recipe: Recipe) -> Method:
    """What is done around the steps of a recipe's run.

    Raises UserError for adapters of matrices that the model does not have: before data are prepared.
    """
    if recipe.parent is None:
        return PreTrain()
    if recipe.lora is not None:
        targets_of(recipe.model, recipe.lora.targets)
    if recipe.distil is not None:
        return Distil()
    return Grpo() if recipe.grpo is not None else Sft()
