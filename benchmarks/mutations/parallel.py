"""Faults in training by several processes, in its plan, and in verification by parts."""
# ruff: noqa: E501 - lines of code as they stand in the package
# fmt: off

from __future__ import annotations

FAULTS: dict[str, list[tuple[str, str, str]]] = {
    "train/parallel/work.py": [
        ("is_spread(part.name, self.layout) else copy", "is_spread(part.name, self.layout) else copy % 2 * self.layout.copies + copy", "even copies are added before odd ones"),
        ("for row in range(lane * each, (lane + 1) * each)", "for row in range(lane, train.batch_size, train.summed_lanes)", "a lane has every n-th row"),
        ("        dist.all_reduce(load_LE)\n", "", "loads of this process's tokens alone"),
        ("for each in everyone:", "for each in everyone[:1]:", "the main process's loss"),
        ("everyone[self._number]", "everyone", "the norm's chunks as their owners come"),
        ("self.optimizer.step(gradients, norm, multiplier)\n        self._round()", "self.optimizer.step(gradients, norm, multiplier)", "nobody gets the new weights"),
    ],
    "train/parallel/work.py:SharedWork.held": [
        ("self.layout.copy(self.rank) == 0", "self.rank == 0", "balance biases of later stages belong to nobody"),
    ],
    "train/parallel/hashes.py": [
        ("b\"\" if name == before else described.encode()", "described.encode()", "a tensor's line for each of its parts"),
    ],
    "train/parallel/work.py:SharedWork._read": [
        ("cut(weights[part.name], part)", "cut(weights[part.name], part._replace(start=0, stop=part.size))", "every owner reads a tensor's first elements"),
    ],
    "train/parallel/work.py:SharedWork._take": [
        ("master.copy_(cut(theirs[part.name], part))", "pass", "another model's weights are not taken over"),
    ],
    "train/parallel/work.py:_slot": [
        ("return cut(tensor, part).clone()", "return cut(tensor, part._replace(start=0, stop=part.size)).clone()", "every owner reads the first elements of optimiser state"),
    ],
    "train/parallel/exchange.py:Exchange": [
        ("for leaf in sorted(leaves[number])", "for leaf in sorted(leaves[number], key=lambda leaf: leaf != self._rank)", "a process adds its own sum first"),
        ("_elements(flat[piece.held], self.held[piece.held], piece.part)", "_elements(flat[piece.held], self.held[piece.held]._replace(start=0), piece.part)", "new weights go as many rows too far as a process does not hold"),
        ("messages[key].numel() * messages[key].element_size()", "messages[key].numel()", "elements are counted for bytes"),
    ],
    "train/parallel/exchange.py:TwoLevels": [
        ("ranks[place[other][1] :: each]", "ranks[place[other][0] :: each]", "a machine's number for a process's"),
    ],
    "train/parallel/exchange.py:machines": [
        ("and not each & (each - 1) else None", "else None", "machines of three processes add their own sums"),
        ("if blocks and apart and equal", "if blocks and equal", "processes of one machine that are no neighbours"),
    ],
    "train/parallel/fsdp.py": [
        ("for sent_C in received_N.view(group.size(), -1):", "for sent_C in received_N.view(group.size(), -1).roll(1, 0):", "the last copy's gradients are added first"),
        ("range(self.layout.copy(self.rank), lanes, copies)", "range(self.layout.copy(self.rank) * lanes // copies, (self.layout.copy(self.rank) + 1) * lanes // copies)", "a copy has lanes that are neighbours"),
        ("for turn in zip(*self.group.gather(found.scalars.tolist()), strict=True):", "for turn in self.group.gather(found.scalars.tolist()):", "losses are added copy by copy"),
        ("[rows.start : rows.stop]", "[: len(rows)]", "every copy begins with the first rows"),
        ("        module.set_gradient_divide_factor(1.0)  # the loss is a sum over tokens already\n", "", "a mean over copies"),
        ("        _keep_no_operands(self.model)\n", "", "FP8 operands of another gathering are used"),
        ("gradient, parameter.grad = parameter.grad, None", "gradient = parameter.grad", "gradients of the turn before stay"),
    ],
    "train/parallel/pipeline.py": [
        ("[*roots, balance], [*gradients, None]", "[*roots], [*gradients]", "a stage's balance losses teach nothing"),
        ("[*roots, ahead_BSD], [*gradients, leaf_BSD.grad]", "[*roots], [*gradients]", "in a V the MTP module teaches no embedding"),
        ("load_E += routing.counted_E", "load_E.copy_(routing.counted_E)", "loads of the last micro-batch alone"),
        ("0 if layout.folded else layout.pp - 1", "layout.pp - 1", "in a V the wrong process is asked for the loss"),
        ("\"scale_grads\": False", "\"scale_grads\": True", "a mean over micro-batches"),
    ],
    "train/parallel/staged.py": [
        ("load_LE[self._own_loads()] += found.load_LE.cpu()", "load_LE[self._own_loads()] = found.load_LE.cpu()", "loads of the last lane alone"),
        ("load_LE[self._own_loads()], speed", "load_LE[: len(self._own_loads())], speed", "every stage follows the first one's loads"),
    ],
    "train/parallel/experts.py": [
        ("for total in rest[:count]:", "for total in [*rest[1:count], rest[0]]:", "the first source is added last"),
        ("gradient, leaf.grad = leaf.grad, None", "gradient = leaf.grad", "a source's gradients of the micro-batch before stay"),
        ("\".mlp.experts.\" in name", "\"experts.\" in name", "shared experts are taken for routed ones"),
    ],
    "train/parallel/compare.py": [
        ("enumerate(others, 1)", "enumerate(others)", "the process before is blamed"),
        ("else 0\n", "else self._slow[rank]\n", "three slow steps ever, not in a row"),
        (" and rank not in self._named", "", "a process that is slow again is named again"),
    ],
    "train/parallel/promise.py": [
        ("if decides_bits(layout, recipe):", "if layout.ep > 1:", "a band for exact experts"),
        ("(group.size == 1 and not run.sessions.exists())", "group.size == 1", "nobody tells that one process went on"),
    ],
    "train/parallel/pulse.py": [
        ("(self._rank + 1) % len(self._hosts)", "self._rank", "a process watches itself"),
        ("now != seen or now == _DONE or", "now != seen or", "who has left in peace counts as lost"),
        ("                store.set(_LOST, self.lost)\n", "                pass\n", "a loss is not told"),
        ("began - fault_since > GRACE", "began - fault_since >= 0", "a fault ends a process that would have noticed by itself"),
    ],
    "train/parallel/worker.py": [
        ("file.open(\"x\")", "file.open(\"w\")", "the last process to end decides"),
        ("return 0 if STARTED_BY in os.environ and ended() is not None else code", "return code", "an error that a user must mend is tried again"),
        ("            before.seek(0)\n", "", "what was printed before the run folder was known is lost"),
    ],
    "train/parallel/world.py": [
        ("len(faults) == self.size and ", "", "one process's error is called everybody's"),
        ("first = min(faults", "first = max(faults", "the last process's error, not the first one's"),
        ("dist.ReduceOp.MAX", "dist.ReduceOp.MIN", "all must be asked to stop before one does"),
        ("(self.main, not self.main)", "(not self.main, self.main)", "the main process does last what the others wait for"),
        ("mended = isinstance(error, UserError | OSError | SystemExit)", "mended = True", "a defect passes for a fault of the user's"),
    ],
    "ops/deferred.py": [
        ("weight.grad += gradient", "weight.grad = gradient", "the last product of a weight alone"),
        ("        self._waiting = []\n        for", "        for", "products of micro-batches before run again"),
        ("_now[0] = before", "_now[0] = None", "an inner block ends the outer one"),
    ],
    "ops/travel.py": [
        ("            first = rows.stop\n", "", "every source has the first one's rows"),
        ("routing.order_P.div(self.k, rounding_mode=\"floor\")", "routing.order_P % (len(routing.order_P) // self.k)", "rows of other tokens travel"),
        ("d_weight_P1.index_select(0, travel.place_P)", "d_weight_P1.index_select(0, travel.order_P)", "router gradients of other pairs"),
        ("len(index_N1) if self._zero_padding else 0", "0", "a token stands for padding in FP8"),
    ],
    "ops/recompute.py": [
        ("collecting(self._later)", "collecting(None)", "what is computed again does not put its products aside"),
        ("kept.stride, kept.offset)", "kept.stride, 0)", "views are found at the beginning"),
    ],
    "parts.py": [
        ("matrix * (CHUNK // gcd(CHUNK, matrix))", "matrix", "Muon's matrices are cut inside chunks"),
        ("round(wanted / size) * size", "wanted", "cuts inside chunks"),
        ("total * owner // owners - first", "total * owner // owners", "a tensor is dealt out as if it were the first"),
    ],
    "plan/layout.py": [
        ("unequal = dp > 1 and (lanes % dp or each & (each - 1))", "unequal = dp > 1 and lanes % dp", "blocks of lanes that are no subtrees"),
        ("recipe.lora is not None and max(ep, pp, fsdp) > 1", "recipe.lora is not None and max(ep, pp) > 1", "adapters on shared rows"),
        ("recipe.distil is not None and fsdp > 1", "False", "distillation on shared rows"),
        ("recipe.experts is not None and layout.devices > 1", "False", "chosen experts on several processes"),
        ("self.copy(rank) // self.ep * self.ep + self.stage(rank) * self.copies", "self.copy(rank) // self.ep * self.ep", "experts of the first stage's processes"),
    ],
    "plan/stages.py": [
        ("stage * short + min(stage, more)", "stage * short + max(0, stage - count + more)", "the last stages have a layer more"),
        ("2 * layout.pp - 1 - process", "layout.pp + process", "the second half of a V runs on in the same direction"),
    ],
    "plan/states.py": [
        ("bit_length() - 1 + (train.micro_batches > train.summed_lanes)", "bit_length() - 1", "a lane's running sum is not counted"),
        ("2 * (spec.size + 4 * blocks)", "2 * (spec.size + blocks)", "scales are counted at a byte"),
        ("moments * part.size + 4 for", "moments * part.size for", "counts of steps are not counted"),
        ("sum(-(-spec.shape[0] // ways)", "sum((spec.shape[0] // ways)", "the last rows of FSDP"),
    ],
    "plan/traffic.py": [
        ("4 * rows * turns", "4 * rows", "gradients travel once a step, not once a turn"),
        ("rows * 2 * (out + wide * H)", "rows * (out + wide * H)", "rows of experts travel in the forward alone"),
        ("model.num_nextn_predict_layers > 0 and not layout.folded", "model.num_nextn_predict_layers > 0", "embeddings are sent in a V"),
        ("peer // NODE == rank // NODE", "abs(peer - rank) < NODE", "a machine is whoever is near"),
    ],
    "plan/propose.py": [
        ("return work * idle / (1 - idle)", "return work * idle", "idle time as a share of the work, not of the step"),
        ("return layout.pp // 2 * layout.copies", "return 0", "what the first stage sends for what a middle one does"),
    ],
    "verify/parts.py": [
        ("(each.begin - each.end, each.begin)", "each.begin", "segments are dealt out in the run's order"),
        ("key=lambda part: -steps[part]", "key=lambda part: steps[part]", "the part with most steps does what cannot be divided, too"),
        ("return self.number == self.of", "return self.number == 1", "the first part does what cannot be divided"),
    ],
    "verify/join.py": [
        ("for id in piece.result.passed if id not in failed and id not in undecided", "for id in piece.result.passed if id not in failed", "what a part left undecided has passed"),
        ("(*result.passed, *result.failed)", "result.passed", "steps that failed were not trained"),
        ("if part.transcript != head:", "if False:", "all parts are of another transcript"),
        ("(piece.result.failed or not head)", "True", "a part that read nothing, and nothing failed"),
        ("if list(part.segments) != own:", "if False:", "segments that a part does not have"),
        ("if VERIFY_CODE.id not in every:", "if False:", "a part that does not say by what code it trained"),
        ("if spoken != sorted(", "if not spoken and own != sorted(", "steps that are not the part's"),
    ],
}
