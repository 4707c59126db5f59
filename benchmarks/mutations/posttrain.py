"""Faults in post-training: losses, rewards, problems, packs, distillation, adapters, and the checks of their records."""
# ruff: noqa: E501 - lines of code as they stand in the package
# fmt: off

from __future__ import annotations

FAULTS: dict[str, list[tuple[str, str, str]]] = {
    "posttrain/losses.py:advantages": [
        ("reward_GC.std(1, keepdim=True) + 1e-4", "reward_GC.std(1, keepdim=True, correction=0) + 1e-4", "no Bessel correction"),
        ("(reward_GC.std(1, keepdim=True) + 1e-4)", "(reward_GC.var(1, keepdim=True) + 1e-4).sqrt()", "epsilon within the root"),
    ],
    "posttrain/losses.py:policy_loss": [
        ("batch.rows(ref_T.detach()) - logp_NL", "logp_NL - batch.rows(ref_T.detach())", "the divergence the other way round"),
    ],
    "posttrain/losses.py:_surrogate": [
        ("1 - settings.clip_low, 1 + settings.clip_high", "1 - settings.clip_high, 1 + settings.clip_low", "the clip's sides swapped"),
        ("(ratio_NX < low) & (advantage_N1 < 0)", "(ratio_NX < low) & (advantage_N1 > 0)", "clips counted of the wrong sign"),
    ],
    "posttrain/losses.py:_normalised": [
        ("(loss_NL.sum(1) / batch.length_N).sum() / completions", "loss_NL.sum() / batch.length_N.sum()", "GRPO by tokens"),
    ],
    "posttrain/losses.py:entropy_weights": [
        ("(logp_T - old_T).exp() * ", "", "entropy of the older policy's draws"),
    ],
    "posttrain/grpo.py:PolicyOptimisation.asked": [
        ("number * (size // group) + k", "number * size + k", "rounds pass over problems"),
        ("seed_of(self.recipe.data.seed, number, k)", "seed_of(self.recipe.data.seed, number, k % group)", "groups of a round are drawn alike"),
        ("seed_of(self.recipe.data.seed, number, k)", "seed_of(self.recipe.data.seed, k)", "rounds are drawn alike"),
    ],
    "posttrain/grpo.py:PolicyOptimisation.batch": [
        ("update > 0 or self.grpo.beta > 0", "update > 1 or self.grpo.beta > 0", "the second update believes itself on policy"),
    ],
    "posttrain/grpo.py:PolicyOptimisation._logp": [
        ("target_C, self.grpo.temperature, kept", "target_C, 1.0, kept", "ratios without the temperature"),
    ],
    "posttrain/grpo.py:PolicyOptimisation._routes": [
        ("routes[b][:-1]", "routes[b][1:]", "each input has the next one's experts"),
    ],
    "posttrain/grpo.py:_notes": [
        ("-rollouts.logp_C.double().mean()", "rollouts.logp_C.double().mean()", "entropy's sign"),
        ("std(1, correction=0).mean()", "mean(1).std(correction=0)", "spread of the groups' means"),
    ],
    "posttrain/rollouts.py": [
        ("\" \".join(map(str, address))", "\"\".join(map(str, address))", "addresses that share a seed"),
    ],
    "problems/rewards.py": [
        ("answer if found and marker not in answer else None", "completion.rpartition(marker)[2] if found else None", "the last of many answers counts"),
        ("Counter(token for token in tokens if token[0].isdigit()) != Counter(map(str, numbers))", "{token for token in tokens if token[0].isdigit()} != set(map(str, numbers))", "a number twice"),
    ],
    "problems/rewards.py:exact_integer": [
        ("    if not _INTEGER.fullmatch(answer):\n        return scored(\"not an integer\")\n    return scored(\"right\" if answer == str(truth) else \"wrong\")",
         "    if not re.fullmatch(\"-?[0-9]+\", answer):\n        return scored(\"not an integer\")\n    return scored(\"right\" if int(answer) == truth else \"wrong\")", "leading zeros accepted"),
    ],
    "problems/problems.py": [
        ("hashlib.sha256(problem.name.encode())", "hashlib.sha256(f\"{self.config.seed} {problem.name}\".encode())", "held out under one seed alone"),
        ("found.setdefault(problem.prompt, problem)", "found.setdefault(str(index), problem)", "a problem held out twice"),
    ],
    "problems/prompts.py": [
        ("if not ended:", "if not ended and template != \"plain\":", "reward for completions that were cut off"),
    ],
    "problems/questions.py": [
        ("problem.answer, tuple(tokens), ended) for", "problem.answer, tuple(tokens)) for", "programs that were cut off have the reward of those that ended"),
    ],
    "posttrain/solved.py": [
        ("for number in numbers]\n        ids", "for number in range(len(part))]\n        ids", "every part of an evaluation is drawn alike"),
        ("wilson_interval(right, count)", "wilson_interval(right, at_once)", "the interval of another number of problems"),
    ],
    "posttrain/conversations.py": [
        ("learnt[place], size = bool(weight), size + 1", "learnt[place], size = token != self._tokenizer.eos_id and bool(weight), size + 1", "ends of answers are not learnt"),
        ("bool(weight), size + 1", "True, size + 1", "messages of weight 0 are learnt"),
    ],
    "posttrain/sft.py:FineTuning._learnt": [
        ("learnt_BX[:, 1 : self.recipe.data.sequence_length + 1]", "learnt_BX[:, : self.recipe.data.sequence_length]", "the last target is not counted"),
    ],
    "posttrain/sft.py:FineTuning.batch": [
        ("/ max(counted, 1)", "/ len(learnt_BX)", "a mean of rows"),
        ("rows.mask_BX != PADDING", "rows.mask_BX == LEARNT", "prompts take no part in the experts' balance"),
        ("range(self.held_out.windows_per_epoch)", "range(1)", "the parent is measured on one row"),
    ],
    "posttrain/sft.py:FineTuning.loss": [
        ("None, weight_BX, start_BX, None, valid_BX)", "None, weight_BX, None, None, valid_BX)", "conversations of a row see each other in training"),
        ("None, weight_BX, start_BX, None, valid_BX)", "None, weight_BX, start_BX, None, None)", "padding takes part in the experts' balance"),
    ],
    "posttrain/sft.py:FineTuning._nats": [
        ("None, weight_BX, start_BX)", "None, weight_BX)", "conversations of a row see each other where they are measured"),
    ],
    "posttrain/sft.py:FineTuning.evaluate": [
        ("np.linspace(0, rows - 1, min(rows, sample))", "np.linspace(0, rows // 2, min(rows, sample))", "a sample of the first half"),
    ],
    "posttrain/lessons.py": [
        ("(1 - s.hard) * s.temperature**2 * found", "(1 - s.hard) * found", "temperature squared left out"),
        ("{\"forward\": 0.0, \"reverse\": 1.0, \"jsd\": s.beta}", "{\"forward\": 1.0, \"reverse\": 0.0, \"jsd\": s.beta}", "the divergence's direction"),
        ("[tokenizer.eos_id] * line[\"ended\"]", "[tokenizer.eos_id]", "texts that were cut off teach to end"),
        ("seed_of(self.recipe.data.seed, step, k)", "seed_of(self.recipe.data.seed, k)", "every step is drawn alike"),
        ("weight_BX[row, begin:end] = 1.0 / counted", "weight_BX[row, begin:end] = 1.0 / len(text) / len(rows)", "short texts weigh more"),
        ("likeliest(states_TE, head_VE, s.top_k, s.temperature)", "likeliest(states_TE, head_VE, s.top_k, 1.0)", "a running teacher without the temperature"),
    ],
    "posttrain/soft_labels.py": [
        ("stream[(first + row) * length : (first + row + 1) * length]", "stream[row * length : (row + 1) * length]", "every file has the first one's windows"),
    ],
    "posttrain/distil.py": [
        ("if teacher.weights_sha256 != record[\"weights_sha256\"]:", "if teacher.name != record.get(\"name\", teacher.name):", "another teacher under the same name"),
        ("1 + recipe.model.num_nextn_predict_layers", "1", "windows without the look-ahead"),
    ],
    "posttrain/material.py": [
        ("canonical_sha256([fingerprint, recipe.data.seed, epoch])", "canonical_sha256([fingerprint, recipe.data.seed])", "every epoch in the same order"),
        ("min(start + 1 + self._tokens, end - 1)", "min(start + 1 + self._tokens, end)", "a prompt that ends its document"),
        ("range((step - 1) * size, step * size)", "range(step - 1, step - 1 + size)", "steps share problems"),
    ],
    "posttrain/texts.py": [
        ("canonical_sha256([\"text\", seed, number])", "canonical_sha256([\"text\", seed])", "all texts have one seed"),
        ("each.tokens[: len(each.tokens) - each.ended]", "each.tokens", "the end is written out"),
    ],
    "posttrain/lora.py": [
        ("matrix.shape[1] ** -0.5", "matrix.shape[0] ** -0.5", "A's first values by the rank"),
    ],
    "posttrain/peft.py": [
        ("matrix.permute(1, 2, 0).flatten(1)", "matrix.permute(1, 0, 2).flatten(1)", "B is written with the expert slowest"),
        ("return f\"{path}.base_layer\"", "return path", "gate|up's adapter in down's wrapper"),
        ("for name, value in self.alphas.items() if _ends(key, name)), self.alpha)", "for name, value in self.alphas.items() if key == name), self.alpha)", "patterns of alpha by whole names"),
    ],
    "posttrain/experts.py": [
        ("sums_LE / sums_LE.sum(1, keepdim=True)", "sums_LE / sums_LE.sum()", "scores by the sum of all layers"),
        ("(-exact[each], each)", "(exact[each], each)", "the experts that are used least"),
        ("joined_BS &= batch.start_BX[:, now] == batch.start_BX[:, then]", "pass", "the MTP layer's tokens across documents"),
    ],
    "posttrain/child.py": [
        ("() if counts else", "() if not counts else", "the MTP layer is trained where it counts nothing, and else not"),
        ("choose_experts(usage, experts.score, experts.share)", "choose_experts(usage, \"token\", experts.share)", "experts always by their counts"),
    ],
    "posttrain/parent.py": [
        ("for name, t in tensors.items() if name.endswith(\"e_score_correction_bias\")", "for name, t in tensors.items() if name.endswith(\"no bias\")", "balance biases are weights"),
        ("if recipe.lora is not None:", "if False:", "a child of adapters begins without them"),
    ],
    "data/packs.py": [
        ("starts[here] = entry.first", "starts[here] = 0", "conversations of a row see each other, and positions go on"),
        ("starts[end:] = end", "starts[end:] = 0", "padding belongs to the first conversation"),
        ("ids[: self._room], written[: self._room]", "ids[-self._room :], written[-self._room :]", "the beginning is cropped"),
        ("(fitting & -fitting).bit_length()", "fitting.bit_length()", "the emptiest row, not the fullest"),
    ],
    "ops/loss.py:Kept.of": [
        ("self.ends_T[first:end] - before", "self.ends_T[first:end]", "ends that are not of the part"),
    ],
    "ops/loss.py:counted": [
        ("weight_T.nonzero()", "(weight_T > 0).nonzero()", "tokens that are to become less likely are left out"),
    ],
    "ops/divergence.py:_grouped": [
        ("torch.cat([best.logp_TK, best.rest_T.unsqueeze(1)], 1)", "torch.cat([best.logp_TK, torch.full_like(best.logp_TK[:, :1], float(\"-inf\"))], 1)", "the mass of the rest left out"),
    ],
    "ops/divergence.py:divergence": [
        ("return _full(student_CV, _log_softmax(teacher_CV, temperature), beta)", "return _full(_log_softmax(teacher_CV, temperature), student_CV, beta)", "teacher and student exchanged"),
    ],
    "model/lora.py:LowRank": [
        ("self.alpha / self.rank", "self.alpha / self.rank**0.5", "the factor of another method"),
    ],
    "model/lora.py:merge": [
        ("detach(model, name)", "pass", "adapters count twice after a merge"),
    ],
    "model/lora.py:FrozenFp8": [
        ("self.kinds[1], self.weight.backward", "self.kinds[0], self.weight.backward", "gradients quantised as inputs are"),
    ],
    "model/lora.py:_Low.back": [
        ("these).mul_(self.scale)", "these)", "experts' gradients without the factor"),
    ],
    "kernels/low_rank.py:backward": [
        ("matrix = up + 4 * expert * outputs * rank", "matrix = up", "every expert has the first one's B"),
    ],
    "kernels/low_rank.py:gradients": [
        ("(rank + 3) // 4 * 4", "rank // 4 * 4", "the last rows of a rank that is no multiple of 4"),
    ],
    "evaluate/statistics.py": [
        ("z = float(ndtri(0.5 + confidence / 2))", "z = float(ndtri(confidence))", "z of one side"),
        ("min(by_spread, by_model)", "most", "questions as a sample, whose samples count as independent"),
        ("(every - math.comb(samples - right, k)) / every", "1 - (1 - right / samples) ** k", "pass@k with its bias"),
    ],
    "evaluate/comparison.py": [
        ("chance[np.abs(sums) >= abs(int(whole.sum()))]", "chance[np.abs(sums) > abs(int(whole.sum()))]", "signs as far out as the seen ones are left out"),
        ("return np.append(d, [most, -most])", "return d", "an interval to which nothing is added"),
        ("max(largest, min(1.0, p * left))", "min(1.0, p * left)", "Holm's p-values that fall"),
        ("math.sqrt(1 - z * z / n) + short", "math.sqrt(1 - z * z / n)", "a plan with a power of one half"),
    ],
    "evaluate/robustness.py": [
        ("told_W = totals_WV.var(1) >= seen_V.var() - 1e-9", "told_W = totals_WV.var(1) > seen_V.var() + 1e-9", "deals as far apart as the seen one are left out"),
        ("max(0.0, between - noise)", "between", "sampling counts as the variation's"),
    ],
    "evaluate/records.py": [
        ("named != before or stated != digest", "stated != digest", "lines in another order"),
        ("safe == task and len(safe) <= 80", "True", "two tasks in one file"),
        ("if not raw or (torn and not raw.endswith(b\"\\n\") and len(raw) <= LONGEST_LINE):", "if not raw:", "a torn line ends the evaluation"),
    ],
    "evaluate/evaluation.py": [
        ("seed=0 if task.reads else asked.seed", "seed=0", "records without their seeds"),
        ("every[done : done + answerer.at_once]", "every[done + 1 : done + 1 + answerer.at_once]", "the first question is left out"),
        ("score, note = None, \"a log-probability that is no number\"", "score = 0.0", "NaN is a score"),
    ],
    "evaluate/answerers.py": [
        ("{asking.seed} {asking.draws} {task} {number} {sample}", "{asking.seed} {asking.draws} {task} {number}", "samples of a question are all alike"),
        ("start = max(0, end - longest)", "start = done - 1", "windows without context"),
        ("request.prompt_logprobs[-count:]", "request.prompt_logprobs[:count]", "the context's bits"),
    ],
    "evaluate/remote.py": [
        ("self._away = self._away + 1 if found.missing else 0", "self._away = 0", "an endpoint that stays away is asked for ever"),
        ("if served != self._served:", "if False:", "a model that changes"),
    ],
    "evaluate/scores.py": [
        ("if name not in lost", "if True", "what never came is wrong"),
        ("if asked != also:", "if False:", "other questions are compared"),
    ],
    "evaluate/check.py": [
        ("if record.seed != seed:", "if False:", "a changed seed"),
        ("if score != record.score or note != record.note:", "if False:", "a changed score"),
        ("if again != records[number]:", "if again.score != records[number].score:", "another output with the same score"),
    ],
    "evaluate/tasks/copying.py": [
        ("output.lstrip(\" \").startswith(question.answer)", "question.answer.startswith(output.lstrip(\" \"))", "nothing written is right"),
    ],
    "evaluate/tasks/text.py": [
        ("parts[number - 1], target=parts[number]", "parts[number], target=parts[number]", "the target is its own context"),
    ],
    "evaluate/tasks/code.py": [
        ("    if not ended:\n        text = _whole(text)", "    if False:\n        text = _whole(text)", "what was cut off must parse"),
    ],
    "reading/scores.py": [
        ("(self.value + unit) * trials", "(self.value + unit / 2) * trials", "figures that were cut off are no counts"),
        ("percent = any(mark or float(number) > 1", "percent = all(mark or float(number) > 1", "a scale for each figure"),
    ],
    "audit/checks/scores.py": [
        ("2 * 0.5 ** max(most, round(apart)) > 0.05", "2 * 0.5 ** max(most, round(apart)) > 0.005", "six questions that tell are denied"),
        ("return 1 if all(each.counts() for each in group) else None", "return 1", "means of several answers count as one each"),
        ("question.partly if close", "question.no if close", "a rank within chance counts as false"),
        ("written_unit(end) / 2 + _SAME", "_SAME", "a rounded interval is accused"),
        ("written_unit(end) / 2 + _SAME", "written_unit(end) + _SAME", "a unit off counts as rounding"),
    ],
    "inference/batch.py": [
        ("self.routes[:, active.sample, self.lengths[active.sample] - 1] = routes", "self.routes[:, active.sample, self.lengths[active.sample] - 2] = routes", "experts a token early"),
        ("self.seed_N[sample], position)", "self.seed_N[self.prompt_N[sample]], position)", "noise without the completion"),
        ("self.ended[sample] = np.isin(drawn.tokens, self.stops)", "self.ended[sample] = np.isin(drawn.tokens, self.stops) | (self.lengths[sample] == self.settings.max_tokens)", "what was cut off has ended"),
        ("every[:, end + 1 - len(self.prompts[prompt]) : end + 1]", "every[:, : len(self.prompts[prompt])]", "every prompt has the first one's experts"),
    ],
    "verify/draws.py": [
        ("suspect |= [not _alike(one, other)", "suspect &= [not _alike(one, other)", "draws whose filters agree are not looked at"),
        ("sums = scaled_V[kept] + noise(draw.seed, draw.position, kept)", "sums = scaled_V[kept] + noise(draw.seed, draw.position - 1, kept)", "the noise of the position before where a draw is looked at"),
    ],
    "verify/forced.py": [
        ("moved_E = margin * (2 * chosen_E - 1)", "moved_E = 64 * margin * (2 * chosen_E - 1)", "experts that lost by more than rounding"),
        ("ids.numpy().tobytes() + visited[:-1].numpy().tobytes()", "ids.numpy().tobytes()", "completions with other experts count as the same"),
    ],
    "verify/prefixes.py": [
        ("np.concatenate([token_T[span, None].view(np.int16), routes], axis=1)", "np.ascontiguousarray(token_T[span, None]).view(np.int16)", "experts of a shared prefix are not compared"),
    ],
    "verify/rollouts.py": [
        ("if not torch.equal(rollouts.reward_N[k], rewards[k]):", "if False:", "rewards are not compared"),
        (" or end in drawn[:-1]:", ":", "text behind the end"),
        ("if drawn[-1] != end and len(drawn) < most:", "if False:", "completions that were cut short"),
        ("if here < every or judged.undecided", "if judged.undecided", "rounds that are not here are vouched for"),
    ],
    "verify/children.py": [
        ("if rollouts.sha256() != stated:", "if False:", "a file that holds more"),
        ("        if found != digest:", "        if not found:", "a parent with other weights"),
        ("        if found != stated:", "        if stated is None:", "other weights given for the parent's"),
    ],
    "verify/lineage.py": [
        ("number not in stated or source.is_other(path, str(stated[number]))", "number not in stated", "hashes of rounds are not compared"),
    ],
}
