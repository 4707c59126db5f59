"""Faults in the training step, its optimisers, schedule and records."""
# ruff: noqa: E501 - lines of code as they stand in the package
# fmt: off

from __future__ import annotations

FAULTS: dict[str, list[tuple[str, str, str]]] = {
    "recipe.py:_without_retired": [
        ("settings[key] != always:", "False:", "what is no longer done is dropped in silence"),
        ("if name != key}", "}", "a retired setting stays in the tables"),
    ],
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
    "train/optimizer.py:matrix_of": [
        ("\"mlp.gate.weight\", ", "", "Muon on the router"),
        ("\"lm_head.weight\", ", "", "Muon on the output head"),
        ("\"embed_tokens.weight\", ", "", "Muon on the embedding"),
        ("len(shape) < 2", "len(shape) != 2", "AdamW on the experts"),
        ("(shape[-2] // 2 if name.endswith(\"experts.gate_up_proj\") else shape[-2])", "shape[-2]", "gate and up orthogonalised as one matrix"),
    ],
    "train/optimizer.py:Updates.__init__": [
        ("decayed if len(shape) > 1 else plain", "decayed", "weight decay on norms"),
        ("{\"params\": plain, \"weight_decay\": 0.0, ", "{\"params\": plain, \"weight_decay\": 0.01, ", "PyTorch's default decay on norms"),
        ("{\"params\": embedding, \"weight_decay\": 0.0, ", "{\"params\": embedding, \"weight_decay\": config.weight_decay, ", "weight decay on an embedding with a rate of its own"),
        ("\"peak\": config.embedding_learning_rate", "\"peak\": config.learning_rate", "the embedding's own rate is ignored"),
        ("betas=config.betas", "betas=config.betas[::-1]", "AdamW's decays swapped"),
        ("eps=config.eps", "eps=1e-8", "epsilon not the recipe's"),
        ("config.momentum, config.weight_decay", "config.weight_decay, config.momentum", "Muon's arguments swapped"),
        ("products, config.momentum, config.weight_decay", "products", "Muon's defaults instead of the recipe's"),
        ("config.muon_learning_rate, products", "config.muon_learning_rate, torch.bfloat16", "Muon in BF16, whatever the model"),
    ],
    "train/muon.py:_orthogonalised": [
        ("[len(stack) for stack in stacks]", "[len(stack) for stack in stacks[::-1]]", "stacks are taken apart in another order"),
    ],
    "train/optimizer.py:Updates.step": [
        ("if factor < 1.0 and gradients:", "if gradients:", "clipping scales small gradients up"),
        ("self.config.grad_clip / (norm + 1e-6)", "1.0 / (norm + 1e-6)", "the recipe's limit is ignored"),
        ("group[\"lr\"] = group[\"peak\"] * multiplier", "group[\"lr\"] = group[\"peak\"]", "the schedule is ignored"),
        ("self.config.muon_learning_rate * multiplier", "self.config.learning_rate * multiplier", "Muon takes AdamW's rate"),
        ("torch._foreach_mul_(gradients, factor)", "torch._foreach_mul_(gradients[1:], factor)", "one tensor's gradient is not clipped"),
    ],
    "train/optimizer.py:MasterOptimizer.step": [
        ("        self.round_into_model()\n", "", "the model never sees new weights"),
    ],
    "train/optimizer.py:Updates.load_state": [
        ("_placed(value, view)", "_placed(value if value.ndim else value * 0, view)", "AdamW counts its steps from zero after a resume"),
    ],
    "train/optimizer.py:MasterOptimizer.load": [
        ("        self.round_into_model()\n", "", "a restored model keeps its fresh weights"),
        ("master.copy_(each.of(weights[name].to(master.device)))", "pass", "masters are not restored"),
        ("each.parameter.copy_(weights[name])", "pass", "rows that are not trained are not restored"),
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
    "train/muon.py:Muon._update": [
        ("p.grad.lerp(buffer, momentum)", "buffer", "Nesterov's look ahead left out"),
        ("1 - momentum", "momentum", "momentum and its complement swapped"),
        ("state[\"momentum_buffer\"].lerp_(p.grad,", "state[\"momentum_buffer\"].clone().lerp_(p.grad,", "momentum is forgotten"),
    ],
    "train/muon.py:Muon.step": [
        ("max(p.shape[-2:]) ** 0.5", "min(p.shape[-2:]) ** 0.5", "scaled by the shorter side"),
        ("1 - group[\"lr\"] * group[\"weight_decay\"]", "1 - group[\"weight_decay\"]", "decay not coupled to the rate"),
        ("                    p.mul_(1 - group[\"lr\"] * group[\"weight_decay\"])\n                    p.add_(update, alpha=-group[\"lr\"] * 0.2 * max(p.shape[-2:]) ** 0.5)", "                    p.add_(update, alpha=-group[\"lr\"] * 0.2 * max(p.shape[-2:]) ** 0.5)\n                    p.mul_(1 - group[\"lr\"] * group[\"weight_decay\"])", "decay after the update"),
    ],
    "train/optimizer.py:AdamW": [
        ("state[\"exp_avg_sq\"].copy_(wide_sq)", "state[\"exp_avg_sq\"].copy_(wide)", "second moment lost"),
        ("weight_decay=group[\"weight_decay\"]", "weight_decay=0.0", "no weight decay under BF16 moments"),
        ("beta1=beta1, beta2=beta2", "beta1=beta2, beta2=beta1", "decays swapped under BF16 moments"),
        ("torch.zeros((), dtype", "torch.full((), 1000.0, dtype", "no bias correction"),
    ],
    "train/accumulate.py:TreeSum": [
        ("merges = (self.count ^ (self.count + 1)).bit_length() - 1", "merges = len(self._stack)", "a running sum instead of a tree"),
        ("top = _add(self._stack.pop(), top)\n        self.count", "top = self._stack.pop()\n        self.count", "partial subtrees are dropped"),
        ("[tensor.float() for tensor in tensors]", "list(tensors)", "sums in BF16"),
    ],
    "train/accumulate.py:block": [
        ("rest or size == 0 or (world_size > 1 and size & (size - 1))", "rest or size == 0", "blocks that are no subtrees pass"),
    ],
    "train/accumulate.py:LaneSum": [
        ("_add(self._lane, list(tensors))", "self._lane = list(tensors)", "the last micro-batch of a lane alone"),
        ("if self._done % self._length == 0:", "if self._done % self._length == 1:", "lanes begin one too late"),
        ("[tensor.float() for tensor in tensors]", "list(tensors)", "running sums in BF16"),
    ],
    "train/chunks.py:total_norm": [
        ("squares *= squares", "pass", "norms added instead of their squares"),
        ("math.sqrt(squares[-1])", "squares[-1]", "the norm's square"),
    ],
    "train/chunks.py:_in_order": [
        ("sorted(tensors, key=lambda pair: pair[0])", "tensors", "a hash that depends on the order"),
    ],
    "train/record.py": [
        ("name: value.hex() for name, value in record.scalars.items()", "name: float(f\"{value:.7g}\").hex() for name, value in record.scalars.items()", "floats with seven digits"),
    ],
    "train/chunks.py:describe": [
        ("list(shape)]", "math.prod(shape)]", "a hash that does not see shapes"),
    ],
    "train/chunks.py:hash_tensors": [
        ("digest.update(described)", "pass", "names and shapes are not hashed"),
    ],
    "train/chunks.py:chunk_digests": [
        ("for chunk in chunks(tensor)", "for chunk in chunks(tensor)[:1]", "the first chunk alone is hashed"),
    ],
    "train/pretrain.py:PreTraining.batch": [
        ("self.loader.batch(step - 1, rows)", "self.loader.batch(step, rows)", "the first batch is left out"),
        ("1.0 / counted", "1.0 / self.recipe.train.batch_size", "a mean over sequences, not tokens"),
    ],
    "train/pretrain.py:loss_weights": [
        ("train.mtp_loss_weight, train.mtp_loss_weight_final", "train.mtp_loss_weight, train.mtp_loss_weight", "MTP's weight never switches"),
        ("train.mtp_loss_weight, train.mtp_loss_weight_final", "train.mtp_loss_weight_final, train.mtp_loss_weight", "MTP's weights swapped"),
        ("return train.balance_loss_weight,", "return 0.0,", "the balance loss is ignored"),
        ("train.balance_loss_weight, value_at(step, train.steps, until, first, final)", "value_at(step, train.steps, until, first, final), train.balance_loss_weight", "loss weights swapped"),
    ],
    "train/pretrain.py:next_tokens_loss": [
        ("mtp_weight, micro.weight_BX", "mtp_weight, None", "every micro-batch counts as a whole step"),
    ],
    "train/pretrain.py:PreTraining.evaluate": [
        ("np.linspace(0, count - 1,", "np.linspace(0, count // 2,", "only the first half is sampled"),
        ("if step != train.steps:", "if True:", "the last evaluation is a sample"),
    ],
    "train/task.py:Batch.split": [
        ("range(first, first + size)", "range(size)", "the first micro-batch, again and again"),
    ],
    "train/task.py:Batch.select": [
        ("weight_BX=self.weight_BX[part]", "weight_BX=self.weight_BX[: len(self.weight_BX[part])]", "weights of other sequences"),
    ],
    "train/work.py:Work.sums": [
        ("load_LE = load_LE + loss.load_LE", "load_LE = loss.load_LE", "loads of the last micro-batch alone"),
    ],
    "train/step.py:Training.advance": [
        ("train.bias_update_speed, 0.0)", "train.bias_update_speed, train.bias_update_speed)", "bias updates never stop"),
        ("train.bias_update_until,", "train.mtp_switch,", "bias updates stop at another switch"),
        ("schedule, step, train.steps)", "schedule, max(self.step, 1), train.steps)", "the rate of the step before"),
        ("self._refuse_non_finite(step, scalars, norm)", "pass", "a NaN goes into the weights"),
        ("self.work.update_biases(load_LE, speed)", "self.work.update_biases(load_LE.flip(0), speed)", "biases of other layers"),
        ("learning_rate * factor", "learning_rate", "the rate shown is the peak's"),
        ("self.tokens + batch.counted", "self.tokens + batch.tokens_BX.numel()", "the look-ahead is counted"),
        ("step % train.hash_every == 0 or step == train.steps", "step % train.hash_every == 0", "the end is not hashed"),
        ("self.work.hash(\"optimizer\")", "self.work.hash(\"weights\")", "the optimiser's hash is of the weights"),
    ],
    "train/step.py:_balance": [
        ("load_LE.amax(1) /", "load_LE.amax() /", "every layer shows the busiest expert of all"),
    ],
    "train/step.py:Training.weights_hash": [
        (", \"buffers\"", "", "the weights' hash without biases"),
    ],
    "train/work.py:Work.state": [
        ("\"buffers\": dict(self.model.named_buffers())", "\"buffers\": {n: torch.zeros_like(b) for n, b in self.model.named_buffers()}", "biases are not saved"),
        ("self.masters.weights() | self.frozen()", "self.masters.weights()", "what is not trained is not saved"),
    ],
    "train/work.py:Work._load_buffers": [
        ("            buffer.copy_(cut(buffers[name], Part.of(name, buffer.shape)).view(buffer.shape))", "            pass", "biases are not restored"),
    ],
    "train/step.py:Training.load": [
        ("self.step, self.tokens = step, tokens", "self.step, self.tokens = step - 1, tokens", "a step is done twice"),
    ],
    "train/work.py:Work.load": [
        ("            tensor.copy_(weights[name])", "            pass", "what is not trained is not restored"),
    ],
    "train/optimizer.py:Trained.take_gradient": [
        ("gradient, self.parameter.grad = self.parameter.grad, None", "gradient = self.parameter.grad", "gradients of the step before stay"),
        ("self.of(gradient).float()", "gradient[: len(self.rows or gradient)].float()", "gradients of the first experts for the chosen ones"),
    ],
    "train/trainer.py:Trainer.train": [
        ("or self._stop:", "or False:", "a stopped run is not saved"),
    ],
    "evaluate/bits.py:per_byte": [
        ("bits / predicted * (len(tokens) - 1) / size", "bits / size", "bits per byte of a sample over all bytes"),
    ],
    "train/checkpoints/checkpoint.py": [
        ("for old in steps(folder)[:-keep]:", "for old in steps(folder)[:keep]:", "the oldest are kept"),
        ("    discard_after(folder, step)\n    for old", "    for old", "later checkpoints outlive a save"),
    ],
    "train/checkpoints/files.py": [
        ("if actual > expected.size or sha256_file(file) != expected.sha256", "if actual > expected.size", "the hash of a checkpoint is not checked"),
        ("tensor = tensor.clone()", "continue", "a tensor that shares memory is left out"),
        ("tensor = tensor.detach().cpu().contiguous()", "tensor = tensor.detach().cpu().bfloat16().to(tensor.dtype).contiguous()", "saved with BF16's digits"),
        ("if part.name not in each), None)", "), None)", "one of two pieces of a tensor is lost"),
        ("{\"saved_offsets\": [part.start]}", "{\"saved_offsets\": [0]}", "the note of a piece's place is wrong"),
    ],
    "train/checkpoints/record.py": [
        ("if sha256_bytes(canonical(raw)) != digest", "if False", "the record of a checkpoint is not checked"),
        ("if part.start != end or", "if part.start < end or", "gaps between pieces pass"),
        ("            if end != prod(first.part.shape):", "            if False:", "the end of a tensor may be missing"),
    ],
    "train/checkpoints/stored.py": [
        ("first * DTYPE_BYTES[piece.dtype]", "first", "elements are counted as bytes"),
        ("first += number * prod(shape)", "first += number", "experts of a stack mistaken"),
        ("if not self._checked and", "if False and", "files are read unchecked"),
    ],
    "train/checkpoints/saver.py": [
        ("copy_(tensor, True))", "copy_(tensor, True) if tensor.is_cuda else tensor)", "the state goes on changing while it is written"),
        ("        self.finish()\n        size =", "        size =", "two checkpoints are written at once"),
        ("if self._job is not None and not self.group.largest(not self._job.done()):", "if self._job is not None and self._job.done():", "processes go on without each other"),
    ],
    "train/transcript.py": [
        ("if entry.get(\"prev\") != before.head:", "if \"prev\" not in entry:", "the chain is not followed"),
    ],
    "train/writer.py": [
        ("line = canonical({**encode(record), \"prev\": self.head})", "line = canonical({**encode(record), \"prev\": \"\"})", "no chain"),
        ("file.truncate(at.end)", "file.truncate(at.end - 1)", "a byte too many is cut"),
        ("file.truncate(at.end)", "pass", "lines that will be written again stay"),
        ("if head is not None and head != at.head:", "if False:", "a checkpoint of another run is resumed"),
    ],
    "train/run.py": [
        ("if entry[\"step\"] > step:", "if entry[\"step\"] >= step:", "a resumed run loses a line of metrics"),
        ("{**tensors[\"weights\"], **tensors[\"buffers\"]}, assign=True", "{**tensors[\"weights\"]}, strict=False, assign=True", "a model without its biases"),
    ],
    "train/optimizer.py:MasterOptimizer.round_into_model": [
        ("if t.rows is None]", "if t.rows is None][:-1]", "in BF16 the last parameter never learns"),
        ("each.parameter.index_copy_(0, each.index, master.to(each.parameter.dtype))", "pass", "chosen experts never learn"),
    ],
    "train/schedule.py:_share": [
        ("return step / steps", "return (step - 1) / max(steps - 1, 1)", "steps count from zero"),
    ],
    "train/pretrain.py:PreTraining.__init__": [
        ("recipe.data.seed, lookahead", "recipe.train.seed, lookahead", "the batches' order follows the weights' seed"),
    ],
    "train/work.py:Work._build": [
        ("initialise(self.recipe.train.seed, ", "initialise(0, ", "the weights' seed is ignored"),
        ("self.recipe.train.initial_weights == \"scaled\"", "False", "weights are never scaled"),
    ],
    "train/work.py:Work.__init__": [
        ("trainable(self.model)", "everything(self.model)", "what is not to be trained is"),
    ],
    "train/origin.py:Parent.begin": [
        ("!= self.record[\"weights_sha256\"]", "== \"\"", "another parent's weights"),
    ],
    "train/pretrain.py:PreTraining.contents": [
        ("documents(step - 1)", "documents(step)", "documents of the next batch are blamed"),
    ],
    "train/trainer.py:Trainer._save": [
        ("\"tokens\": training.tokens", "\"tokens\": 0", "tokens are counted from zero after a resume"),
    ],
    "train/trainer.py:Trainer.__init__": [
        ("recipe.train.keep_checkpoints", "1", "one checkpoint is kept, whatever the recipe says"),
    ],
    "train/trainer.py:Trainer._resume": [
        ("        checkpoint.discard_after(folder, saved.step)\n", "", "checkpoints of a future that was given up stay"),
    ],
    "train/extend.py": [
        ("if hasher(end.version)(weights) != end.record.weights_sha256", "if False", "a parent's weights are not compared"),
        ("raw[\"train\"][\"steps\"] += more", "raw[\"train\"][\"steps\"] = more", "more steps are all the steps"),
    ],
}
