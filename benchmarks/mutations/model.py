"""Faults in the architecture, forward and backward."""
# ruff: noqa: E501 - lines of code as they stand in the package
# fmt: off

from __future__ import annotations

FAULTS: dict[str, list[tuple[str, str, str]]] = {
    "model/router.py": [
        ("linear(x_TD, self.weight, torch.float32)", "linear(x_TD, self.weight).float()", "router logits in BF16"),
        ("weight_TK = scores_TE.gather(1, index_TK)", "weight_TK = (choice_TE if c.n_group == 1 else scores_TE).gather(1, index_TK)", "weights with the bias in them"),
        ("+ 1e-20)", "+ 1e-2)", "an epsilon that is felt"),
        ("weight_TK = weight_TK * c.routed_scaling_factor", "pass", "routed scale left out"),
        ("c.topk_group, 2 if c.topk_method == \"noaux_tc\" else 1)", "c.topk_group, 1)", "V3's groups by their best expert"),
        ("float(\"-inf\")).flatten(-2)", "0.0).flatten(-2)", "masked with zero, below which biases may be"),
        ("torch.sign(load_E.mean() - load_E)", "torch.sign(load_E - load_E.mean())", "biases go the wrong way"),
        ("torch.sign(load_E.mean() - load_E)", "(load_E.mean() - load_E) / load_E.mean()", "biases move by how much, not by which way"),
        ("descending=True, stable=True).indices[..., :k]", "stable=True).indices[..., -k:]", "ties go to the highest expert"),
        ("f_BE, p_BE = chosen_BSE.mean(1) * (experts / k)", "f_BE, p_BE = chosen_BSE.mean(1) * experts", "balance loss without 1 / K"),
        ("chosen_BSE.mean(1) * (experts / k)", "chosen_BSE.mean((0, 1), keepdim=True)[0] * (experts / k)", "loads over the batch instead of the sequence"),
        ("share_BSE = scores_BSE / scores_BSE.sum(-1, keepdim=True)", "share_BSE = scores_BSE", "balance loss of scores that are not normalised"),
        ("(chosen_BSE * valid_BS1).sum(1)", "chosen_BSE.sum(1)", "padding counts in the balance loss"),
        ("((f_BE * p_BE).sum(-1) * weight_B).sum()", "(f_BE * p_BE).sum(-1).sum()", "balance loss summed over sequences"),
        ("index_TK = self.choose(scores_TE.detach())", "index_TK = self.choose(scores_TE.detach() * 0)", "the first experts are chosen"),
        ("if index_TK is None:", "if True:", "the routing to replay is ignored"),
        ("(scores_BSE >= threshold)", "(scores_BSE > threshold)", "f counts K - 1 experts"),
        ("if c.topk_method == \"noaux_tc\" or not c.norm_topk_prob:", "if True:", "V2 normalises and scales"),
        ("scores_TE + self.e_score_correction_bias if c.topk_method == \"noaux_tc\" else scores_TE", "scores_TE", "the bias is ignored"),
        ("torch.sign(load_E.mean() - load_E)", "torch.sign(load_E.median() - load_E)", "the median load for the mean"),
    ],
    "model/transformer.py:DeepSeekModel.losses": [
        ("tokens_BX[:, 2 : length + 2].flatten(), weight_BS", "tokens_BX[:, 1 : length + 1].flatten(), weight_BS", "MTP predicts the next token"),
        ("total = total + mtp_weight * mtp", "total = total + mtp", "MTP's weight left out"),
        ("total = total + balance_weight * routing.balance_loss", "total = total + routing.balance_loss", "balance weight left out"),
        ("weight_BS if followed_BS is None else weight_BS * followed_BS", "weight_BS", "MTP predicts other documents and padding"),
        ("tokens_T if per_token else None", "None", "the tokens' losses are not returned"),
    ],
    "model/transformer.py:DeepSeekModel.states": [
        ("routings += [routing] if routing is not None else []", "", "MTP's loads left out"),
        ("main_BSD, at, weight_B, index_TK", "main_BSD, at, None, index_TK", "MTP has no balance loss"),
        ("layer(embedding_BSD, main_BSD, at", "layer(embedding_BSD, main_BSD.detach(), at", "MTP does not teach the main model"),
        ("at = at._replace(document_T=F.pad(changes_T, (1, 0)).cumsum(0))", "pass", "the next document changes bits of MTP"),
    ],
    "model/transformer.py": [
        ("start = caches[0].length if caches else 0", "start = 0", "every token is at the beginning"),
        ("parameter.fill_(1.0)", "parameter.zero_()", "norms begin at zero"),
        ("generator=generator_of(seed, name, number)", "generator=torch.Generator().manual_seed(seed)", "all matrices begin alike"),
        ("zip(self.moe_layers, load_LE, strict=True)", "zip(self.moe_layers, load_LE.roll(1, 0), strict=True)", "loads of another layer"),
        ("parameter.grad_dtype = None if fp8 is None else torch.float32", "pass", "weight gradients of FP8 in BF16"),
    ],
    "model/layers.py": [
        ("torch.cat([self.enorm(embedding_BSD), self.hnorm(hidden_BSD)]", "torch.cat([self.hnorm(hidden_BSD), self.enorm(embedding_BSD)]", "MTP's halves swapped"),
        ("self.experts(x_TD, routing) + self.shared_experts(x_TD)", "self.experts(x_TD, routing)", "no shared experts"),
        ("config.moe_intermediate_size * config.n_shared_experts", "config.moe_intermediate_size", "one shared expert, however many"),
        ("self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)", "self.input_layernorm = RMSNorm(config.hidden_size)", "a norm's epsilon not the config's"),
        ("return self.shared_head[\"norm\"](x_BSD), routing", "return self.hnorm(x_BSD), routing", "another norm for MTP's own"),
    ],
    "ops/embedding.py": [
        ("dtype=torch.float32, device=g.device)", "dtype=g.dtype, device=g.device)", "embedding gradients summed in BF16"),
        ("total_VD.index_add_(0, tokens.flatten(), g.flatten(0, -2).float())", "total_VD[tokens.flatten()] = g.flatten(0, -2).float()", "a token's last occurrence alone"),
    ],
    "model/attention.py": [
        ("self.kv_a_layernorm(latent_BSR)", "latent_BSR", "the latent is not normalised"),
        ("rope_BSP = rotate(rope_BSP, places.turn).to(q_BSX.dtype)", "rope_BSP = rope_BSP.to(q_BSX.dtype)", "the shared key is not turned"),
        ("torch.cat([self.rope_BSP, rope_BSP], dim=1)", "torch.cat([rope_BSP, self.rope_BSP], dim=1)", "cached keys in the wrong order"),
        ("        self.latent_BSR, self.rope_BSP = latent_BSR, rope_BSP\n", "        if self.latent_BSR is None:\n            self.latent_BSR, self.rope_BSP = latent_BSR, rope_BSP\n", "a cache without the new positions"),
        ("self.q_b_proj(self.q_a_layernorm(q_BSX))", "self.q_b_proj(q_BSX)", "compressed queries are not normalised"),
    ],
    "ops/rope.py": [
        ("yarn.growth(yarn.mscale_all_dim) ** 2", "yarn.growth(yarn.mscale_all_dim)", "YaRN's softmax correction once, not squared"),
        ("frequency / yarn.factor * ramp + frequency * (1 - ramp)", "frequency / yarn.factor * (1 - ramp) + frequency * ramp", "fast frequencies are stretched, slow ones stay"),
        ("torch.arange(start, start + length,", "torch.arange(0, length,", "positions from zero with a cache"),
        ("unflatten(-1, (-1, 2))", "unflatten(-1, (2, -1)).transpose(-1, -2).contiguous()", "halves are turned, not neighbours"),
        ("min(math.ceil(pair(yarn.beta_slow)), dim - 1)", "min(math.ceil(pair(yarn.beta_slow)), dim // 2 - 1)", "YaRN's range cut short"),
        ("max(math.floor(pair(yarn.beta_fast)), 0), min(math.ceil(pair(yarn.beta_slow)), dim - 1)", "max(round(pair(yarn.beta_fast)), 0), min(round(pair(yarn.beta_slow)), dim - 1)", "YaRN's range rounded to nearest"),
        ("config.qk_head_dim**-0.5", "config.qk_nope_head_dim**-0.5", "scaled by half of the head"),
    ],
    "ops/norm.py:RMSNorm": [
        ("def __init__(self, size: int, eps: float = 1e-6)", "def __init__(self, size: int, eps: float = 1e-5)", "another default epsilon"),
    ],
    "ops/norm.py:_normalise": [
        (".add_(eps)", "", "epsilon left out"),
        ("y_TD[rows] *= w_D", "pass", "the weight left out"),
    ],
    "ops/norm.py:_normalise_backward": [
        ("rstd_T1[rows].pow(3)", "rstd_T1[rows].pow(2)", "a power of the inverse root"),
        (".neg_()", "", "a sign in the gradient"),
        ("dw_D += torch.mm", "dw_D = torch.mm", "the weight's gradient of the last block alone"),
    ],
    "ops/rope.py:places": [
        ("torch.arange(length, device=device) - start_BS", "torch.arange(length, device=device) - 0 * start_BS", "positions do not restart with a document"),
    ],
    "ops/attention.py:_probabilities": [
        ("device=k_NSC.device) < start_BQ.unsqueeze(-1)", "device=k_NSC.device) < start_BQ.unsqueeze(-1) - 1", "a document sees the end of the one before"),
        (".triu_(1)", ".triu_(2)", "a token sees the one after it"),
        ("scores_NQS[:, :, -queries:] += hidden_QQ", "scores_NQS[:, :, :queries] += hidden_QQ", "the mask at the wrong end of the keys"),
        ("scores_NQS[:, :, -queries:] += hidden_QQ", "pass", "no mask"),
    ],
    "ops/attention.py:_BlockedAttention.backward": [
        ("torch.bmm(ds_NQS.transpose(1, 2), q_NBC)", "torch.bmm(ds_NQS.transpose(1, 2), q_NBC) * 1.01", "a hundredth too much in the keys"),
    ],
    "ops/attention.py:_add": [
        ("total_NSX[:, : part_NSX.shape[1]] += part_NSX", "total_NSX[:, : part_NSX.shape[1]] = part_NSX", "keys' and values' gradients of one block alone"),
        ("total_NSX[:, : part_NSX.shape[1]] += part_NSX", "pass", "keys' and values' gradients of the last block alone"),
    ],
    "ops/heads.py": [
        ("dk_BHSC[..., nope:].sum(1)", "dk_BHSC[..., nope:].mean(1)", "the shared key's gradient is a mean over heads"),
        ("turn_S1P2.conj()", "turn_S1P2", "gradients are turned forward"),
        ("ctx.scale, out=", "1.0, out=", "the softmax scale left out of a gradient"),
    ],
    "model/experts.py:_Experts.backward": [
        ("d_weight_R.index_select(0, layout.place_P).view(-1, ctx.k)", "d_weight_R.index_select(0, layout.place_P).view(ctx.k, -1).t()", "router gradients of other pairs"),
        ("return d_x_TD, d_weight_TK,", "return d_x_TD, d_weight_TK * 0,", "the router learns nothing from the experts"),
    ],
    "model/experts.py:_ExpertsByDocument.backward": [
        ("d_weight_R.index_select(0, layout.place_P).view(-1, ctx.k)", "d_weight_R.index_select(0, layout.place_P).view(ctx.k, -1).t()", "router gradients of other pairs"),
        ("return d_x_TD, d_weight_TK,", "return d_x_TD, d_weight_TK * 0,", "the router learns nothing from the experts"),
    ],
    "ops/dispatch.py": [
        ("index_TK.flatten().sort(dim=0, stable=True)", "index_TK.flatten().flip(0).sort(dim=0, stable=True)", "pairs from the last to the first"),
        ("device=sorted_P.device)).diff()", "device=sorted_P.device)).diff().roll(1)", "loads of other experts"),
        ("index_TK.masked_fill(~valid_T.unsqueeze(1), experts)", "index_TK", "padding counts as load"),
        ("weight_TK.flatten().to(dtype)", "weight_TK.t().flatten().to(dtype)", "router weights of other pairs"),
        ("pair_R.div(k, rounding_mode=\"floor\")", "(pair_R % index_TK.shape[0])", "rows of other tokens"),
        ("mode=\"sum\"", "mode=\"mean\"", "the mean of a token's experts"),
        ("(load_G.cumsum(0) - load_G)", "load_G.cumsum(0)", "each block begins where it should end"),
    ],
    "ops/loss.py": [
        ("return total * largest", "return total", "a sum of losses"),
        ("scale = g * largest", "scale = g", "gradients of a sum"),
        ("d_head_VD += d_logits_CV.t() @ (h_CD * share_C1).to(h_CD.dtype)", "d_head_VD = d_logits_CV.t().float() @ (h_CD * share_C1).float()", "the head's gradient of the last chunk alone"),
        ("@ (h_CD * share_C1).to(h_CD.dtype)", "@ h_CD", "tokens' weights are not in the head's gradient"),
        ("(losses_T[rows] * share_C1.squeeze(1)).sum()", "losses_T[rows].sum()", "tokens' weights are not in the loss"),
        ("p_CV.new_full(target_C1.shape, -1.0)", "p_CV.new_full(target_C1.shape, -0.5)", "half of the target in the gradient"),
        ("d_head_VD = torch.zeros(head_VD.shape, dtype=torch.float32, device", "d_head_VD = torch.zeros(head_VD.shape, dtype=head_VD.dtype, device", "the head's gradient summed in BF16"),
    ],
    "ops/loss.py:_negative_log": [
        ("finfo(torch.float32).tiny", "finfo(torch.float32).eps", "losses stop at 16 nats"),
    ],
    "model/transformer.py:DeepSeekModel.set_dtype": [
        ("for parameter in self.parameters():", "for parameter in [*self.parameters(), *self.buffers()]:", "biases in BF16"),
    ],
    "model/transformer.py:deviation": [
        ("        return config.initializer_range", "        return 0.02", "a spread that is not the recipe's"),
        ("return shape[-1] ** -0.5 if config.tie_word_embeddings else 1.0", "return 1.0", "a head of deviation one"),
        ("float(shape[-1] ** -0.5)", "float(shape[-2] ** -0.5)", "spread by the outputs, not the inputs"),
    ],
    "model/layers.py:DecoderLayer.forward": [
        ("return x_BSD + y_BSD, routing", "return self.post_attention_layernorm(x_BSD) + y_BSD, routing", "the residual after the norm"),
    ],
    "config/model.py:RopeScaling": [
        ("/ self.growth(self.mscale_all_dim)", "", "YaRN's multiplier not divided"),
    ],
    "ops/loss.py:token_losses": [
        ("target_T[rows].unsqueeze(1)", "target_T[: len(p_CV)].unsqueeze(1)", "every chunk has the first one's targets"),
    ],
    "ops/loss.py:cross_entropy_of_tokens": [
        ("target_T[rows].unsqueeze(1)", "target_T[: len(logits_CV)].unsqueeze(1)", "every chunk of training has the first one's targets"),
        ("kept.of(rows.start, rows.stop)", "kept.of(0, rows.stop - rows.start)", "every chunk has the first one's kept ids"),
        ("1.0 / temperature", "1.0", "the gradient without the temperature"),
    ],
    "ops/divergence.py": [
        ("teacher_CO + shares[0], student_CO + shares[1]", "teacher_CO + shares[1], student_CO + shares[0]", "the mixture's shares swapped"),
        ("beta * of_teacher_CO.sum(-1)", "of_teacher_CO.sum(-1)", "the teacher's part without its share"),
        ("TopK(*(each[rows] for each in teacher))", "TopK(*(each[: rows.stop - rows.start] for each in teacher))", "every chunk has the first one's teacher"),
        ("slope_CO[:, -1:] * within_CV - sum_C1", "-sum_C1", "the rest of a teacher's tokens teaches nothing"),
        ("total * temperature**2 if squared", "total * temperature if squared", "the temperature once, not squared"),
    ],
}
