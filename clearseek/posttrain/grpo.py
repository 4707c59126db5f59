"""Group relative policy optimisation: write completions, reward them, and make the better ones of a group likelier.

A round writes `completions` answers to each of some problems with the present weights; an answer's advantage is its
reward less its group's mean (arXiv 2402.03300, section 4.1; no division by the spread by default: 2503.20783). The
loss is a function of log-probabilities alone (:mod:`clearseek.posttrain.losses`), so a step needs no more than a
weighted cross-entropy: each drawn token's weight is minus the loss's derivative by its log-probability. In a round's
first update policy and sampler are the same model, and the ratio is 1 without a forward pass.

Rounds are functions of weights, seed and number. A round's record (:mod:`clearseek.posttrain.rollouts`) is written
before its first update: a run that is killed in the middle of a round goes on with it.

Shapes: B completions of a batch, X tokens of the longest, S = X - 1 inputs, T tokens drawn in a round, N completions.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from clearseek.config import GrpoConfig, Recipe
from clearseek.data.manifest import canonical_sha256
from clearseek.data.tokenizer import Tokenizer
from clearseek.errors import UserError
from clearseek.model.transformer import DeepSeekModel
from clearseek.ops.loss import Kept, cross_entropy_of_tokens, token_losses
from clearseek.posttrain.child import Child
from clearseek.posttrain.losses import LossSettings, advantages, entropy_weights, token_weights
from clearseek.posttrain.parent import adopt
from clearseek.posttrain.pictures import learning_curve
from clearseek.posttrain.rollouts import Asked, Rollouts, Writer, seed_of, settings_of
from clearseek.posttrain.samples import rounds_shown, write_samples
from clearseek.posttrain.solved import PASS, measure
from clearseek.problems.questions import Questions, questions_of
from clearseek.problems.rewards import Scored
from clearseek.problems.sandbox import refuse_unguarded
from clearseek.train.checkpoints import checkpoint
from clearseek.train.record import LOSS
from clearseek.train.run import Run, model_of
from clearseek.train.session import OnData, Say
from clearseek.train.task import Batch, Loss, Progress, Task
from clearseek.train.transcript import check_transcript

SPREADLESS = "groups_without_spread"
"""Name of the share of groups whose completions all have the same reward."""


def loss_settings(grpo: GrpoConfig) -> LossSettings:
    """The loss that a recipe asks for."""
    return LossSettings(
        kind=grpo.loss,
        clip_low=grpo.clip_low,
        clip_high=grpo.clip_high,
        beta=grpo.beta,
        importance="sequence" if grpo.loss == "gspo" else "token",
        unbiased_kl=grpo.unbiased_kl,
        off_policy_threshold=grpo.off_policy_threshold,
        max_completion=grpo.max_tokens,
    )


class Grpo(Child):
    """Policy optimisation around the steps."""

    def data(self, recipe: Recipe, run: Run, data: Path | None, resume: bool, on_data: OnData | None, say: Say) -> Path:
        """The folder of the parent's tokenizer: problems are made, not read."""
        if data is not None:
            raise UserError("--data: [grpo] makes its problems itself: leave the option out")
        adopt(recipe, run)
        return run.parent

    def task(self, recipe: Recipe, run: Run, folder: Path, checked: bool = False) -> Task:
        """Completions of the recipe's problems."""
        if recipe.problems is not None and recipe.problems.tasks:
            refuse_unguarded()  # before any step, not at the first reward
        questions = questions_of(recipe, Tokenizer.load(folder / "tokenizer.json"))
        return PolicyOptimisation(recipe, run, questions)

    def batches(self, recipe: Recipe, task: Task, model: DeepSeekModel, count: int) -> Iterator[Batch]:
        """What a model writes in the first rounds, every completion of it; no file of the run is written."""
        assert isinstance(task, PolicyOptimisation)
        writer = task.without_records()
        for number in range(min(count, task.rounds)):
            rollouts = writer.rollouts(number, model)
            yield writer._rows(1, rollouts, torch.arange(len(rollouts)), torch.zeros(len(rollouts.logp_C)))

    def draw(self, run: Run, folder: Path, title: str) -> None:
        """Draw rewards and expert loads, and write some completions down."""
        super().draw(run, folder, title)
        records = check_transcript(run.transcript).steps
        learning_curve(records, PASS, run.pictures / "rewards.png", title)
        task = self.task(run.read_recipe(), run, folder)
        assert isinstance(task, PolicyOptimisation)
        write_samples([task.file_of(n) for n in range(task.rounds)], task.questions, run.root / "completions.md")


@dataclass(frozen=True)
class _Round:
    """A round's completions, and what all of its updates use."""

    number: int
    rollouts: Rollouts
    advantage_N: Tensor
    file_sha256: str
    notes: dict[str, float]


@dataclass(eq=False)
class PolicyOptimisation(Writer):
    """The task of a recipe with ``[grpo]``."""

    recipe: Recipe
    run: Run
    questions: Questions
    name = "grpo"
    _round: _Round | None = None
    _reference: DeepSeekModel | None = None
    _scored: tuple[Rollouts, list[Scored]] | None = None
    _without_spread: int | None = None
    _chosen_B: Tensor | None = None
    """Numbers of the completions in the step's batch."""
    settings: LossSettings = field(init=False)

    def __post_init__(self) -> None:
        assert self.recipe.grpo is not None
        self.grpo: GrpoConfig = self.recipe.grpo
        self.settings = loss_settings(self.grpo)
        self.drawing = settings_of(self.grpo, self.questions.end)
        self.updates = self.grpo.updates
        self.fingerprint: str = canonical_sha256(["rollouts-1", self.questions.fingerprint])
        held_out = self.questions.held_out(self.grpo.evaluate_problems)
        for problem in (self.questions.problems.train(0), *held_out):  # too few or too long: said before any step
            self.questions.ids(problem)

    # --- A round ------------------------------------------------------------------------------------------------------

    @property
    def rounds(self) -> int:
        """Rounds of the whole run."""
        return -(-self.recipe.train.steps // self.grpo.updates)

    def asked(self, number: int) -> Asked:
        """Problems of a round, each with a group of completions."""
        size, group = self.recipe.train.batch_size, self.grpo.completions
        problems = [number * (size // group) + k for k in range(size // group)]
        prompts = [self.questions.ids(self.questions.problems.train(index)) for index in problems]
        prompt_N = [k for k in range(len(problems)) for _ in range(group)]
        return Asked(problems, prompts, prompt_N, [seed_of(self.recipe.data.seed, number, k) for k in range(size)])

    def rewards(self, rollouts: Rollouts) -> Tensor:
        """Rewards of completions of training problems, FP32 [N]."""
        return torch.tensor([each.reward for each in self.scores(rollouts)])

    def scores(self, rollouts: Rollouts) -> list[Scored]:
        """Rewards of completions of training problems, and why; those of the last record are kept, since code takes
        its time."""
        if self._scored is not None and self._scored[0] is rollouts:
            return self._scored[1]
        rows = zip(rollouts.problem_N.tolist(), rollouts.completions(), rollouts.ended_N.tolist(), strict=True)
        problems = {index: self.questions.problems.train(index) for index in set(rollouts.problem_N.tolist())}
        scores = self.questions.scores([(problems[i], tokens, bool(ended)) for i, tokens, ended in rows])
        self._scored = rollouts, scores
        return scores

    def _enter(self, number: int, update: int, model: DeepSeekModel) -> _Round:
        """The round, written by the model at its first update, read again at a later one."""
        if self._round is None or self._round.number != number:
            if update:
                rollouts = Rollouts.read(self.file_of(number))
            else:
                rollouts = self.rollouts(number, model)
                if self.kept and not self.grpo.keep_rollouts:
                    self._forget(number)
            advantage_N = advantages(
                rollouts.reward_N, self.grpo.completions, "std" if self.grpo.advantage == "std" else "none"
            )
            notes = _notes(rollouts, self.scores(rollouts), self.grpo)
            self._round = _Round(number, rollouts, advantage_N, rollouts.sha256(), notes)
            self._count_spread(number)
        return self._round

    def _forget(self, number: int) -> None:
        """Delete the records before a round, but of rounds that a checkpoint is in the middle of, or people see."""
        every, step = self.recipe.train.checkpoint_every, number * self.grpo.updates
        steps = [*checkpoint.steps(self.run.checkpoints), step // every * every]  # the last may still be written
        ends = (divmod(step, self.grpo.updates) for step in steps)
        kept = {number, *rounds_shown(self.rounds), *(begun for begun, updates in ends if updates)}
        files = {self.file_of(earlier) for earlier in range(number)} - {self.file_of(each) for each in kept}
        for file in files.intersection(self.file_of(0).parent.iterdir()):
            file.unlink()

    def _count_spread(self, number: int) -> None:
        """Count rounds in a row without spread, this one and those of the transcript; raise UserError for too many."""
        assert self._round is not None
        if self._without_spread is None:
            self._without_spread = self._spreadless_before(number)
        self._without_spread = self._without_spread + 1 if self._round.notes[SPREADLESS] == 1.0 else 0
        if self._without_spread >= self.grpo.patience:
            mean = self._round.notes["reward"]
            enough = number * self.grpo.updates
            advice = (
                "begin from a model that solves some of the problems (a cold start by [sft]), or take easier ones"
                if mean < 0.5
                else f"the problems are solved: train.steps = {enough} is enough, or take harder ones"
            )
            raise UserError(
                f"{self.recipe.name}: {self.grpo.patience} rounds in which all completions of each problem had the "
                f"same reward, {mean:.2f} on average: nothing can be learnt from them: {advice}"
            )

    def _spreadless_before(self, number: int) -> int:
        """Rounds in a row without spread before a round, by the transcript: a run that goes on counts on."""
        if not number or not self.run.begun:
            return 0
        ends = {record.step: record.scalars for record in check_transcript(self.run.transcript).steps}
        rounds = (ends.get(before * self.grpo.updates, {}) for before in range(number, 0, -1))
        return sum(1 for _ in itertools.takewhile(lambda scalars: scalars.get(SPREADLESS) == 1.0, rounds))

    # --- A step -------------------------------------------------------------------------------------------------------

    def batch(self, step: int, model: DeepSeekModel) -> Batch:
        """The completions of the step's round, weighted by the loss."""
        number, update = divmod(step - 1, self.grpo.updates)
        before = self._start(step, model)
        current = self._enter(number, update, model)
        rollouts, device = current.rollouts, model.head_weight.device
        needs_forward = update > 0 or self.grpo.beta > 0
        logp_C, reference_C = rollouts.logp_C, None
        if needs_forward:
            every = self._rows(step, rollouts, torch.arange(len(rollouts)), torch.zeros(len(rollouts.logp_C)))
            logp_C = self._logp(model, every.to(device))
            if self.grpo.beta:  # a policy of its own, so by its own experts
                reference_C = self._logp(self._parent(model), replace(every, routing_LBSK=None).to(device))
        sequence_C = torch.arange(len(rollouts)).repeat_interleave(rollouts.drawn_n)
        weight_C, loss = token_weights(
            logp_C, rollouts.logp_C, current.advantage_N, sequence_C, self.settings, reference_C
        )
        if self.grpo.entropy:
            weight_C = weight_C + self.grpo.entropy * entropy_weights(logp_C, rollouts.logp_C)
        weighted_N = torch.zeros(len(rollouts)).index_add_(0, sequence_C, weight_C.abs()) > 0
        notes = current.notes | {name: value for name, value in loss.metrics.items() if needs_forward} | before
        self._chosen_B = self._chosen(weighted_N)
        batch = self._rows(step, rollouts, self._chosen_B, weight_C)
        return replace(batch, scalars=notes, rollouts_sha256=current.file_sha256).to(device)

    def _chosen(self, weighted_N: Tensor) -> Tensor:
        """Completions that count, and as many others as make equal micro-batches."""
        order_N = torch.argsort(weighted_N.logical_not().to(torch.int8), stable=True)
        micro = self.recipe.train.micro_batches
        count = max(micro, -(-int(weighted_N.sum()) // micro) * micro)
        return order_N[:count].sort().values

    def _rows(self, step: int, rollouts: Rollouts, chosen_B: Tensor, weight_C: Tensor) -> Batch:
        """Some completions as rows of a batch, each with its prompt, padded behind."""
        lengths = rollouts.length_N.tolist()
        token_rows = rollouts.token_T.long().split(lengths)
        tokens_BX = pad_sequence([token_rows[b] for b in chosen_B.tolist()], batch_first=True)
        prompt_B, length_B = rollouts.prompt_N[chosen_B], rollouts.length_N[chosen_B]
        place_X = torch.arange(tokens_BX.shape[1])
        valid_BX = place_X < length_B.unsqueeze(1)
        drawn_BX = valid_BX & (place_X >= prompt_B.unsqueeze(1))
        weight_rows = weight_C.split(rollouts.drawn_n.tolist())
        weight_BX = torch.zeros(tokens_BX.shape)
        weight_BX[drawn_BX] = torch.cat([weight_rows[b] for b in chosen_B.tolist()])
        routing_LBSK = None
        if self.grpo.keep_routing and rollouts.route_LTK.numel():
            routing_LBSK = self._routes(rollouts, chosen_B, tokens_BX.shape[1] - 1)
        return Batch(
            step=step, tokens_BX=tokens_BX, weight_BX=weight_BX, counted=int(rollouts.drawn_n.sum()),
            routing_LBSK=routing_LBSK, valid_BX=valid_BX, row_B=chosen_B,
        )  # fmt: skip

    def _routes(self, rollouts: Rollouts, chosen_B: Tensor, inputs: int) -> Tensor:
        """Experts of some completions' inputs [L, B, S, K]; padding visits the first K."""
        layers, _, k = rollouts.route_LTK.shape
        routes = rollouts.route_LTK.long().transpose(0, 1).split(rollouts.length_N.tolist())
        padded = torch.arange(k).expand(len(chosen_B), inputs + 1, layers, k).clone()
        for row, b in enumerate(chosen_B.tolist()):
            padded[row, : len(routes[b]) - 1] = routes[b][:-1]
        return padded[:, :inputs].permute(2, 0, 1, 3).contiguous()

    def loss(self, model: DeepSeekModel, micro: Batch) -> Loss:
        """Weighted cross-entropy of the drawn tokens, of the distribution that they were drawn from."""
        assert self._round is not None and micro.row_B is not None and micro.valid_BX is not None
        rollouts, device = self._round.rollouts, micro.tokens_BX.device
        states = model.states(micro.tokens_BX, False, None, None, micro.routing_LBSK, micro.valid_BX)
        drawn_C, old_C = self._drawn(rollouts, micro.row_B.cpu(), micro.tokens_BX.shape[1])
        drawn_C = drawn_C.to(device)  # the others have no weight
        target_C, weight_C = (each_BX[:, 1:].flatten()[drawn_C] for each_BX in (micro.tokens_BX, micro.weight_BX))
        hidden_CD, kept = states.main_BSD.flatten(0, 1)[drawn_C], self._kept(rollouts, micro)
        total, nats_C = cross_entropy_of_tokens(
            hidden_CD, model.head_weight, target_C, weight_C, self.grpo.temperature, kept
        )
        scalars = {LOSS: total.detach()}
        if (micro.step - 1) % self.grpo.updates == 0:  # later the trainer's policy is another one
            gap = (nats_C + old_C.to(device)).abs().sum()
            scalars["probability_gap"] = gap / int(rollouts.drawn_n[self._chosen_B].sum())
        if not self.grpo.keep_routing and states.routings:
            scalars["routing_flips"] = self._flips(rollouts, micro, [each.index_TK for each in states.routings])
        return Loss(total, scalars, model.loads(states.routings))

    def _drawn(self, rollouts: Rollouts, row_B: Tensor, length: int) -> tuple[Tensor, Tensor]:
        """Places of the C drawn tokens among the B * S next ones, and their log-probabilities when they were drawn."""
        place_S = torch.arange(1, length)
        prompt_B1, length_B1 = rollouts.prompt_N[row_B].unsqueeze(1), rollouts.length_N[row_B].unsqueeze(1)
        drawn_BS = (place_S >= prompt_B1) & (place_S < length_B1)
        rows = rollouts.logp_C.split(rollouts.drawn_n.tolist())
        return drawn_BS.flatten().nonzero().squeeze(1), torch.cat([rows[b] for b in row_B.tolist()])

    def _kept(self, rollouts: Rollouts, micro: Batch) -> Kept | None:
        """What filters left at each drawn token, on the batch's device."""
        if not len(rollouts.kept_ends_C) or not self.grpo.keep_sampling_mask:
            return None
        assert micro.row_B is not None
        rows, device = micro.row_B.tolist(), micro.tokens_BX.device
        counts_C = rollouts.kept_ends_C.diff(prepend=torch.zeros(1, dtype=torch.int64))
        count_rows = counts_C.split(rollouts.drawn_n.tolist())
        id_rows = rollouts.kept_ids.long().split([int(each.sum()) for each in count_rows])
        ends_C = torch.cat([count_rows[b] for b in rows]).cumsum(0)
        return Kept(torch.cat([id_rows[b] for b in rows]).to(device), ends_C.to(device))

    def _flips(self, rollouts: Rollouts, micro: Batch, index: list[Tensor]) -> Tensor:
        """Share of the batch's tokens and layers for which other experts were chosen than when they were written."""
        assert micro.valid_BX is not None and micro.row_B is not None
        there_LBSK = self._routes(rollouts, micro.row_B.cpu(), micro.tokens_BX.shape[1] - 1).sort().values
        here_LBSK = torch.stack(index).view(there_LBSK.shape).cpu().sort().values
        read_BS = micro.valid_BX[:, 1:].cpu()
        flipped = (here_LBSK != there_LBSK).any(-1) & read_BS
        whole = int((rollouts.length_N - 1)[self._chosen_B].sum()) * len(index)
        return flipped.sum().float() / whole

    @torch.no_grad()
    def _logp(self, model: DeepSeekModel, every: Batch) -> Tensor:
        """Log-probabilities of a round's drawn tokens under a model, FP32 [T], a micro-batch at a time."""
        assert self._round is not None
        found = []
        for micro in every.split(self.recipe.train.micro_batches):
            assert micro.row_B is not None
            states = model.states(micro.tokens_BX, False, None, None, micro.routing_LBSK, micro.valid_BX)
            drawn_C, _ = self._drawn(self._round.rollouts, micro.row_B.cpu(), micro.tokens_BX.shape[1])
            drawn_C = drawn_C.to(micro.tokens_BX.device)
            hidden_CD, target_C = states.main_BSD.flatten(0, 1)[drawn_C], micro.tokens_BX[:, 1:].flatten()[drawn_C]
            kept = self._kept(self._round.rollouts, micro)
            nats_C = token_losses(hidden_CD, model.head_weight, target_C, self.grpo.temperature, kept)
            found.append(-nats_C.cpu())
        return torch.cat(found)

    def _parent(self, model: DeepSeekModel) -> DeepSeekModel:
        """The model that the run began with, computed as the policy is, on the same device."""
        if self._reference is None:
            saved = checkpoint.load(checkpoint.find(self.run.parent, 0), checkpoint.MODEL)
            reference = model_of(self.recipe, saved.tensors, model.head_weight.dtype)
            self._reference = reference.to(model.head_weight.device).use_fp8(model.fp8)
        return self._reference

    # --- Evaluation ---------------------------------------------------------------------------------------------------

    def _start(self, step: int, model: DeepSeekModel) -> dict[str, float]:
        """What the parent solves, in the first step."""
        if step != 1 or not self.recipe.train.eval_every:
            return {}
        return {f"{name}_before": value for name, value in self.measure(model).items()}

    def evaluate(self, model: DeepSeekModel, step: int, progress: Progress | None = None) -> dict[str, float]:
        """Share of held-out problems that one completion at temperature 1 solves, with its interval of 95 %."""
        train = self.recipe.train
        if step != train.steps and (not train.eval_every or step % train.eval_every):
            return {}
        return self.measure(model, progress)

    def measure(self, model: DeepSeekModel, progress: Progress | None = None) -> dict[str, float]:
        """As :meth:`evaluate`, of any model."""
        seed, problems = self.recipe.data.seed, self.questions.held_out(self.grpo.evaluate_problems)
        return measure(model, self.questions, problems, self.grpo.max_tokens, seed, progress)

    def contents(self, step: int) -> list[str]:
        """Numbers of the problems of a step."""
        size = self.recipe.train.batch_size // self.grpo.completions
        first = (step - 1) // self.grpo.updates * size
        return [f"problem {number}" for number in range(first, first + size)]


def _notes(rollouts: Rollouts, scores: Sequence[Scored], grpo: GrpoConfig) -> dict[str, Any]:
    """What is logged of a round."""
    reward_GC = rollouts.reward_N.double().view(-1, grpo.completions)
    return {
        "reward": float(reward_GC.mean()),
        "reward_spread": float(reward_GC.std(1, correction=0).mean()),
        SPREADLESS: float((reward_GC == reward_GC[:, :1]).all(1).double().mean()),
        "entropy": float(-rollouts.logp_C.double().mean()),
        "length": float(rollouts.drawn_n.double().mean()),
        "truncated": float(1 - rollouts.ended_N.double().mean()),
        "invalid": sum(each.note not in ("right", "wrong", "not ended") for each in scores) / len(scores),
    }
