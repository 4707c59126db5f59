"""Faults between text and batches, in bits per byte and in sampling."""
# ruff: noqa: E501 - lines of code as they stand in the package
# fmt: off

from __future__ import annotations

FAULTS: dict[str, list[tuple[str, str, str]]] = {
    "data/loader.py": [
        ("(len(self._stream) - (sequence_length + lookahead - self.stride)) // self.stride", "len(self._stream) // self.stride", "a window past the end"),
        ("step * self.batch_size + np.array", "step + np.array", "batches overlap"),
        ("[self.fingerprint, self.seed, epoch]", "[self.fingerprint, self.seed]", "every epoch in the same order"),
        ("[self.fingerprint, self.seed, epoch]", "[self.fingerprint, epoch]", "the seed is ignored"),
        ("[self.fingerprint, self.seed, epoch]", "[self.seed, epoch]", "the data do not decide the order"),
        ("window * self.stride, row", "window, row", "windows overlap"),
        ("done, shard = done + len(part), shard + 1", "done, shard = done + len(part), shard", "a shard read twice"),
        ("end = start + self.sequence_length + self.lookahead", "end = start + self.sequence_length", "a document at the end is not named"),
        ("(start, end - 1)", "(start, end)", "a document too many"),
        ("values[outside] = self._encrypt(values[outside])", "values[outside] %= self._n", "an order that visits some windows twice"),
        ("left ^ (_mix(right ^ key) & self._mask)", "left ^ (right ^ key) & self._mask", "an order that is hardly mixed"),
        ("_ROUNDS = 8", "_ROUNDS = 1", "an order of a single round"),
        ("[self.fingerprint, self.seed, epoch]", "[self.fingerprint, self.seed, int(epochs_B[0])]", "a batch over two epochs in one order"),
        ("\"bin\": self.manifest.token_bytes", "\"bin\": 2", "tokens of four bytes are read as two"),
    ],
    "data/shards.py": [
        ("ids = bos + next(encoded) + eos", "ids = next(encoded) + eos", "no beginning of a document"),
        ("rate = config.fim_rate if split == \"train\" else 0.0", "rate = config.fim_rate", "held-out documents rearranged"),
        ("(cut[0], cut[2], cut[1]) if cut", "(cut[0], cut[1], cut[2]) if cut", "prefix, middle, suffix"),
        ("if split == \"train\" and wanted(document.sha256)", "if wanted(document.sha256)", "the tokenizer reads held-out text"),
        ("    _write_batch(batch, config, tokenizer, writer)\n    report(", "    report(", "the last partial batch is dropped"),
        ("token_bytes: Literal[2, 4] = 2 if vocab_size <= 2**16 else 4", "token_bytes: Literal[2, 4] = 2", "token ids above 65,535"),
        ("name, room = f\"{split}-{position // per_shard:05d}.bin\", per_shard - position % per_shard", "name, room = f\"{split}-{position // per_shard:05d}.bin\", per_shard", "shards too long"),
        ("\"vocab_size\": vocab_size, ", "", "data for another vocabulary are reused"),
    ],
    "data/scan.py": [
        ("self._limit = math.ceil(held_out_fraction * 2**64)", "self._limit = math.ceil((1 - held_out_fraction) * 2**64)", "most documents are held out"),
        ("< held_out_fraction * 2**64 else", "< (1 - held_out_fraction) * 2**64 else", "the fingerprint is of other halves"),
        ("self.duplicates = self._drop_duplicates()", "self.duplicates = 0", "duplicates are kept"),
    ],
    "data/shards.py:rearranged": [
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
    "evaluate/bits.py": [
        ("nats / math.log(2)", "nats", "nats for bits"),
        ("first = 0 if index == 0 else window - stride", "first = 0", "tokens are counted twice"),
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
