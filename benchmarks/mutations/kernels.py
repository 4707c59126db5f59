"""Faults in numba's loops."""
# ruff: noqa: E501 - lines of code as they stand in the package
# fmt: off

from __future__ import annotations

FAULTS: dict[str, list[tuple[str, str, str]]] = {
    "kernels/lanes.py": [
        ("while len(parts) > 1:", "while len(parts) > 2:", "half of the lanes are not added"),
        ("        total += x[i] * y[i]", "        total = x[i] * y[i]", "a row's rest replaces its sum"),
        ("most = x[i] if x[i] > most else most", "most = most", "the largest of whole lanes only"),
        ("fill(x, n, width, np.float32(0))", "pass", "what a query does not see stays"),
        ('builder.icmp_signed("!=", more', 'builder.icmp_signed("==", more', "sums begin with what is there, the wrong way round"),
        ("units * thread // threads, units * (thread + 1) // threads", "units * thread // threads, units * (thread + 1) // threads - (thread + 1 < threads)", "the last piece of a thread is left out"),
        ("(np.int32(n) + np.int32(127))", "(np.int32(n) + np.int32(126))", "half of e^x"),
        ("x = _SMALLEST if _SMALLEST > x else x", "x = x if x > _SMALLEST else _SMALLEST", "NaN becomes a number"),
    ],
    "kernels/rows.py": [
        ("dx[i] = (dx[i] - x[i] * excess) * scale", "dx[i] = (dx[i] - excess) * scale", "norm's backward without x"),
        ("min(rows, (block + 1) * ROWS_PER_SUM)", "(block + 1) * ROWS_PER_SUM", "rows after the last"),
        ("slope = sigmoid + silu * (ONE - sigmoid)\n        d_gate", "slope = sigmoid\n        d_gate", "SiLU's slope without its second part"),
        ("floats(d_weight)[r] = dot(d_row, act_row, n)", "floats(d_weight)[r] = dot(d_row, d_row, n)", "another weight's gradient"),
        ("row[targets[r]] -= ONE", "row[targets[r]] -= row[targets[r]]", "no target in the gradient"),
    ],
    "kernels/attention.py": [
        ("first + i + 1 - whole)", "first + i - whole)", "no query sees itself"),
        ("range(max(0, s - first), rows, 4)", "range(max(0, s - first + 4), rows, 4)", "scores of a diagonal block left out"),
        ("seen = min(TILE, first + i + 4 - s)", "seen = min(TILE, first + i - s)", "values of the last keys left out"),
        ("start = max(0, s - first)", "start = max(4, s - first)", "the first queries do not count"),
        ("floats(out + 4 * (s * width + c)), width, 1,", "floats(out + 4 * (s * width + c)), width, 0,", "only the last tile's queries count"),
        ("dp[i] = p[i] * (dp[i] - inner)", "dp[i] = p[i] * dp[i]", "softmax's backward without its mean"),
        ("rotary, factor, -ONE,", "rotary, factor, ONE,", "queries' gradients turned on, not back"),
        ("multiply(floats(source), factor, floats(target), nope)", "multiply(floats(source), ONE, floats(target), nope)", "channels without position are not scaled"),
        ("fill(floats(dk), 0, length * width, np.float32(0))", "pass", "the last head's gradients stay"),
        ("kept = floats(stats + 8 * (unit * length + first))\n            for i in range(rows):\n                at, seen", "kept = floats(stats + 8 * unit * length)\n            for i in range(rows):\n                at, seen", "the first tile's sums for all"),
    ],
    "kernels/newton_schulz.py": [
        ("range(0, j + 16, 4):\n                factors", "range(0, j, 4):\n                factors", "no blocks on the diagonal"),
        ("square[i * line + i] += a", "pass", "the linear part left out"),
        ("            _mirror(floats(square), line, width)", "            pass", "half of the polynomial is that of the step before"),
        ("floats(y), 0, height * line", "floats(y), 0, 0", "the last matrix around a smaller one"),
        ("np.sqrt(total)", "total", "the norm's square"),
    ],
    "kernels/operations.py": [
        ("least < 0 or most >= logits_CV.shape[1]", "most > logits_CV.shape[1]", "tokens outside the vocabulary"),
        ("d_rope_BHSP.sum(1)", "d_rope_BHSP[:, 0]", "one head's gradient of the shared key"),
        ("like.new_zeros(torch.get_num_threads(), size)", "like.new_full((torch.get_num_threads(), size), torch.nan)", "scratch memory of NaN"),
        ("dw_SD.sum(0)", "dw_SD[0]", "the first rows' gradient of a norm's weight"),
    ],
}
