"""Completions that a policy learns from, as a record: made by the engine, kept in a file, checked by strangers.

Every draw follows from an address. The seed of a completion's draws is a hash of the recipe's seed, the round and the
completion's number, and the noise at each position follows from that seed (:mod:`clearseek.inference.sampling`): a
completion does not depend on what else was being written. So the record holds tokens, rewards and seeds, and whoever
has the weights can write them again, or check each draw in one pass (:mod:`clearseek.verify`).

Shapes: N completions, T tokens of all prompts and completions, one completion after the other, C tokens that were
drawn, L layers with experts, K experts per token.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from clearseek.config import GrpoConfig
from clearseek.errors import UserError
from clearseek.files import reading, sha256_bytes, write_atomic
from clearseek.inference.batch import Completion, complete, pages_needed
from clearseek.inference.model import forward_of
from clearseek.inference.packed import Packed, pack
from clearseek.inference.request import Settings
from clearseek.inference.storage import Kind
from clearseek.model.transformer import DeepSeekModel
from clearseek.posttrain.lora import merged_tensors
from clearseek.train.run import Run

Whole = NDArray[np.int64]
ROUNDS = "rollouts"
"""Folder of a run with the records of its rounds."""
MOST_ROWS = 512
"""Most completions that get a token in one step of generation."""

_TYPES = {
    "token_T": torch.int32, "logp_C": torch.float32, "ended_N": torch.uint8, "reward_N": torch.float32,
    "route_LTK": torch.int16, "kept_ids": torch.int32,
}  # fmt: skip
"""Types of a record's tensors that are not int64."""


def seed_of(*address: int) -> int:
    """Seed of a completion's draws by its address: the recipe's seed, the round, the completion's number; 63 bits."""
    digest = hashlib.sha256(("rollout " + " ".join(map(str, address))).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


@dataclass(frozen=True)
class Rollouts:
    """The completions of a round."""

    problem_N: Tensor
    """Number of each completion's problem, int64."""
    seed_N: Tensor
    """Seeds of the draws, int64."""
    prompt_N: Tensor
    """Tokens of each prompt, int64."""
    length_N: Tensor
    """Tokens of prompt and completion, int64."""
    token_T: Tensor
    """Token ids, int32."""
    logp_C: Tensor
    """Log-probability of each drawn token in the distribution that was drawn from, FP32."""
    ended_N: Tensor
    """Whether the model ended the completion, uint8."""
    reward_N: Tensor
    """Rewards, FP32."""
    route_LTK: Tensor
    """Experts that each token visited, int16; of the last token of a completion, which was not read, 0."""
    kept_ids: Tensor
    """Tokens that filters left at each draw, one draw's after the other's, int32; empty without filters."""
    kept_ends_C: Tensor
    """End of each draw's tokens in `kept_ids`, int64; empty without filters."""

    @staticmethod
    def of(
        problems: Sequence[int], prompts: Sequence[Sequence[int]], seeds: Sequence[int], found: Sequence[Completion]
    ) -> Rollouts:
        """The record of completions, each with its problem, prompt and seed; rewards are 0."""
        tokens = [np.concatenate([prompt, each.tokens]) for prompt, each in zip(prompts, found, strict=True)]
        ends = np.cumsum([len(each) for each in tokens])
        layers, _, k = found[0].routes.shape
        routes = np.zeros((layers, ends[-1], k), dtype=np.int16)
        for each, end in zip(found, ends.tolist(), strict=True):
            routes[:, end - 1 - each.routes.shape[1] : end - 1] = each.routes
        kept = [ids for each in found for ids in each.kept or ()]
        return Rollouts(
            problem_N=torch.tensor(problems),
            seed_N=torch.tensor(seeds),
            prompt_N=torch.tensor([len(prompt) for prompt in prompts]),
            length_N=torch.tensor([len(each) for each in tokens]),
            token_T=torch.from_numpy(np.concatenate(tokens)).to(torch.int32),
            logp_C=torch.from_numpy(np.concatenate([each.logp for each in found])).float(),
            ended_N=torch.tensor([each.ended for each in found]).to(torch.uint8),
            reward_N=torch.zeros(len(found)),
            route_LTK=torch.from_numpy(routes),
            kept_ids=torch.from_numpy(np.concatenate(kept) if kept else np.empty(0)).to(torch.int32),
            kept_ends_C=torch.from_numpy(np.cumsum([len(ids) for ids in kept], dtype=np.int64)),
        )

    def __len__(self) -> int:
        return len(self.length_N)

    @property
    def drawn_n(self) -> Tensor:
        """Tokens of each completion, int64."""
        return self.length_N - self.prompt_N

    def completions(self) -> list[list[int]]:
        """Tokens of each completion."""
        pieces = self.token_T.split(self.length_N.tolist())
        return [piece[prompt:].tolist() for piece, prompt in zip(pieces, self.prompt_N.tolist(), strict=True)]

    def tensors(self) -> dict[str, Tensor]:
        """Its tensors by name."""
        return {each.name: getattr(self, each.name).contiguous() for each in fields(self)}

    def sha256(self) -> str:
        """SHA-256 of its file."""
        return sha256_bytes(save(self.tensors()))

    def write(self, file: Path) -> None:
        """Write it, whole or not at all."""
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(file, save(self.tensors()))

    @staticmethod
    def read(file: Path) -> Rollouts:
        """Read a file that :meth:`write` wrote. Raises UserError where it is missing or damaged."""
        with reading(file):
            content = file.read_bytes()
        try:
            rollouts = Rollouts(**load(content))
            rollouts._check()
        except (SafetensorError, TypeError, ValueError, RuntimeError) as error:
            raise UserError(f"{file}: damaged: {error!r:.200}: restore it from a copy") from None
        return rollouts

    def _check(self) -> None:
        """Raise ValueError unless the parts fit each other."""
        for name, tensor in self.tensors().items():
            if tensor.dtype != _TYPES.get(name, torch.int64):
                raise ValueError(f"{name} is of type {tensor.dtype}")
        count, drawn, whole = len(self.length_N), int(self.drawn_n.sum()), int(self.length_N.sum())
        sized = {self.problem_N: count, self.seed_N: count, self.prompt_N: count, self.ended_N: count}
        sized |= {self.reward_N: count, self.token_T: whole, self.logp_C: drawn}
        wrong = any(tensor.shape != (size,) for tensor, size in sized.items()) or bool((self.length_N > whole).any())
        ends = self.kept_ends_C
        if wrong or self.route_LTK.ndim != 3 or self.route_LTK.shape[1] != whole or bool((self.prompt_N < 1).any()):
            raise ValueError("its parts have different lengths")
        if bool((self.drawn_n < 1).any()):
            raise ValueError("a completion has no token")
        if bool((self.ended_N > 1).any()):
            raise ValueError("an end is neither 0 nor 1")
        if bool(self.route_LTK[:, self.length_N.cumsum(0) - 1].any()):
            raise ValueError("a last token, which was not read, has experts")
        counts = ends.diff(prepend=torch.zeros(1, dtype=torch.int64))
        if len(ends) not in (0, drawn) or bool((counts < 0).any()) or int(counts.sum()) != len(self.kept_ids):
            raise ValueError("what filters left is not of every draw")


class Asked(NamedTuple):
    """What a model writes in a round."""

    problems: list[int]
    """Numbers of the problems, or of the documents, whose beginnings are the prompts."""
    prompts: list[list[int]]
    prompt_N: list[int]
    """Of each completion, the number of its prompt."""
    seed_N: list[int]
    """Of each completion, the seed of its draws."""


def round_file(folder: Path, number: int) -> Path:
    """Where the folder of a run has the record of a round."""
    return folder / ROUNDS / f"round-{number:08d}.safetensors"


class Writer:
    """A task that learns from what the model itself writes, a round at a time.

    A round is a function of weights, seed and number. Its record is in the run's folder before the first step that
    learns from it: a run that is killed in between reads it again, or writes the same.
    """

    run: Run
    drawing: Settings
    """How completions are drawn."""
    updates = 1
    """Steps that learn from a round."""
    kept = True
    """Whether records are written into the run's folder."""
    published: Callable[[int], Rollouts] | None = None
    """Where the record of a round is from, instead of being written by the model."""

    def asked(self, number: int) -> Asked:
        """What is written in a round, from 0."""
        raise NotImplementedError

    def rewards(self, rollouts: Rollouts) -> Tensor:
        """Rewards of completions, FP32 [N]: 0 where none are given."""
        return torch.zeros(len(rollouts))

    def file_of(self, number: int) -> Path:
        """Where a round's record is."""
        return round_file(self.run.root, number)

    def rollouts(self, number: int, model: DeepSeekModel) -> Rollouts:
        """Completions of a round by a model's present weights, with their rewards; they are kept."""
        if self.published is not None:
            made = self.published(number)
        else:
            problems, prompts, prompt_N, seed_N = self.asked(number)
            found = write_completions(model, prompts, prompt_N, seed_N, self.drawing)
            made = Rollouts.of([problems[k] for k in prompt_N], [prompts[k] for k in prompt_N], seed_N, found)
            made.reward_N.copy_(self.rewards(made))
        if self.kept:
            made.write(self.file_of(number))
        return made

    def without_records(self) -> Self:
        """The same task from its first round on, which writes nothing into the run's folder."""
        other = copy.copy(self)
        other.kept = False
        return other


def settings_of(grpo: GrpoConfig, end: int) -> Settings:
    """How completions are drawn; `end` is the token that ends one."""
    return Settings(grpo.max_tokens, grpo.temperature, grpo.top_p, stop_tokens=frozenset([end]))


def write_completions(
    model: DeepSeekModel, prompts: Sequence[Sequence[int]], prompt_N: Sequence[int], seeds: Sequence[int],
    settings: Settings,
) -> list[Completion]:  # fmt: skip
    """Completions by the engine with a model's present weights and adapters.

    Arguments as for :func:`clearseek.inference.batch.complete`.
    """
    rows = min(MOST_ROWS, max(len(seeds), max(map(len, prompts))))
    longest = max(map(len, prompts)) + settings.max_tokens
    pages = pages_needed(prompts, rows, settings)
    return complete(forward_of(packed(model), pages, rows, longest), prompts, prompt_N, seeds, settings)


@torch.no_grad()
def packed(model: DeepSeekModel) -> Packed:
    """What completions are drawn from: present weights and adapters, FP32 for FP32, and BF16 for other types.

    The multi-token-prediction layer takes no part.
    """
    kind: Kind = "F32" if model.head_weight.dtype == torch.float32 else "BF16"
    config = model.config.model_copy(update={"num_nextn_predict_layers": 0})
    return pack(config, merged_tensors(model).__getitem__, kind)
