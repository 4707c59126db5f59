"""The loops as functions of tensors: FP32, on a CPU.

Each function replaces hand-ordered passes in :mod:`clearseek.ops`, with the same arguments and results.

Shapes: T tokens, D channels, R rows, I width, B sequences, S positions, H heads, N = heads of several sequences,
Q queries, C channels of a head, P rotary channels, X = key channels without position and V value channels,
C tokens of a chunk of logits, V vocabulary, K choices among E experts; for adapters L rank, X inputs, Y outputs.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from clearseek.kernels import ROWS_PER_SUM, TILE
from clearseek.kernels.launch import address_of, launch


def _rows(x: Tensor) -> Tensor:
    """`x` with adjacent numbers in each row; rows may be apart."""
    return x if x.stride(-1) == 1 else x.contiguous()


def normalise(x_TD: Tensor, w_D: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """(w * x / rms, 1 / rms [T, 1])."""
    x_TD = _rows(x_TD)
    y_TD, rstd_T1 = x_TD.new_empty(x_TD.shape), x_TD.new_empty(len(x_TD), 1)
    launch("rows.norm", *x_TD.shape, x_TD, x_TD.stride(0), w_D, eps, y_TD, rstd_T1)
    return y_TD, rstd_T1


def normalise_backward(
    g_TD: Tensor, x_TD: Tensor, w_D: Tensor, rstd_T1: Tensor, for_weight: bool
) -> tuple[Tensor, Tensor | None]:
    """(dx, dw if wanted)."""
    g_TD, x_TD = _rows(g_TD), _rows(x_TD)
    dx_TD = x_TD.new_empty(x_TD.shape)
    dw_SD = x_TD.new_empty(-(-len(x_TD) // ROWS_PER_SUM), x_TD.shape[1]) if for_weight else None
    strides = g_TD.stride(0), x_TD.stride(0)
    launch("rows.norm_backward", *x_TD.shape, g_TD, strides[0], x_TD, strides[1], w_D, rstd_T1, dx_TD, dw_SD)
    return dx_TD, None if dw_SD is None else dw_SD.sum(0)


def swiglu(gate_RI: Tensor, up_RI: Tensor) -> Tensor:
    """silu(gate) * up."""
    gate_RI, up_RI = gate_RI.contiguous(), up_RI.contiguous()
    width, out_RI = gate_RI.shape[-1], torch.empty_like(gate_RI)
    launch("rows.swiglu", gate_RI.numel() // width, width, gate_RI, up_RI, width, None, out_RI)
    return out_RI


def swiglu_backward(d_RI: Tensor, gate_RI: Tensor, up_RI: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of gate and up."""
    d_RI, gate_RI, up_RI = d_RI.contiguous(), gate_RI.contiguous(), up_RI.contiguous()
    width, d_gate_RI, d_up_RI = gate_RI.shape[-1], torch.empty_like(gate_RI), torch.empty_like(up_RI)
    rows = gate_RI.numel() // width
    launch("rows.swiglu_backward", rows, width, d_RI, gate_RI, up_RI, width, d_gate_RI, d_up_RI, None, None, None)
    return d_gate_RI, d_up_RI


def weighted_swiglu(gate_up_RI2: Tensor, weight_R1: Tensor) -> Tensor:
    """silu(gate) * up * weight; gate and up are side by side."""
    rows, both = gate_up_RI2.shape
    gate_RI, up_RI = gate_up_RI2.contiguous().chunk(2, dim=-1)
    out_RI = gate_up_RI2.new_empty(rows, both // 2)
    launch("rows.swiglu", rows, both // 2, gate_RI, up_RI, both, weight_R1.contiguous(), out_RI)
    return out_RI


def weighted_swiglu_backward(d_RI: Tensor, gate_up_RI2: Tensor, weight_R1: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(act recomputed, d gate|up, d weight [R])."""
    rows, both = gate_up_RI2.shape
    gate_up_RI2, d_RI = gate_up_RI2.contiguous(), d_RI.contiguous()
    d_gate_up_RI2, act_RI, d_weight_R = torch.empty_like(gate_up_RI2), torch.empty_like(d_RI), d_RI.new_empty(rows)
    launch(
        "rows.swiglu_backward", rows, both // 2, d_RI, *gate_up_RI2.chunk(2, dim=-1), both,
        *d_gate_up_RI2.chunk(2, dim=-1), weight_R1.contiguous(), act_RI, d_weight_R,
    )  # fmt: skip
    return act_RI, d_gate_up_RI2, d_weight_R


def best(scores_TE: Tensor, k: int) -> Tensor:
    """Places of each row's `k` largest numbers [T, k], in falling order, equal ones by their places."""
    scores_TE = scores_TE.contiguous()
    found_TK = scores_TE.new_empty(len(scores_TE), k, dtype=torch.int64)
    launch("rows.best", *scores_TE.shape, k, scores_TE, found_TK)
    return found_TK


def _attention_work(kv_BSHX: Tensor, rope_BSP: Tensor, nope: int, factor: float) -> tuple[Any, ...]:
    """Number of pieces of work, and sizes."""
    batch, length, heads, both = kv_BSHX.shape
    return batch * heads, heads, length, nope, rope_BSP.shape[-1], both - nope, factor


def _attention_scratch(like: Tensor, work: tuple[Any, ...], backward: bool) -> tuple[Tensor | int, ...]:
    """Sizes rounded up, the threads' scratch memory, its size for each thread, and the offsets of its parts.

    The memory is zero, because products read rows and columns up to the next multiple of 4 and 16, never written to.
    """
    _, _, length, nope, rotary, values, _ = work
    width, width_v = -(-(nope + rotary) // 16) * 16, -(-values // 16) * 16
    line = (-(-length // 16) | 1) * 16  # odd: rows read together lie in different sets of a cache
    rows = -(-length // 4) * 4
    if backward:
        sizes = [width * line, width_v * line, TILE * width, TILE * line, TILE * line, rows * width, rows * width]
        sizes += [rows * width_v, TILE * width_v, TILE * width]
    else:
        sizes = [width * line, rows * width_v, TILE * width, TILE * line, TILE * width_v]
    *starts, size = itertools.accumulate(sizes)
    return width, width_v, line, like.new_zeros(torch.get_num_threads(), size), size, *starts


def _documents(turn: Tensor, start_BS: Tensor | None) -> tuple[Tensor | None, int]:
    """First positions of the documents, and the distance in memory between two sequences' rotations."""
    if start_BS is not None:
        place_S = torch.arange(start_BS.shape[1])
        if bool((start_BS < 0).any()) or bool((start_BS > place_S).any()):
            raise IndexError("a document starts after one of its tokens")
        start_BS = start_BS.contiguous()
    return start_BS, 2 * turn[0].numel() if turn.ndim == 3 else 0


def attention(
    q_BSHC: Tensor, kv_BSHX: Tensor, rope_BSP: Tensor, turn: Tensor, start_BS: Tensor | None, nope: int, factor: float
) -> tuple[Tensor, Tensor]:
    """(softmax(q k^T) v [B, S, H, V]; each row's largest score and inverse sum [B, H, S, 2])."""
    work = _attention_work(kv_BSHX, rope_BSP, nope, factor)
    batch, length, heads, both = kv_BSHX.shape
    out_BSHV, stats_BHS2 = (
        q_BSHC.new_empty(batch, length, heads, both - nope),
        q_BSHC.new_empty(batch, heads, length, 2),
    )
    q, kv, rope, turn = (x.contiguous() for x in (q_BSHC, kv_BSHX, rope_BSP, turn))
    scratch = _attention_scratch(q, work, backward=False)
    documents = _documents(turn, start_BS)
    launch("attention.forward", *work, q, kv, rope, turn, out_BSHV, stats_BHS2, *scratch, *documents)
    return out_BSHV, stats_BHS2


def attention_backward(
    g_BSHV: Tensor, q_BSHC: Tensor, kv_BSHX: Tensor, rope_BSP: Tensor, turn: Tensor, start_BS: Tensor | None,
    stats_BHS2: Tensor, nope: int, factor: float,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of q, kv and rope."""
    work = _attention_work(kv_BSHX, rope_BSP, nope, factor)
    q, kv, rope, turn, g = (x.contiguous() for x in (q_BSHC, kv_BSHX, rope_BSP, turn, g_BSHV))
    d_q, d_kv = torch.empty_like(q), torch.empty_like(kv)
    d_rope_BHSP = rope.new_empty(*stats_BHS2.shape[:3], rope.shape[-1])
    scratch = _attention_scratch(q, work, backward=True)
    results = d_q, d_kv, d_rope_BHSP, *_documents(turn, start_BS)
    launch("attention.backward", *work, q, kv, rope, turn, g, stats_BHS2, *scratch, *results)
    return d_q, d_kv, d_rope_BHSP.sum(1)


class _LatentAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, q_BSHC: Tensor, kv_BSHX: Tensor, rope_BSP: Tensor, turn: Tensor, start_BS: Tensor | None, nope: int,
        scale: float,
    ) -> Tensor:  # fmt: skip
        out_BSHV, stats_BHS2 = attention(q_BSHC, kv_BSHX, rope_BSP, turn, start_BS, nope, scale)
        ctx.save_for_backward(q_BSHC, kv_BSHX, rope_BSP, stats_BHS2)
        ctx.rest = turn, start_BS, nope, scale
        return out_BSHV

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g_BSHV: Tensor) -> tuple[Tensor | None, ...]:
        q_BSHC, kv_BSHX, rope_BSP, stats_BHS2 = ctx.saved_tensors
        turn, start_BS, nope, scale = ctx.rest
        gradients = attention_backward(g_BSHV, q_BSHC, kv_BSHX, rope_BSP, turn, start_BS, stats_BHS2, nope, scale)
        return *gradients, None, None, None, None


def latent_attention(
    q_BSHC: Tensor, kv_BSHX: Tensor, rope_BSP: Tensor, turn: Tensor, start_BS: Tensor | None, nope: int, scale: float
) -> Tensor:
    """Layouts and causal attention in one loop, with gradients: [B, S, H, V], all positions from the first.

    Arguments as for :mod:`clearseek.ops.heads`; each query sees its document from position `start_BS` on.
    """
    out: Tensor = _LatentAttention.apply(q_BSHC, kv_BSHX, rope_BSP, turn, start_BS, nope, scale)  # type: ignore[no-untyped-call]
    return out


def softmax_loss(logits_CV: Tensor, target_C1: Tensor) -> tuple[Tensor, Tensor]:
    """(gradient of the logits, in the logits' memory; probability of each target [C, 1])."""
    assert logits_CV.is_contiguous()
    least, most = torch.aminmax(target_C1)
    if least < 0 or most >= logits_CV.shape[1]:  # the tokens may be a stranger's
        raise IndexError(
            f"token {int(most if least >= 0 else least)} is not below the vocabulary's {logits_CV.shape[1]}"
        )
    hit_C1 = logits_CV.new_empty(len(logits_CV), 1)
    launch("rows.softmax_loss", *logits_CV.shape, logits_CV, target_C1.contiguous(), hit_C1)
    return logits_CV, hit_C1


def orthogonalise(updates: Sequence[Tensor], coefficients: tuple[float, float, float], steps: int) -> None:
    """Newton-Schulz steps in place, for dense matrices or stacks of them with the matrix in the last two dimensions."""
    entries, floats = list[tuple[int, int, int]](), 0
    for update in updates:
        assert update.is_contiguous()
        rows, columns = update.shape[-2:]
        small, large = sorted((rows, columns))
        line = (-(-small // 16) | 1) * 16
        floats = max(floats, 2 * line * (-(-large // 4) * 4 + -(-small // 16) * 16))
        starts = range(0, update.element_size() * update.numel(), update.element_size() * rows * columns)
        entries += [(address_of(update) + start, rows, columns) for start in starts]
    if not entries:
        return
    entries.sort(key=lambda entry: -entry[1] * entry[2] * min(entry[1:]))
    scratch = updates[0].new_zeros(torch.get_num_threads(), floats)
    table = torch.tensor(entries, dtype=torch.int64, device="cpu")
    launch("newton_schulz.orthogonalise", len(entries), *coefficients, steps, table, scratch, floats)


def takes_low_rank(a_ELX: Tensor, b_EYL: Tensor) -> bool:
    """Whether the loops of adapters take matrices of these sizes."""
    return a_ELX.shape[2] % 16 == 0 and b_EYL.shape[1] % 16 == 0


def takes_products(w_EKM: Tensor) -> bool:
    """Whether :func:`products` takes these matrices."""
    return w_EKM.is_contiguous() and w_EKM.shape[2] % 16 == 0


def _table(rows_of: Mapping[int, int]) -> Tensor:
    """Number, first row and rows of each expert that has some; its rows lie one after the other."""
    starts = itertools.accumulate(rows_of.values(), initial=0)
    entries = [[expert, start, rows] for (expert, rows), start in zip(rows_of.items(), starts, strict=False)]
    return torch.tensor(entries, dtype=torch.int64, device="cpu")


def products(x_RK: Tensor, w_EKM: Tensor, rows_of: Mapping[int, int]) -> Tensor:
    """Each expert's rows of x times its matrix, [R, M]; `rows_of` has the rows of each expert that has some."""
    x_RK = x_RK.contiguous()
    y_RM = x_RK.new_empty(len(x_RK), w_EKM.shape[2])
    launch("low_rank.products", len(rows_of), _table(rows_of), *w_EKM.shape[1:], w_EKM, x_RK, y_RM)
    return y_RM


def _low_rank_work(
    a_ELX: Tensor, b_EYL: Tensor, rows_of: Mapping[int, int], numbers: int
) -> tuple[list[Any], tuple[Tensor, int]]:
    """Number of pieces of work, table and sizes; the threads' scratch memory, zero, and its size for each thread."""
    (rank, inputs), outputs = a_ELX.shape[1:], b_EYL.shape[1]
    assert a_ELX.is_contiguous() and b_EYL.is_contiguous()
    scratch = a_ELX.new_zeros(torch.get_num_threads(), numbers)
    return [len(rows_of), _table(rows_of), inputs, outputs, rank, -(-rank // 16) * 16], (scratch, numbers)


def low_rank(
    y_RY: Tensor, x_RX: Tensor, a_ELX: Tensor, b_EYL: Tensor, scale: float, rows_of: Mapping[int, int]
) -> Tensor:
    """Add s B (A x) to y; returns s A x, [R, L] and zeros up to a multiple of 16 columns.

    `rows_of` has the rows of each expert that has some, which lie one after the other.
    """
    width = -(-a_ELX.shape[1] // 16) * 16
    work, scratch = _low_rank_work(a_ELX, b_EYL, rows_of, a_ELX.shape[2] * width + b_EYL[0].numel())
    assert x_RX.is_contiguous() and y_RY.is_contiguous()
    low_RL = x_RX.new_empty(len(x_RX), width)
    launch("low_rank.update", *work, scale, a_ELX, b_EYL, x_RX, low_RL, y_RY, *scratch)
    return low_RL


def low_rank_backward(
    g_RY: Tensor, d_x_RX: Tensor | None, weight_EYX: Tensor | None, a_ELX: Tensor, b_EYL: Tensor, scale: float,
    rows_of: Mapping[int, int],
) -> Tensor:  # fmt: skip
    """Add the gradient of the inputs to d_x; returns s B^T g as :func:`low_rank` returns s A x.

    With the frozen weights, d_x holds nothing yet, and their part of it is computed, too.
    """
    width = -(-a_ELX.shape[1] // 16) * 16
    work, scratch = _low_rank_work(a_ELX, b_EYL, rows_of, b_EYL.shape[1] * width)
    assert g_RY.is_contiguous() and (d_x_RX is None or d_x_RX.is_contiguous())
    d_low_RL = g_RY.new_empty(len(g_RY), width)
    launch("low_rank.backward", *work, scale, a_ELX, b_EYL, g_RY, d_low_RL, d_x_RX, weight_EYX, *scratch)
    return d_low_RL


def low_rank_gradients(
    g_RY: Tensor, low_RL: Tensor, d_low_RL: Tensor, x: Tensor, place_R: Tensor | None, a_ELX: Tensor, b_EYL: Tensor,
    rows_of: Mapping[int, int],
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Gradients of A and B, zero for experts without rows; with places, row r of x is at line `place_R[r]` of it."""
    (rank, inputs), outputs = a_ELX.shape[1:], b_EYL.shape[1]
    lines = -(-rank // 4) * 4 * max(inputs, outputs)
    gathered = 0 if place_R is None else inputs * max(rows_of.values(), default=0)
    work, scratch = _low_rank_work(a_ELX, b_EYL, rows_of, lines + gathered)
    d_a_ELX, d_b_EYL = torch.zeros_like(a_ELX), torch.zeros_like(b_EYL)
    x = x.contiguous()
    assert all(each.is_contiguous() for each in (g_RY, low_RL, d_low_RL))
    launch("low_rank.gradients", *work, x, place_R, d_low_RL, g_RY, low_RL, d_a_ELX, d_b_EYL, *scratch, lines)
    return d_a_ELX, d_b_EYL
