"""Draws checked by one teacher-forced pass: what each drawn token should be, given all tokens before it.

To write a completion again is to draw token after token, and on another kind of machine one draw that rounds the other
way gives another completion. Read instead: prompt and completion go through the model, with the experts that the record
names, and at each drawn position the largest sum of logit and noise must be the recorded token's
(:mod:`clearseek.verify.draws`). A router that would choose others is judged in the same way: by less than rounding, or
wrong.

Where the compiled loops run, the engine reads, every prefix once (:mod:`clearseek.verify.prefixes`); elsewhere the
model that is trained does, every prompt and every sequence once.

Shapes: N completions, B different sequences of a batch, U prompts of P tokens, X drawn tokens of the longest, S = X - 1
inputs after the prompt, T tokens that are read, C draws, V vocabulary, L layers with experts, K experts per token, E
experts, D hidden.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from clearseek.inference.model import loops_run
from clearseek.inference.request import Settings
from clearseek.model.router import Router
from clearseek.model.transformer import DeepSeekModel
from clearseek.posttrain.lora import merged_tensors
from clearseek.posttrain.rollouts import Rollouts, packed
from clearseek.verify.draws import MARGIN, ROUTER, Judged, draws_of, judge
from clearseek.verify.prefixes import judge_by_engine

_TOKENS: Final = 16_384
"""Tokens that are read at once."""
_LOGITS: Final = 1 << 25
"""Logits that are held at once."""


def check_draws(model: DeepSeekModel, rollouts: Rollouts, settings: Settings) -> Judged:
    """Recompute every draw, log-probability and choice of experts of a record.

    Args:
        model: The policy as it was when the record was made, in the type that it computed in.
        rollouts: The record, whose prompts, seeds and lengths are right, and whose tokens and experts exist.
        settings: How it was drawn.
    """
    policy = packed(model)
    if loops_run(policy):
        return judge_by_engine(policy, rollouts, settings)
    return judge_by_model(model, rollouts, settings)


@torch.no_grad()
def judge_by_model(model: DeepSeekModel, rollouts: Rollouts, settings: Settings) -> Judged:
    """As :func:`check_draws`, by the model that is trained."""
    found = Judged.of(rollouts)
    kind, model = model.head_weight.dtype, _sampler(model)
    # PyTorch multiplies in BF16 on a GPU alone.
    exactness = kind if model.head_weight.is_cuda else torch.float32
    for rows in _batches(rollouts):
        states_BXD = _states(model, rows, ROUTER[exactness], found)
        _judge(states_BXD, model.head_weight, rows, rollouts, settings, MARGIN[exactness], found)
    return found


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
    drawn_n = rollouts.drawn_n.numpy()
    for chosen in _parts(rows, len(head_VD)):
        part, members = slice(chosen.start, chosen.stop), rows.members[chosen.start : chosen.stop]
        drawn_BX = F.pad(rows.read_BS[part], (1, 0), value=True).to(states_BXD.device)
        logits_UV = F.linear(states_BXD[part][drawn_BX], head_VD).float().cpu().numpy()
        draws = draws_of(rollouts, np.concatenate([np.array(each) for each in members]))
        counts = drawn_n[[each[0] for each in members]]
        states = [np.tile(np.arange(end - n, end), len(each))
                  for each, n, end in zip(members, counts, counts.cumsum(), strict=True)]  # fmt: skip
        judge(logits_UV, draws.by_state(np.concatenate(states)), rollouts, settings, share, found)


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
                found.wrong.append(f"{where}: experts {told_TK[t].tolist()}, and the router chooses others")

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
