"""Draws checked by one teacher-forced pass: what each drawn token should be, given all tokens before it.

To write a completion again is to draw token after token, and on another kind of machine one draw that rounds the other
way gives another completion. Read instead: prompt and completion go through the model at once, with the experts that
the record names, and at each drawn position the largest sum of logit and noise must be the recorded token's. Every draw
is judged by itself. A token that loses by less than rounding moves sums is *undecided*, and counted; so is a filter or
a router that decided between numbers as close.

Sums are compared with a margin: a share (:data:`MARGIN`) of the largest logit, over the temperature.

Shapes: N completions, B different sequences of a batch, U prompts of P tokens, X drawn tokens of the longest, S = X - 1
inputs after the prompt, T tokens that are read, C draws, V vocabulary, L layers with experts, K experts per token, E
experts, D hidden.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from clearseek.inference.request import Settings
from clearseek.inference.sampling import draw_rows, noise
from clearseek.model.router import Router
from clearseek.model.transformer import DeepSeekModel
from clearseek.posttrain.lora import merged_tensors
from clearseek.posttrain.rollouts import Rollouts

MARGIN: Final = {torch.float32: 2.0**-16, torch.bfloat16: 2.0**-6}
"""Share of the largest logit, in size, by which rounding may move a logit: where the sampler multiplied in FP32, and in
BF16. Engine and trainer differ by 2^-20 and less in FP32."""
_ROUTER: Final = {torch.float32: 2.0**-14, torch.bfloat16: 2.0**-5}
"""The same for a router's scores, which lie between 0 and 1."""
_TOKENS: Final = 16_384
"""Tokens that are read at once."""
_LOGITS: Final = 1 << 25
"""Logits that are held at once."""


@dataclass
class Judged:
    """What a pass found."""

    draws: int = 0
    undecided: int = 0
    """Draws whose token, or whose filter, lost by no more than rounding."""
    choices: int = 0
    """Choices of experts."""
    close: int = 0
    """Choices of experts that are others here, by no more than rounding."""
    wrong: list[str] = field(default_factory=list)
    """The first contradictions, in words."""

    def add(self, other: Judged) -> None:
        """Count another pass with this one."""
        self.draws, self.undecided = self.draws + other.draws, self.undecided + other.undecided
        self.choices, self.close = self.choices + other.choices, self.close + other.close
        self.wrong += other.wrong


class _Rows(NamedTuple):
    """Different sequences of a record with prompts of one length, and the completions that have them."""

    prompts_UP: Tensor
    """The different prompts."""
    prompt_route_LUPK: Tensor
    prompt_B: Tensor
    """Which of the prompts each sequence has."""
    drawn_BX: Tensor
    """Tokens after the prompts, the last of each of which is not read."""
    route_LBSK: Tensor
    read_BS: Tensor
    """Which of the tokens after the prompts are read."""
    members: list[list[int]]
    """Of each sequence, its completions."""


@torch.no_grad()
def check_draws(model: DeepSeekModel, rollouts: Rollouts, settings: Settings) -> Judged:
    """Recompute every draw, log-probability and choice of experts of a record.

    Prompts are read once, as are equal completions of one.

    Args:
        model: The policy as it was when the record was made, in the type that it computed in.
        rollouts: The record, whose prompts, seeds and lengths are right.
        settings: How it was drawn.
    """
    kind, model = model.head_weight.dtype, _sampler(model)
    # PyTorch multiplies in BF16 on a GPU alone.
    exactness = kind if model.head_weight.is_cuda else torch.float32
    found = Judged(choices=int((rollouts.length_N - 1).sum()) * len(rollouts.route_LTK))
    for rows in _batches(rollouts):
        states_BXD = _states(model, rows, _ROUTER[exactness], found)
        _judge(states_BXD, model.head_weight, rows, rollouts, settings, MARGIN[exactness], found)
    return found


def _sampler(model: DeepSeekModel) -> DeepSeekModel:
    """The model that completions were drawn from: adapters folded in, stored in the policy's type, computed in FP32."""
    with torch.device("meta"):
        found = DeepSeekModel(model.config)
    found.load_state_dict({name: tensor.float() for name, tensor in merged_tensors(model).items()}, assign=True)
    return found.requires_grad_(False)


def _states(model: DeepSeekModel, rows: _Rows, margin: float, found: Judged) -> Tensor:
    """Hidden states that each token after the prompts was drawn from [B, X, D]."""
    device, caches = model.head_weight.device, model.new_caches()
    first_B = [rows.members[row][0] for row in range(len(rows.prompt_B))]
    owners = [first_B[rows.prompt_B.tolist().index(u)] for u in range(len(rows.prompts_UP))]
    every = torch.ones(rows.prompts_UP.shape, dtype=torch.bool)
    with _watched(model, every, owners, 0, margin, found):
        prompts_UPD: Tensor = model(rows.prompts_UP.to(device), caches, _given(rows.prompt_route_LUPK, device))
    prompt_B = rows.prompt_B.to(device)
    last_B1D = prompts_UPD[:, -1:][prompt_B]
    inputs_BS = rows.drawn_BX[:, :-1].to(device)
    if not inputs_BS.shape[1]:
        return last_B1D
    for cache in caches:
        assert cache.latent_BSR is not None and cache.rope_BSP is not None
        cache.latent_BSR, cache.rope_BSP = cache.latent_BSR[prompt_B], cache.rope_BSP[prompt_B]
    with _watched(model, rows.read_BS, first_B, rows.prompts_UP.shape[1], margin, found):
        drawn_BSD = model(inputs_BS, caches, _given(rows.route_LBSK, device))
    return torch.cat([last_B1D, drawn_BSD], dim=1)


def _given(route_LBSK: Tensor, device: torch.device) -> Tensor | None:
    return route_LBSK.to(device) if len(route_LBSK) else None


def _batches(rollouts: Rollouts) -> Iterator[_Rows]:
    """The record's different sequences, by their lengths: one is read once, however many completions it is."""
    prompts, lengths = rollouts.prompt_N.tolist(), rollouts.length_N.tolist()
    tokens = rollouts.token_T.long().split(lengths)
    routes = rollouts.route_LTK.long().transpose(0, 1).contiguous().split(lengths)
    same: dict[tuple[int, int, bytes], list[int]] = {}
    for number, (ids, visited) in enumerate(zip(tokens, routes, strict=True)):
        content = ids.numpy().tobytes() + visited[:-1].numpy().tobytes()
        same.setdefault((prompts[number], lengths[number], content), []).append(number)
    ordered = [same[key] for key in sorted(same)]
    first = 0
    while first < len(ordered):
        prompt, last = prompts[ordered[first][0]], first + 1
        while (
            last < len(ordered)
            and prompts[ordered[last][0]] == prompt
            and (last + 1 - first) * lengths[ordered[last][0]] <= _TOKENS
        ):
            last += 1
        chosen = [members[0] for members in ordered[first:last]]
        yield _rows(prompt, [tokens[n] for n in chosen], [routes[n] for n in chosen], ordered[first:last])
        first = last


def _rows(prompt: int, tokens: list[Tensor], routes: list[Tensor], members: list[list[int]]) -> _Rows:
    """Sequences with prompts of one length."""
    numbers: dict[bytes, int] = {}
    which, owners = list[int](), list[int]()
    for row, (ids, visited) in enumerate(zip(tokens, routes, strict=True)):
        key = ids[:prompt].numpy().tobytes() + visited[:prompt].numpy().tobytes()
        which.append(numbers.setdefault(key, len(numbers)))
        if len(numbers) > len(owners):
            owners.append(row)
    drawn_BX = pad_sequence([ids[prompt:] for ids in tokens], batch_first=True)
    read_BS = torch.arange(drawn_BX.shape[1] - 1) < torch.tensor([len(ids) - prompt - 1 for ids in tokens]).unsqueeze(1)
    route_BXLK = pad_sequence([visited[prompt:] for visited in routes], batch_first=True)
    padding_K = torch.arange(route_BXLK.shape[-1])  # visits the first K
    route_BSLK = torch.where(read_BS[..., None, None], route_BXLK[:, :-1], padding_K)
    return _Rows(
        prompts_UP=torch.stack([tokens[row][:prompt] for row in owners]),
        prompt_route_LUPK=torch.stack([routes[row][:prompt] for row in owners]).permute(2, 0, 1, 3).contiguous(),
        prompt_B=torch.tensor(which),
        drawn_BX=drawn_BX,
        route_LBSK=route_BSLK.permute(2, 0, 1, 3).contiguous(),
        read_BS=read_BS,
        members=members,
    )


# -- draws ------------------------------------------------------------------------------------------------------------


class _Draws(NamedTuple):
    """Draws of the completions that have some sequences: one completion's after the other's."""

    state: NDArray[np.int64]
    """Of each draw, the number of the hidden state that it was made from."""
    completion: NDArray[np.int64]
    seed: NDArray[np.int64]
    position: NDArray[np.int64]
    token: NDArray[np.int64]
    record: NDArray[np.int64]
    """Its number among the draws of the record."""


def _draws(rows: _Rows, chosen: range, rollouts: Rollouts) -> _Draws:
    """Draws of all completions that have some of the sequences."""
    drawn_n, prompt = rollouts.drawn_n.numpy(), rows.prompts_UP.shape[1]
    draw_begins, token_begins = (each.cumsum() - each for each in (drawn_n, rollouts.length_N.numpy()))
    members = rows.members[chosen.start : chosen.stop]
    number_M = np.concatenate([np.array(each) for each in members])
    counts = drawn_n[[each[0] for each in members]]
    state_M = np.repeat(counts.cumsum() - counts, [len(each) for each in members])
    count_M = drawn_n[number_M]
    completion = np.repeat(number_M, count_M)
    within = np.arange(len(completion)) - np.repeat(count_M.cumsum() - count_M, count_M)
    return _Draws(
        state=np.repeat(state_M, count_M) + within,
        completion=completion,
        seed=rollouts.seed_N.numpy()[completion],
        position=prompt + within,
        token=rollouts.token_T.numpy()[token_begins[completion] + prompt + within].astype(np.int64),
        record=draw_begins[completion] + within,
    )


def _parts(rows: _Rows, vocabulary: int) -> Iterator[range]:
    """Sequences side by side, as many as have room for the logits of all of their completions."""
    width, room, first, size = rows.drawn_BX.shape[1], max(1, _LOGITS // vocabulary), 0, 0
    for row, members in enumerate(rows.members):
        if row > first and size + len(members) * width > room:
            yield range(first, row)
            first, size = row, 0
        size += len(members) * width
    yield range(first, len(rows.members))


def _judge(
    states_BXD: Tensor, head_VD: Tensor, rows: _Rows, rollouts: Rollouts, settings: Settings, share: float,
    found: Judged,
) -> None:  # fmt: skip
    """Judge the draws of all completions that have these sequences."""
    said_C = rollouts.logp_C.double().numpy()
    for chosen in _parts(rows, len(head_VD)):
        draws = _draws(rows, chosen, rollouts)
        part = slice(chosen.start, chosen.stop)
        drawn_BX = F.pad(rows.read_BS[part], (1, 0), value=True).to(states_BXD.device)
        states_UD = states_BXD[part][drawn_BX]
        logits_UV = F.linear(states_UD, head_VD).float().cpu().numpy()
        once = len(draws.state) == len(logits_UV)  # then they are in this order
        logits_CV, said = logits_UV if once else logits_UV[draws.state], said_C[draws.record]
        ours = draw_rows(logits_CV, settings, draws.seed, draws.position)
        suspect = (ours.tokens != draws.token) | ~(
            np.abs(ours.logp - said) <= _tolerance(logits_UV, settings, share)[draws.state]
        )
        if ours.kept is not None or len(rollouts.kept_ends_C):
            theirs = [_kept(rollouts, number) for number in draws.record.tolist()]
            mine: Sequence[NDArray[np.int64] | None] = ours.kept or [None] * len(theirs)
            suspect |= [not _alike(one, other) for one, other in zip(mine, theirs, strict=True)]
        found.draws += len(suspect)
        for c in np.flatnonzero(suspect).tolist():
            draw = _Draw(
                logits_CV[c], int(draws.seed[c]), int(draws.position[c]), int(draws.token[c]), float(said[c]),
                _kept(rollouts, int(draws.record[c])),
            )  # fmt: skip
            _look(draw, settings, share, f"completion {draws.completion[c]}, position {draw.position}", found)


def _tolerance(logits_CV: NDArray[np.float32], settings: Settings, share: float) -> NDArray[np.float64]:
    """How far rounding may move sums of these logits, over the temperature."""
    size_C = np.maximum(logits_CV.max(1), -logits_CV.min(1)).astype(np.float64)
    found: NDArray[np.float64] = np.maximum(size_C, 1.0) * (share / settings.temperature)
    return found


def _kept(rollouts: Rollouts, draw: int) -> NDArray[np.int64] | None:
    """What filters left at a draw by the record; None where it says nothing of filters."""
    if not len(rollouts.kept_ends_C):
        return None
    first = int(rollouts.kept_ends_C[draw - 1]) if draw else 0
    return rollouts.kept_ids[first : int(rollouts.kept_ends_C[draw])].long().numpy()


def _alike(one: NDArray[np.int64] | None, other: NDArray[np.int64] | None) -> bool:
    if one is None or other is None:
        return one is other
    return np.array_equal(one, np.sort(other))


class _Draw(NamedTuple):
    """A draw by the record, and its logits here."""

    logits_V: NDArray[np.float32]
    seed: int
    position: int
    token: int
    logp: float
    kept: NDArray[np.int64] | None


def _look(draw: _Draw, settings: Settings, share: float, where: str, found: Judged) -> None:
    """Judge a draw that is not exactly ours: undecided if rounding explains it."""
    margin = float(_tolerance(draw.logits_V[None], settings, share)[0])
    scaled_V = (draw.logits_V.astype(np.float64) - draw.logits_V.max()) / settings.temperature
    if (draw.kept is None) != (settings.top_p >= 1) or (draw.kept is not None and not _is_set(draw, len(scaled_V))):
        found.wrong.append(f"{where}: the record's tokens after top_p = {settings.top_p} are no such set")
        return
    kept = np.arange(len(scaled_V)) if draw.kept is None else np.sort(draw.kept)
    if draw.kept is not None and not _may_keep(scaled_V, kept, settings.top_p, margin):
        found.wrong.append(f"{where}: not the tokens that top_p = {settings.top_p} leaves")
        return
    sums = scaled_V[kept] + noise(draw.seed, draw.position, kept)
    own = np.flatnonzero(kept == draw.token)
    best = int(sums.argmax())
    if not len(own) or sums[best] - sums[own[0]] > 2 * margin:
        found.wrong.append(f"{where}: token {draw.token}, and weights and noise give {int(kept[best])}")
        return
    logp = scaled_V[draw.token] - np.log(np.exp(scaled_V[kept]).sum())
    if not abs(logp - draw.logp) <= 2 * margin:
        found.wrong.append(f"{where}: log-probability {draw.logp:.6f}, and the weights give {logp:.6f}")
        return
    found.undecided += 1


def _is_set(draw: _Draw, size: int) -> bool:
    kept = draw.kept
    assert kept is not None
    return len(kept) > 0 and len(np.unique(kept)) == len(kept) and bool(kept.min() >= 0) and bool(kept.max() < size)


def _may_keep(scaled_V: NDArray[np.float64], kept: NDArray[np.int64], top_p: float, margin: float) -> bool:
    """Whether these may be the fewest likeliest tokens that hold `top_p`, as far as rounding lets one see."""
    p_V = np.exp(scaled_V)
    p_V /= p_V.sum()
    out = np.ones(len(p_V), dtype=bool)
    out[kept] = False
    ordered = not out.any() or bool(scaled_V[kept].min() >= scaled_V[out].max() - 2 * margin)
    held, least = float(p_V[kept].sum()), float(p_V[kept].min())
    return ordered and held >= top_p - 2 * margin and held - least <= top_p + 2 * margin


# -- experts ----------------------------------------------------------------------------------------------------------


@contextmanager
def _watched(
    model: DeepSeekModel, read_BS: Tensor, owners: list[int], begin: int, margin: float, found: Judged
) -> Iterator[None]:
    """While it lasts, compare the experts that routers are told to choose with those that they would choose.

    `owners` are the completions whose tokens are read, from position `begin` on.
    """
    read_T, inputs = read_BS.flatten(), read_BS.shape[1]

    def compare(router: Router, given: tuple[Any, ...], routing: Any) -> None:
        x_TD, told_TK = given[0], given[2]
        own_TK = router.choose(router.scores(x_TD))
        other_T = (own_TK.sort(-1).values != told_TK.sort(-1).values).any(-1).cpu() & read_T
        for t in torch.nonzero(other_T).flatten().tolist():
            if _may_choose(router, x_TD[t], told_TK[t], margin):
                found.close += 1
            else:
                where = f"completion {owners[t // inputs]}, position {begin + t % inputs}"
                told, own = (sorted(each[t].tolist()) for each in (told_TK, own_TK))
                found.wrong.append(f"{where}: experts {told}, and the router chooses {own}")

    handles = [layer.gate.register_forward_hook(compare) for layer in model.moe_layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _may_choose(router: Router, x_D: Tensor, told_K: Tensor, margin: float) -> bool:
    """Whether a router may have chosen these experts, as far as rounding lets one see.

    Where scores moved by as much as rounding moves them would make it choose them, it may have: so those of the experts
    are raised, and the others' lowered.
    """
    config = router.config
    chosen_E = torch.zeros(config.n_routed_experts, device=x_D.device).index_fill_(0, told_K, 1.0)
    if int(chosen_E.sum()) != len(told_K):
        return False
    moved_E = margin * (2 * chosen_E - 1)
    own_K = router.choose(router.scores(x_D.unsqueeze(0)) + moved_E)[0]
    return torch.equal(own_K.sort().values, told_K.sort().values)
