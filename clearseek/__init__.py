"""ClearSeek: DeepSeek-style language models with nothing held back.

The names below are the Python interface; the command line calls the same functions. Paths may be text or
:class:`pathlib.Path`, results are typed, and whatever a user can mend raises :class:`UserError`, whose message says
what is wrong, where, and what to do. Each name is loaded when first used: importing ClearSeek loads nothing else, and
planning, preparing data and auditing never load PyTorch.

Plan and train::

    recipe = load_recipe("quickstart-small", ["train.steps=20"])   # a shipped name or a TOML file, and changes
    plan = make_plan(recipe)                # operations, memory, hours, dollars; `plan.hours`, `plan.memory`, ...
    manifest = prepare_data(recipe.data, recipe.model.vocab_size, "data")   # tokenizer, shards, fingerprint
    outcome = train_recipe(recipe, "runs/small", data="data")               # to the bit, resumable, recorded

`train_recipe` takes callbacks: `on_step(record)` is told of every step. ``Run("runs/small")`` says where everything of
a run is and loads its model: ``model, step = Run("runs/small").load_model()``.

Give and take models::

    export_hf(model.state_dict(), recipe.model, "runs/small/tokenizer.json", "exported")   # transformers, vLLM, SGLang
    config, tensors = import_hf("exported")
    convert_checkpoint("DeepSeek-V3", "DeepSeek-V3-bf16", "bf16")           # block FP8 to BF16 and back, little memory

Publish and prove::

    summary = make_release(Run("runs/small"), "my-release")                 # everything that made the model
    audit = audit_release("my-release")                                     # or anybody's: rows with answer and grade
    verification = verify_release("my-release", levels=(0, 1, 2, 5), nonce="drawn afterwards")

docs/python.md shows each of them at work.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clearseek.audit.audit import audit_release
    from clearseek.config import Recipe
    from clearseek.data.shards import prepare_data
    from clearseek.errors import UserError
    from clearseek.hub.convert.run import convert_checkpoint
    from clearseek.hub.read import import_hf
    from clearseek.hub.write import export_hf
    from clearseek.plan.plan import make_plan
    from clearseek.recipe import load_recipe
    from clearseek.release.make import make_release
    from clearseek.train.run import Run
    from clearseek.train.session import train_recipe
    from clearseek.verify.run import verify_release

__version__ = "0.2.0"
__all__ = [
    "Recipe", "Run", "UserError", "audit_release", "convert_checkpoint", "export_hf", "import_hf", "load_recipe",
    "make_plan", "make_release", "prepare_data", "train_recipe", "verify_release",
]  # fmt: skip
_HOMES = {
    "Recipe": "config", "Run": "train.run", "UserError": "errors", "audit_release": "audit.audit",
    "convert_checkpoint": "hub.convert.run", "export_hf": "hub.write", "import_hf": "hub.read",
    "load_recipe": "recipe", "make_plan": "plan.plan", "make_release": "release.make", "prepare_data": "data.shards",
    "train_recipe": "train.session", "verify_release": "verify.run",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'clearseek' has no attribute {name!r}")
    return getattr(import_module(f"clearseek.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
