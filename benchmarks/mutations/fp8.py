"""Faults in eight-bit numbers and their products."""
# ruff: noqa: E501 - lines of code as they stand in the package
# fmt: off

from __future__ import annotations

FAULTS: dict[str, list[tuple[str, str, str]]] = {
    "fp8/formats.py": [
        ("0x007FFFFF) & 0x7F800000).view(torch.float32)", "0x00400000) & 0x7F800000).view(torch.float32)", "powers of two to nearest, not up"),
        ("+ 0 * x", "", "NaN hidden by a finite scale"),
        ("x.clamp(-E4M3_MAX, E4M3_MAX).to(E4M3)", "x.to(E4M3)", "beyond the largest becomes NaN"),
        ("amax.clamp(min=AMAX_FLOOR)", "amax", "zeros divided by zero"),
        ("AMAX_FLOOR = 1e-4", "AMAX_FLOOR = 1e-12", "another floor than DeepSeek's"),
        ("1.5 * 2.0**17", "1.5 * 2.0**16", "E5M6 keeps a bit more"),
        ("(127 - 14) << 23", "(127 - 13) << 23", "E5M6's small numbers a bit coarse"),
        ("[low, low >> 8 | high << 4, high >> 4]", "[low, low >> 8 | high << 4, high >> 8]", "E5M6's high bits lost"),
    ],
    "fp8/quantise.py": [
        ("x_MGT.abs().amax(-1), power_of_two", "x_MGT.amax(-1), power_of_two", "the largest without its sign"),
        ("x_MK.t(), power_of_two", "x_MK, power_of_two", "columns are rows"),
        ("blocks.abs().amax((-3, -1))", "blocks.abs().amax(-1).amax(-1)", "the wrong axes share a scale"),
        ("scale.repeat_interleave(TILE, -2)[..., :rows, :]", "scale.repeat(*(1 for _ in scale.shape[:-2]), TILE, 1)[..., :rows, :]", "scales interleaved the other way"),
        ("Quantised(w.data.mT, w.scale.mT)", "Quantised(w.data.mT, w.scale)", "data transposed, scales not"),
        ("missing = -x.shape[dim] % TILE", "missing = 0 if x.shape[dim] > TILE else -x.shape[dim] % TILE", "the last partial piece"),
        ("True, E5M6_MAX)", "True, 448.0)", "another format's limit"),
    ],
    "fp8/matmul.py": [
        ("y_MN += part_MN * (a.scale[:, g, None] * scale_NG[:, g])", "y_MN += part_MN * a.scale[:, g, None]", "the weights' scales left out"),
        ("for g in range(a.scale.shape[1]):", "for g in range(a.data.shape[1] // TILE):", "the last partial slice"),
        ("slice(inner.start // TILE, -(-inner.stop // TILE))", "slice(0, -(-inner.stop // TILE) - inner.start // TILE)", "every expert has the first one's scales"),
        ("b.at(e)", "Quantised(b.data[e], b.scale[0])", "the first expert's scales"),
    ],
    "ops/swiglu.py:_backward_passes": [
        ("value=-1", "value=1", "a sign in silu's slope"),
        ("torch.mul(d_RI, silu_RI, out=d_up_RI)", "torch.mul(d_RI, sigmoid_RI, out=d_up_RI)", "sigmoid for silu"),
    ],
    "ops/swiglu.py:weighted_swiglu_backward": [
        ("_backward_passes(d_RI * weight_R1,", "_backward_passes(d_RI,", "the router's weight left out of the gradient"),
        ("act_RI.mul_(weight_R1), d_gate_up_RI2", "act_RI, d_gate_up_RI2", "the down projection's input without its weight"),
    ],
    "fp8/backends/dequantised.py": [
        ("y_ENK[empty_E] = 0.0", "pass", "an expert without rows has a gradient"),
        (" & magnitude).amax(dim)", ").amax(dim)", "the largest without its sign"),
        ("[:rows]\n", "\n", "padding stays"),
        ("2.0**120", "2.0**119", "a power of two"),
        ("or columns % TILE or not power_of_two", "or not power_of_two", "partial tiles in the fast way"),
    ],
    "fp8/linear.py": [
        ("versions == self._versions", "True", "quantised weights of the step before"),
        ("dx_TK = part_TK if dx_TK is None else dx_TK.add_(part_TK)", "dx_TK = part_TK", "the gradient of the last layer alone"),
        ("power_of_two = fp8.power_of_two(\"gradient\")", "power_of_two = True", "the gradient's scales always powers of two"),
        ("quantise_e5m6(x_TK) if kind == \"attention_output\" else x", "quantise_e5m6(x_TK * 1.0625) if kind == \"attention_output\" else x", "another input is kept than was used"),
    ],
    "fp8/feed_forward.py": [
        ("(\"activation\", \"gradient\") if layout is None else (\"dispatch\", \"combine_gradient\")", "(\"activation\", \"gradient\")", "V3's rounded scales for experts left out"),
        ("kept[2 * i : 2 * i + 2]", "kept[2 * i : 2 * i + 2]) if i else Quantised(*kept[-2:]", "another expert's activations"),
        ("backend.products.grouped_mm_weight(columns, x_columns, part.ends_E)", "backend.products.grouped_mm_weight(columns, x_columns, part.ends_E) * 0.5", "half of a gradient"),
    ],
    "fp8/linear.py:Fp8.power_of_two": [
        ("kind in POWER_OF_TWO_IN_V3", "kind not in POWER_OF_TWO_IN_V3", "V3's powers of two where it had none"),
    ],
}
