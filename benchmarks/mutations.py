"""Faults that people make, for `mutate.py`: where, which text, what instead, and what it is.

A place is a file below `clearseek/`, and after a colon the function in it whose text is meant; the text stands there
once. Each fault is one that passes for right at a glance: a sign, an axis, an order, a scale, a type, a forgotten part.
"""
# ruff: noqa: E501 - lines of code as they stand in the package
# fmt: off

from __future__ import annotations

STEPS = ("train/test_reference.py",)
FORWARD = (
    "model/test_layers.py",
    "model/test_rope.py",
    *STEPS,
    "model/test_transformer.py",
    "model/test_bf16.py",
    "model/test_parity.py",
)
IN_EIGHT_BITS = (
    "fp8/test_formats.py",
    "fp8/test_quantise.py",
    "fp8/test_matmul.py",
    "fp8/test_linear.py",
    "model/test_feed_forward_fp8.py",
    "model/test_fp8.py",
)
CONVERT = ("hub/test_convert.py", "hub/test_convert_refusals.py", "hub/test_convert_resume.py")
TESTS: dict[str, tuple[str, ...]] = {
    "train/schedule.py": ("train/test_schedule.py", *STEPS),
    "train/accumulate.py": ("train/test_accumulate.py", *STEPS),
    "train/checkpoint.py": ("train/test_checkpoint.py", "train/test_trainer.py"),
    "train/transcript.py": ("train/test_transcript.py", "train/test_trainer.py"),
    "train": (*STEPS, "train/test_optimizer.py", "train/test_trainer.py", "train/test_run.py"),
    "model/router.py": ("model/test_router.py", *FORWARD),
    "model/feed_forward_fp8.py": IN_EIGHT_BITS[::-1],
    "model": (*FORWARD, "model/test_fp8.py"),
    "fp8/swiglu.py": ("model/test_layers.py", *STEPS, *IN_EIGHT_BITS),
    "fp8": IN_EIGHT_BITS,
    "data/loader.py": ("data/test_loader.py",),
    "data/tokenizer.py": ("data/test_tokenizer.py", "data/test_shards.py"),
    "data/fim.py": ("data/test_fim.py", "data/test_shards.py"),
    "data/decode.py": ("data/test_decode.py",),
    "data": ("data/test_shards.py", "data/test_loader.py", "data/test_decode.py", "data/test_fim.py"),
    "hub/block_fp8.py": ("hub/test_block_fp8.py", "hub/test_hf_fp8.py", *CONVERT),
    "hub/hf_config.py": ("hub/test_hf_config.py", "hub/test_hf.py", "hub/test_portability.py"),
    "hub/hf.py": ("hub/test_hf.py", "hub/test_hf_fp8.py"),
    "hub/layout.py": ("hub/test_layout.py", "hub/test_hf.py"),
    "hub/safetensors_file.py": ("hub/test_safetensors_file.py", *CONVERT),
    "hub": CONVERT,
    "evaluate": ("evaluate/test_bits.py", *STEPS),
    "inference": ("inference/test_sampler.py",),
}
"""What a place starts with -> the test files that should notice, below `tests/`; the longest such name counts."""

Row = tuple[str, str, str]
TRAIN: dict[str, list[Row]] = {
    "train/schedule.py:multiplier": [
        ("if share <= phase.until", "if share < phase.until", "a phase ends a step early"),
        ("(share - start) / (phase.until - start)", "share / phase.until", "progress counted from the run's start"),
        ("start, value = phase.until, phase.to", "start, value = phase.until, 0.0", "each phase starts from zero"),
        ("share = _share(step, steps)", "share = _share(max(step - 1, 1), steps)", "the schedule is a step late"),
    ],
    "train/schedule.py:value_at": [
        ("<= until", "< until", "a switch is a step early"),
        ("before if _share(step, steps) <= until else after", "before", "nothing ever switches"),
    ],
    "train/schedule.py:_within": [
        ("math.pi * progress", "0.5 * math.pi * progress", "half of the cosine"),
        ("start + (phase.to - start) * progress", "phase.to * progress", "linear from zero"),
        ("phase.to + (start - phase.to)", "(start - phase.to)", "the cosine falls to zero"),
    ],
    "train/optimizer.py:_is_muon_matrix": [
        (", \"mlp.gate.weight\"", "", "Muon on the router"),
        ("\"lm_head.weight\", ", "", "Muon on the output head"),
        ("\"embed_tokens.weight\", ", "", "Muon on the embedding"),
    ],
    "train/optimizer.py:_as_matrices": [
        ("stacked.view(2 * experts, rows // 2, columns)", "stacked", "gate and up orthogonalised as one matrix"),
    ],
    "train/optimizer.py:MasterOptimizer.__init__": [
        ("decayed if master.ndim > 1 else plain", "decayed", "weight decay on norms"),
        ("{\"params\": plain, \"weight_decay\": 0.0}", "{\"params\": plain}", "PyTorch's default decay on norms"),
        ("betas=config.betas", "betas=config.betas[::-1]", "AdamW's decays swapped"),
        ("eps=config.eps", "eps=1e-8", "epsilon not the recipe's"),
        ("config.momentum, config.weight_decay", "config.weight_decay, config.momentum", "Muon's arguments swapped"),
        ("muon, config.muon_learning_rate, ", "muon, config.muon_learning_rate, 0.95, 0.1) if muon else None\n        _ = (", "Muon's defaults instead of the recipe's"),
    ],
    "train/optimizer.py:MasterOptimizer.step": [
        (".clamp(max=1.0)", "", "clipping scales small gradients up"),
        ("self.config.grad_clip / (norm + 1e-6)", "1.0 / (norm + 1e-6)", "the recipe's limit is ignored"),
        ("group[\"lr\"] = rate * multiplier", "group[\"lr\"] = rate", "the schedule is ignored"),
        ("(self._muon, self.config.muon_learning_rate)", "(self._muon, self.config.learning_rate)", "Muon takes AdamW's rate"),
        ("        self.round_into_model()\n", "", "the model never sees new weights"),
    ],
    "train/optimizer.py:gradient_norm": [
        ("torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))", "torch.stack(torch._foreach_norm(gradients)).sum()", "a sum of norms instead of the norm"),
    ],
    "train/optimizer.py:MasterOptimizer.load": [
        ("        self.round_into_model()\n", "", "a restored model keeps its fresh weights"),
        ("master.copy_(weights[name])", "", "masters are not restored"),
    ],
    "train/muon.py": [
        ("3.4445", "3.4", "another polynomial"),
        ("STEPS = 5", "STEPS = 4", "one Newton-Schulz step fewer"),
    ],
    "train/muon.py:orthogonalise": [
        ("dim=(1, 2)", "dim=(0, 1, 2)", "a stack is normalised as one matrix"),
        ("beta=b, alpha=c", "beta=c, alpha=b", "coefficients swapped"),
        ("(x if wide else x.mT)", "x", "tall updates are not turned back"),
    ],
    "train/muon.py:Muon.step": [
        ("p.grad.lerp(buffer, group[\"momentum\"])", "buffer", "Nesterov's look ahead left out"),
        ("1 - group[\"momentum\"]", "group[\"momentum\"]", "momentum and its complement swapped"),
        ("max(rows, columns) ** 0.5", "min(rows, columns) ** 0.5", "scaled by the shorter side"),
        ("1 - group[\"lr\"] * group[\"weight_decay\"]", "1 - group[\"weight_decay\"]", "decay not coupled to the rate"),
    ],
    "train/adamw.py": [
        ("state[\"exp_avg_sq\"].copy_(second)", "state[\"exp_avg_sq\"].copy_(first)", "second moment lost"),
        ("weight_decay=group[\"weight_decay\"]", "weight_decay=0.0", "no weight decay under BF16 moments"),
        ("beta1=beta1, beta2=beta2", "beta1=beta2, beta2=beta1", "decays swapped under BF16 moments"),
    ],
    "train/accumulate.py": [
        ("merges = (self.count ^ (self.count + 1)).bit_length() - 1", "merges = len(self._stack)", "a running sum instead of a tree"),
        ("top = _add(self._stack.pop(), top)\n        self.count", "top = self._stack.pop()\n        self.count", "partial subtrees are dropped"),
        ("rest or size == 0 or (world_size > 1 and size & (size - 1))", "rest or size == 0", "blocks that are no subtrees pass"),
    ],
    "train/trainer.py:Trainer._gradients": [
        ("(losses.total / self._micro_batches).backward()", "losses.total.backward()", "1 / micro-batches is missing"),
        ("self.loader.batch(step - 1)", "self.loader.batch(step)", "the first batch is left out"),
        ("train.mtp_switch, train.mtp_loss_weight, train.mtp_loss_weight_final", "train.mtp_switch, train.mtp_loss_weight, train.mtp_loss_weight", "MTP's weight never switches"),
        ("train.mtp_loss_weight, train.mtp_loss_weight_final", "train.mtp_loss_weight_final, train.mtp_loss_weight", "MTP's weights swapped"),
        ("load_LE = load_LE + losses.load_LE.cpu()", "load_LE = losses.load_LE.cpu()", "loads of the last micro-batch alone"),
        ("micro, train.balance_loss_weight, mtp_weight", "micro, 0.0, mtp_weight", "the balance loss is ignored"),
        ("micro, train.balance_loss_weight, mtp_weight", "micro, mtp_weight, train.balance_loss_weight", "loss weights swapped"),
        ("scalars / self._micro_batches", "scalars", "the loss shown is a sum"),
    ],
    "train/trainer.py:Trainer._one_step": [
        ("train.bias_update_speed, 0.0)", "train.bias_update_speed, train.bias_update_speed)", "bias updates never stop"),
        ("train.bias_update_until,", "train.mtp_switch,", "bias updates stop at another switch"),
        ("schedule, step, train.steps)", "schedule, max(self.step, 1), train.steps)", "the rate of the step before"),
        ("self._refuse_non_finite(step, loss, mtp_loss, norm.item())", "", "a NaN goes into the weights"),
        ("self.model.update_biases(load_LE, speed)", "self.model.update_biases(load_LE.flip(0), speed)", "biases of other layers"),
        ("learning_rate * factor", "learning_rate", "the rate shown is the peak's"),
    ],
    "train/trainer.py:Trainer._evaluate": [
        ("bits / predicted * (len(tokens) - 1) / held_out_bytes", "bits / held_out_bytes", "bits per byte of a sample over all bytes"),
        ("np.linspace(0, count - 1,", "np.linspace(0, count // 2,", "only the first half is sampled"),
        ("sample = None if last else ", "sample = ", "the last evaluation is a sample"),
    ],
    "train/trainer.py:Trainer.weights_hash": [
        (", *self.model.named_buffers()", "", "the weights' hash without biases"),
    ],
    "train/trainer.py:Trainer.state_tensors": [
        ("\"buffers\": dict(self.model.named_buffers())", "\"buffers\": {n: torch.zeros_like(b) for n, b in self.model.named_buffers()}", "biases are not saved"),
    ],
    "train/trainer.py:Trainer._resume": [
        ("                buffer.copy_(saved.tensors[\"buffers\"][name])", "                pass", "biases are not restored"),
        ("self.step = saved.step", "self.step = saved.step - 1", "a step is done twice"),
    ],
    "train/trainer.py:Trainer.train": [
        ("or self._stop\n", "\n", "a stopped run is not saved"),
    ],
    "train/trainer.py:Trainer._record": [
        ("record.step % train.hash_every == 0 or record.step == train.steps", "record.step % train.hash_every == 0", "the end is not hashed"),
        ("record.step * train.batch_size", "(record.step - 1) * train.batch_size", "tokens of the steps before"),
    ],
    "train/trainer.py:_gradient": [
        ("gradient, parameter.grad = parameter.grad, None", "gradient = parameter.grad", "gradients of the step before stay"),
    ],
    "train/checkpoint.py": [
        ("for old in steps(folder)[:-keep]:", "for old in steps(folder)[:keep]:", "the oldest are kept"),
        ("if actual > size or sha256_file(file) != digest", "if actual > size", "the hash of a checkpoint is not checked"),
        ("tensor = tensor.clone()", "continue", "a tensor that shares memory is left out"),
    ],
    "train/transcript.py": [
        ("line = _line({**_encode(record), \"prev\": self.head})", "line = _line({**_encode(record), \"prev\": \"\"})", "no chain"),
        ("sorted(tensors, key=lambda pair: pair[0])", "tensors", "a hash that depends on the order"),
        ("list(tensor.shape)]", "tensor.numel()]", "a hash that does not see shapes"),
        ("for line in lines[: step + 1]))", "for line in lines[:step]))", "a line too many is cut"),
    ],
}
MODEL: dict[str, list[Row]] = {
    "model/router.py": [
        ("F.linear(x_TD.float(), self.weight.float())", "F.linear(x_TD, self.weight).float()", "router logits in BF16"),
        ("weight_TK = scores_TE.gather(1, index_TK)", "weight_TK = (choice_TE if c.n_group == 1 else scores_TE).gather(1, index_TK)", "weights with the bias in them"),
        ("+ 1e-20)", "+ 1e-2)", "an epsilon that is felt"),
        ("weight_TK = weight_TK * c.routed_scaling_factor", "pass", "routed scale left out"),
        ("c.topk_group, 2 if c.topk_method == \"noaux_tc\" else 1)", "c.topk_group, 1)", "V3's groups by their best expert"),
        ("float(\"-inf\")).flatten(-2)", "0.0).flatten(-2)", "masked with zero, below which biases may be"),
        ("torch.sign(load_E.mean() - load_E)", "torch.sign(load_E - load_E.mean())", "biases go the wrong way"),
        ("torch.sign(load_E.mean() - load_E)", "(load_E.mean() - load_E) / load_E.mean()", "biases move by how much, not by which way"),
        ("descending=True, stable=True", "descending=True", "ties go anywhere"),
        ("(experts / k)", "experts", "balance loss without 1 / K"),
        ("float().mean(1) * (experts / k)", "float().mean((0, 1), keepdim=True)[0] * (experts / k)", "loads over the batch instead of the sequence"),
        ("(scores_BSE / scores_BSE.sum(-1, keepdim=True)).mean(1)", "scores_BSE.mean(1)", "balance loss of scores that are not normalised"),
        ("sum(-1).mean()", "sum(-1).sum()", "balance loss summed over sequences"),
    ],
    "model/transformer.py:DeepSeekModel.loss": [
        ("tokens_BX[:, 2 : length + 2]", "tokens_BX[:, 1 : length + 1]", "MTP predicts the next token"),
        ("total = total + mtp_weight * mtp", "total = total + mtp", "MTP's weight left out"),
        ("total = total + balance_weight * routing.balance_loss", "total = total + routing.balance_loss", "balance weight left out"),
        ("routings += [routing] if routing is not None else []", "", "MTP's loads left out"),
        ("layer.shared_head[\"norm\"](mtp_BSD)", "self.model.norm(mtp_BSD)", "the main norm for MTP"),
        ("mtp_BSD, routing = layer(joined_BSD, turn_SP2, None, balance_weight > 0)", "mtp_BSD, routing = layer(joined_BSD, turn_SP2, None, False)", "MTP has no balance loss"),
        ("hidden_BSD)\n            mtp_BSD", "hidden_BSD.detach())\n            mtp_BSD", "MTP does not teach the main model"),
    ],
    "model/transformer.py": [
        ("torch.cat([self.enorm(embedding_BSD), self.hnorm(hidden_BSD)]", "torch.cat([self.hnorm(hidden_BSD), self.enorm(embedding_BSD)]", "MTP's halves swapped"),
        ("start = caches[0].length if caches else 0", "start = 0", "every token is at the beginning"),
        ("self.experts(x_TD, routing) + self.shared_experts(x_TD)", "self.experts(x_TD, routing)", "no shared experts"),
        ("config.moe_intermediate_size * config.n_shared_experts", "config.moe_intermediate_size", "one shared expert, however many"),
        ("parameter.fill_(1.0)", "parameter.zero_()", "norms begin at zero"),
        ("generator=generator)", "generator=torch.Generator().manual_seed(seed))", "all matrices begin alike"),
        ("self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)", "self.input_layernorm = RMSNorm(config.hidden_size)", "a norm's epsilon not the config's"),
        ("zip(self.moe_layers, load_LE, strict=True)", "zip(self.moe_layers, load_LE.roll(1, 0), strict=True)", "loads of another layer"),
        ("parameter.grad_dtype = None if fp8 is None else torch.float32", "pass", "weight gradients of FP8 in BF16"),
    ],
    "model/embedding.py": [
        ("dtype=torch.float32, device=g.device)", "dtype=g.dtype, device=g.device)", "embedding gradients summed in BF16"),
        ("total_VD.index_add_(0, tokens.flatten(), g.flatten(0, -2).float())", "total_VD[tokens.flatten()] = g.flatten(0, -2).float()", "a token's last occurrence alone"),
    ],
    "model/attention.py": [
        ("self.kv_a_layernorm(latent_BSR)", "latent_BSR", "the latent is not normalised"),
        ("rope_BSP = rotate(rope_BSP, turn_SP2).to(x_BSD.dtype)", "rope_BSP = rope_BSP.to(x_BSD.dtype)", "the shared key is not turned"),
        ("torch.cat([self.rope_BSP, rope_BSP], dim=1)", "torch.cat([rope_BSP, self.rope_BSP], dim=1)", "cached keys in the wrong order"),
        ("seen = cache.length", "seen = cache.length - length", "a cache without the new positions"),
        ("self.q_b_proj(self.q_a_layernorm(q_BSX))", "self.q_b_proj(q_BSX)", "compressed queries are not normalised"),
    ],
    "model/rope.py": [
        ("_mscale(yarn.factor, yarn.mscale_all_dim) ** 2", "_mscale(yarn.factor, yarn.mscale_all_dim)", "YaRN's softmax correction once, not squared"),
        ("frequency / yarn.factor * ramp + frequency * (1 - ramp)", "frequency / yarn.factor * (1 - ramp) + frequency * ramp", "fast frequencies are stretched, slow ones stay"),
        ("torch.arange(start, start + length,", "torch.arange(0, length,", "positions from zero with a cache"),
        ("unflatten(-1, (-1, 2))", "unflatten(-1, (2, -1)).transpose(-1, -2).contiguous()", "halves are turned, not neighbours"),
        ("min(math.ceil(pair(yarn.beta_slow)), dim - 1)", "min(math.ceil(pair(yarn.beta_slow)), dim // 2 - 1)", "YaRN's range cut short"),
        ("max(math.floor(pair(yarn.beta_fast)), 0), min(math.ceil(pair(yarn.beta_slow)), dim - 1)", "max(round(pair(yarn.beta_fast)), 0), min(round(pair(yarn.beta_slow)), dim - 1)", "YaRN's range rounded to nearest"),
        ("/ _mscale(yarn.factor, yarn.mscale_all_dim)\n", "\n", "YaRN's multiplier not divided"),
        ("config.qk_head_dim**-0.5", "config.qk_nope_head_dim**-0.5", "scaled by half of the head"),
    ],
}
FP8: dict[str, list[Row]] = {
    "fp8/formats.py": [
        ("0x007FFFFF) & 0x7F800000).view(torch.float32)", "0x00400000) & 0x7F800000).view(torch.float32)", "powers of two to nearest, not up"),
        ("+ 0 * x", "", "NaN hidden by a finite scale"),
        ("x.clamp(-largest, largest).to(dtype)", "x.to(dtype)", "beyond the largest becomes NaN"),
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
        ("torch.finfo(dtype).max)\n    data_MGT", "448.0)\n    data_MGT", "E4M3's limit for E5M2"),
        ("True, E5M6_MAX)", "True, 448.0)", "another format's limit"),
    ],
    "fp8/matmul.py": [
        ("y_MN += part_MN * (a.scale[:, g, None] * scale_NG[:, g])", "y_MN += part_MN * a.scale[:, g, None]", "the weights' scales left out"),
        ("for g in range(a.scale.shape[1]):", "for g in range(a.data.shape[1] // TILE):", "the last partial slice"),
        ("tiles = slice(start, end), slice(start // TILE, -(-end // TILE))", "tiles = slice(start, end), slice(0, -(-end // TILE) - start // TILE)", "every expert has the first one's scales"),
        ("Quantised(b.data[e], b.scale[e])", "Quantised(b.data[e], b.scale[0])", "the first expert's scales"),
        ("bitwise_and_(-(1 << 10))", "bitwise_and_(-(1 << 8))", "the comparison's accumulator too fine"),
    ],
    "fp8/swiglu.py:_backward_passes": [
        ("value=-1", "value=1", "a sign in silu's slope"),
        ("torch.mul(d_RI, silu_RI, out=d_up_RI)", "torch.mul(d_RI, sigmoid_RI, out=d_up_RI)", "sigmoid for silu"),
    ],
    "fp8/swiglu.py:weighted_swiglu_backward": [
        ("_backward_passes(d_RI * weight_R1,", "_backward_passes(d_RI,", "the router's weight left out of the gradient"),
        ("act_RI.mul_(weight_R1), d_gate_up_RI2", "act_RI, d_gate_up_RI2", "the down projection's input without its weight"),
    ],
    "fp8/dequantised.py": [
        ("y_ENK[empty_E] = 0.0", "pass", "an expert without rows has a gradient"),
        ("& 0x7FFF).amax(dim)", ").amax(dim)", "the largest without its sign"),
        ("[:rows]\n", "\n", "padding stays"),
        ("2.0**120", "2.0**119", "a power of two"),
        ("or columns % TILE or not power_of_two", "or not power_of_two", "partial tiles in the fast way"),
    ],
    "fp8/linear.py": [
        ("versions != self._versions", "False", "quantised weights of the step before"),
        ("dx_TK = part_TK if dx_TK is None else dx_TK.add_(part_TK)", "dx_TK = part_TK", "the gradient of the last layer alone"),
        ("fp8.power_of_two(\"gradient\"), fp8.gradient_dtype", "fp8.power_of_two(\"gradient\")", "the gradient's format ignored"),
        ("quantise_e5m6(x_TK) if kind == \"attention_output\" else x", "quantise_e5m6(x_TK * 1.0625) if kind == \"attention_output\" else x", "another input is kept than was used"),
    ],
    "model/feed_forward_fp8.py": [
        ("(\"activation\", \"gradient\") if layout is None else (\"dispatch\", \"combine_gradient\")", "(\"activation\", \"gradient\")", "V3's rounded scales for experts left out"),
        ("kept[2 * i : 2 * i + 2]", "kept[2 * i : 2 * i + 2]) if i else Quantised(*kept[-2:]", "another expert's activations"),
        ("experts, 2 * width, hidden), e, d_gate_up_e", "experts, 2 * width, hidden), e, d_gate_up_e * 0.5", "half of a gradient"),
        ("F.pad(q.scale, (0, 0, 0, 1), value=1.0)", "F.pad(q.scale, (0, 0, 0, 1), value=0.0)", "padding's scale is zero"),
    ],
}
DATA: dict[str, list[Row]] = {
    "data/loader.py": [
        ("(len(self._stream) - lookahead) // sequence_length", "len(self._stream) // sequence_length", "a window past the end"),
        ("np.arange(step * self.batch_size, (step + 1) * self.batch_size, dtype=np.int64)", "np.arange(step, step + self.batch_size, dtype=np.int64)", "batches overlap"),
        ("[self.fingerprint, self.seed, epoch]", "[self.fingerprint, self.seed]", "every epoch in the same order"),
        ("[self.fingerprint, self.seed, epoch]", "[self.fingerprint, epoch]", "the seed is ignored"),
        ("[self.fingerprint, self.seed, epoch]", "[self.seed, epoch]", "the data do not decide the order"),
        ("window * self.sequence_length, row", "window, row", "windows overlap"),
        ("done, shard = done + len(part), shard + 1", "done, shard = done + len(part), shard", "a shard read twice"),
        ("end = start + self.sequence_length + self.lookahead", "end = start + self.sequence_length", "a document at the end is not named"),
        ("(start, end - 1)", "(start, end)", "a document too many"),
        ("values[outside] = self._encrypt(values[outside])", "values[outside] %= self._n", "an order that visits some windows twice"),
        ("left ^ (_mix(right ^ key) & self._mask)", "left ^ (right ^ key) & self._mask", "an order that is hardly mixed"),
    ],
    "data/shards.py": [
        ("< held_out_fraction * 2**64 else", "<= (1 - held_out_fraction) * 2**64 else", "most documents are held out"),
        ("ids = bos + next(encoded) + eos", "ids = next(encoded) + eos", "no beginning of a document"),
        ("rate = config.fim_rate if split == \"train\" else 0.0", "rate = config.fim_rate", "held-out documents rearranged"),
        ("(cut[0], cut[2], cut[1]) if cut", "(cut[0], cut[1], cut[2]) if cut", "prefix, middle, suffix"),
        ("        if document.sha256 in seen:\n            scan.duplicates += 1\n            continue\n", "", "duplicates are kept"),
        ("if split == \"train\" and total", "if total", "the tokenizer reads held-out text"),
        ("    _write_batch(batch, config, tokenizer, writer)\n    report(", "    report(", "the last partial batch is dropped"),
        ("token_bytes: Literal[2, 4] = 2 if vocab_size <= 2**16 else 4", "token_bytes: Literal[2, 4] = 2", "token ids above 65,535"),
        ("name, room = f\"{split}-{position // per_shard:05d}.bin\", per_shard - position % per_shard", "name, room = f\"{split}-{position // per_shard:05d}.bin\", per_shard", "shards too long"),
        ("\"vocab_size\": vocab_size, ", "", "data for another vocabulary are reused"),
    ],
    "data/fim.py": [
        ("chance >= rate * 2**64", "chance < rate * 2**64", "all but the share"),
        ("fim {seed} {sha256}", "fim {sha256}", "the seed is ignored"),
        ("(len(text) + 1)", "len(text)", "never cut at the end"),
        ("text[first:second], text[second:]", "text[first:second], text[first:]", "the middle twice"),
    ],
    "data/decode.py": [
        ("for piece in (prefix, middle, suffix)", "for piece in (prefix, suffix, middle)", "rearranged documents read as they stand"),
        ("len(text) != entry.bytes or sha256_bytes(text) != entry.sha256", "len(text) != entry.bytes", "contents are not compared"),
    ],
    "data/tokenizer.py": [
        ("self._encoder.encode_special_tokens = True", "pass", "text becomes a special token"),
        ("1 + max(", "max(", "the largest id is left out"),
        ("{1,3}", "{1,2}", "digits by two"),
        ("add_prefix_space=False", "add_prefix_space=True", "a space before each document"),
        ("token[\"special\"] = token[\"content\"] in CONTROL_TOKENS", "token[\"special\"] = True", "servers leave </think> out"),
    ],
    "data/manifest.py": [
        ("if hashes and sha256_file(path) != entry.sha256", "if False", "contents of files are not compared"),
        ("\"seed\": config.seed}", "\"seed\": 0}", "the fingerprint does not see the seed"),
        ("**content, \"tokenizer\": tokenizer_sha256, ", "**content, ", "the fingerprint does not see the tokenizer"),
    ],
}
HUB: dict[str, list[Row]] = {
    "hub/hf.py": [
        ("slice(0, width) if match", "slice(width, 2 * width) if not match", "one half for gate and up"),
        ("if match[\"projection\"] == \"gate\" else", "if match[\"projection\"] == \"up\" else", "gate and up swapped"),
        ("check_finite(part, self.source.tensors[name].entry.dtype, where)", "pass", "NaN is imported"),
        ("if not torch.equal(part, state[name])", "if False", "an MTP head of its own is dropped"),
        ("self.scales == \"power-of-two\")", "False)", "odd scales under ue8m0"),
    ],
    "hub/block_fp8.py": [
        ("mul_(256.0)", "mul_(128.0)", "a power of two"),
        ("& 0x7F).amax() == 0x7F", "& 0x7F).amax() > 0x7F", "codes that are NaN"),
        ("if power_of_two:\n            same_GG &= _is_power_of_two(old_scale_GG)", "if False:\n            pass", "old scales that are no powers of two"),
        ("repeat_interleave(TILE, 1)[:, : x_NK.shape[1]]\n    full", "repeat(1, TILE)[:, : x_NK.shape[1]]\n    full", "scales interleaved the other way"),
        ("yield x_NK[full * TILE :], across_GK[full]", "yield x_NK[full * TILE :], across_GK[0]", "the last partial block"),
        ("return same_GG & usable_GG", "return same_GG", "scales that are not numbers"),
        ("_values(codes_NK, scale_GG).view(torch.int16) == w_NK.view(torch.int16)", "_values(codes_NK, scale_GG) == w_NK", "the sign of a zero"),
    ],
    "hub/hf_config.py": [
        ("\"num_key_value_heads\": config.num_attention_heads", "\"num_key_value_heads\": 1", "another number of heads"),
        ("\"scoring_func\": \"sigmoid\" if v3 else \"softmax\"", "\"scoring_func\": \"softmax\"", "V3 read as softmax"),
        ("\"mscale\": 1.0, \"mscale_all_dim\": 0.0", "\"mscale\": 1.0, \"mscale_all_dim\": 1.0", "YaRN's defaults are ClearSeek's"),
        ("any(theta != thetas[0] for theta in thetas)", "False", "two bases that contradict"),
        ("\"head_dim\": config.qk_rope_head_dim", "\"head_dim\": config.qk_head_dim", "another meaning of head_dim"),
    ],
    "hub/layout.py": [
        ("-(-size // FP8_BLOCK)", "size // FP8_BLOCK", "scales of the last partial block"),
        ("(H, 2 * H)", "(2 * H, H)", "eh_proj transposed"),
        ("spec.size * config.num_experts_per_tok // config.n_routed_experts", "spec.size // config.n_routed_experts", "one expert a token"),
        ("attention = 3 * sequence_length", "attention = 6 * sequence_length", "not causal"),
        ("micro_batches.bit_length() - 1", "micro_batches - 1", "sums of a running total"),
        ("4 * (trained + bias)", "4 * trained", "biases not counted"),
    ],
    "hub/convert_plan.py": [
        ("if k != \"quantization_config\"", "", "a BF16 folder that says FP8"),
        ("elif matrix not in here:", "elif False:", "scales in another file are dropped"),
        ("shaped = [Shaped(e.name, \"BF16\" if e.dtype == \"F8_E4M3\" else e.dtype, e.shape) for e in kept]", "shaped = [Shaped(e.name, \"BF16\", e.shape) for e in kept]", "FP32 biases become BF16"),
    ],
    "hub/convert_stream.py": [
        ("_write(handle, target.begin + first, raw.numpy().data)", "_write(handle, target.begin, raw.numpy().data)", "pieces over one another"),
        ("slice(each.start // TILE, -(-each.stop // TILE))", "slice(0, -(-each.stop // TILE) - each.start // TILE)", "every piece has the first scales"),
        ("min(column + wide, columns)", "column + wide", "a piece past the edge"),
        ("Done(*map(sum, zip(total, done, strict=True)))", "done", "only the last piece is counted"),
    ],
    "hub/safetensors_file.py": [
        ("if entry.begin != end:", "if entry.begin < end:", "gaps between tensors"),
        ("b\" \" * (-len(text) % 8)", "b\"\"", "numbers not aligned"),
        ("if size is not None and size != end", "if size is not None and size < end", "bytes after the last tensor"),
        ("if name in content:", "if False:", "a key twice"),
    ],
}
OTHERS: dict[str, list[Row]] = {
    "evaluate/bits.py": [
        ("nats / math.log(2)", "nats", "nats for bits"),
        ("fresh = 0 if index == 0 else window - stride", "fresh = 0", "tokens are counted twice"),
        ("piece[1 + fresh :]", "piece[fresh:-1]", "the present token is predicted"),
        ("losses.double().sum()", "losses.mean()", "a mean over windows of unequal size"),
        ("1 + -(-(tokens - 1 - window) // stride)", "1 + (tokens - 1 - window) // stride", "the last partial window"),
    ],
    "inference/sampler.py": [
        ("- most) / sampling.temperature", "- most) * sampling.temperature", "hot for cold"),
        ("p_V.cumsum(-1)[:-1] >= sampling.top_p", "p_V.cumsum(-1)[1:] >= sampling.top_p", "top-p without the token that crosses it"),
        ("p_V.sort(descending=True, stable=True)", "p_V.sort(stable=True)", "the unlikeliest tokens"),
        ("manual_seed(sampling.seed)", "manual_seed(0)", "the seed is ignored"),
        ("if token in stop:\n            return\n        yield token", "yield token\n        if token in stop:\n            return", "the stop token is shown"),
        ("longest - len(prompt)", "longest", "past the longest sequence"),
    ],
}
KERNELS: dict[str, list[Row]] = {
    "model/norm.py": [
        ("def __init__(self, size: int, eps: float = 1e-6)", "def __init__(self, size: int, eps: float = 1e-5)", "another default epsilon"),
    ],
}
FAULTS = TRAIN | MODEL | FP8 | DATA | HUB | OTHERS | KERNELS
