"""Faults in Hugging Face folders, conversion and what follows from the dimensions."""
# ruff: noqa: E501 - lines of code as they stand in the package
# fmt: off

from __future__ import annotations

FAULTS: dict[str, list[tuple[str, str, str]]] = {
    "hub/write.py": [
        ("slice(0, width) if match", "slice(width, 2 * width) if not match", "one half for gate and up"),
        ("if match[\"projection\"] == \"gate\" else", "if match[\"projection\"] == \"up\" else", "gate and up swapped"),
        ("\"F32\" if dtype == torch.float32 else spec.dtype", "\"F32\" if dtype == torch.float32 else \"BF16\"", "routers' biases in BF16"),
        ("slice(first + start, first + stop)", "slice(start, stop)", "up projections are gate projections"),
        ("places[part] += file.write(content)", "file.write(content)", "later rows are written over earlier ones"),
        ("expert, width = int(match[\"expert\"]),", "expert, width = config.n_routed_experts - 1 - int(match[\"expert\"]),", "experts from the last to the first, both ways"),
        ("prod(each.shape) * DTYPE_BYTES[each.dtype]", "prod(each.shape) * 2", "FP32 is counted at two bytes"),
    ],
    "hub/block_fp8.py": [
        ("mul_(256.0)", "mul_(128.0)", "a power of two"),
        ("& 0x7F).amax() == 0x7F", "& 0x7F).amax() > 0x7F", "codes that are NaN"),
        ("if power_of_two:\n            same_GG &= _is_power_of_two(old_scale_GG)", "if False:\n            pass", "old scales that are no powers of two"),
        ("repeat_interleave(TILE, 1)[:, : x_NK.shape[1]]\n    full", "repeat(1, TILE)[:, : x_NK.shape[1]]\n    full", "scales interleaved the other way"),
        ("yield x_NK[full * TILE :], across_GK[full]", "yield x_NK[full * TILE :], across_GK[0]", "the last partial block"),
        ("return same_GG & usable_GG", "return same_GG", "scales that are not numbers"),
    ],
    "hub/config_json.py": [
        ("\"num_key_value_heads\": config.num_attention_heads", "\"num_key_value_heads\": 1", "another number of heads"),
        ("\"scoring_func\": \"sigmoid\",", "\"scoring_func\": \"softmax\",", "V3 read as softmax"),
        ("\"head_dim\": config.qk_rope_head_dim", "\"head_dim\": config.qk_head_dim", "another meaning of head_dim"),
        ("{\"rope_type\": \"yarn\", \"rope_theta\": config.rope_theta,", "{\"rope_type\": \"yarn\", \"rope_theta\": 10000.0,", "a base of 10,000 beside YaRN"),
    ],
    "tensors.py": [
        ("-(-size // FP8_BLOCK)", "size // FP8_BLOCK", "scales of the last partial block"),
        ("(H, 2 * H)", "(2 * H, H)", "eh_proj transposed"),
    ],
    "counts.py": [
        ("spec.size * config.num_experts_per_tok // config.n_routed_experts", "spec.size // config.n_routed_experts", "one expert a token"),
        ("attention = 3 * sequence_length", "attention = 6 * sequence_length", "not causal"),
        ("4 * trained * held_sums", "4 * trained", "the sums held are not counted"),
        ("4 * (trained + bias)", "4 * trained", "biases not counted"),
    ],
    "hub/convert/plan.py": [
        ("if k != \"quantization_config\"", "", "a BF16 folder that says FP8"),
        ("elif matrix not in here:", "elif False:", "scales in another file are dropped"),
        ("shaped = [StoredTensor(e.name, \"BF16\" if e.dtype == \"F8_E4M3\" else e.dtype, e.shape) for e in kept]", "shaped = [StoredTensor(e.name, \"BF16\", e.shape) for e in kept]", "FP32 biases become BF16"),
    ],
    "hub/convert/stream.py": [
        ("_write(handle, target.begin + first, raw.numpy().data)", "_write(handle, target.begin, raw.numpy().data)", "pieces over one another"),
        ("slice(each.start // TILE, -(-each.stop // TILE))", "slice(0, -(-each.stop // TILE) - each.start // TILE)", "every piece has the first scales"),
        ("min(column + wide, columns)", "column + wide", "a piece past the edge"),
        ("Done(*map(sum, zip(total, done, strict=True)))", "done", "only the last piece is counted"),
    ],
    "hub/safetensors.py": [
        ("if entry.begin != end:", "if entry.begin < end:", "gaps between tensors"),
        ("b\" \" * (-len(text) % 8)", "b\"\"", "numbers not aligned"),
        ("if size is not None and size != end", "if size is not None and size < end", "bytes after the last tensor"),
        ("self.size // 2 // width * width", "0", "the middle is the beginning"),
    ],
    "jsontext.py": [
        ("if name in content:", "if False:", "a key twice"),
    ],
    "hub/read.py": [
        ("check_finite(part, stored.entry.dtype, where)", "pass", "NaN is imported"),
        ("if not torch.equal(part.float(), state[name].float())", "if False", "an MTP head of its own is dropped"),
        ("scales == \"power-of-two\")", "False)", "odd scales under ue8m0"),
        ("part.float() if spec.kind == \"router_bias\" else part", "part", "a router's bias as it is stored"),
        ("if entry.shape != spec.shape:", "if len(entry.shape) != len(spec.shape):", "shapes are not compared"),
    ],
    "hub/rope.py": [
        ("\"mscale\": 1.0, \"mscale_all_dim\": 0.0", "\"mscale\": 1.0, \"mscale_all_dim\": 1.0", "YaRN's defaults are ClearSeek's"),
        ("any(theta != thetas[0] for theta in thetas)", "False", "two bases that contradict"),
    ],
}
