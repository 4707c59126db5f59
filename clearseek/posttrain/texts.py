"""Texts that a teacher writes for its student, each addressed by its number (Kim and Rush, arXiv 1606.07947).

A teacher that shows only text teaches by it: it goes on from the first tokens of documents, or answers problems, and
the student learns what it wrote. The teacher is a model that our engine runs, whose text follows from weights, prompt,
seed and number, or an endpoint (:mod:`clearseek.endpoint`), which promises nothing. Texts cost time or money,
so each is kept when it comes: a run that was killed asks only for those that are missing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from io import FileIO
from pathlib import Path
from typing import Any, Protocol

import torch

from clearseek.config import DistilConfig
from clearseek.cores import sharing_cores
from clearseek.data.manifest import canonical_sha256
from clearseek.endpoint import Endpoint, Named, Written
from clearseek.errors import UserError
from clearseek.files import append, reading, writing
from clearseek.inference.request import Settings
from clearseek.model.transformer import DeepSeekModel
from clearseek.posttrain.material import Prompt, ids_of
from clearseek.posttrain.parent import tokenizer_file, weights_of
from clearseek.posttrain.rollouts import write_completions
from clearseek.train.chunks import hash_tensors

TEXTS = "texts.jsonl"
TEACHER = Named("distil.teacher", "distil.model_name", "CLEARSEEK_TEACHER_KEY")
_AT_ONCE = 64
"""Texts that are written at once, and kept together."""
_REQUESTS = 4
"""Requests to an endpoint at once."""


class Writer(Protocol):
    """Whoever writes the texts."""

    def record(self) -> dict[str, str]:
        """What a run says of its teacher."""

    def write(self, prompts: Sequence[Prompt], seeds: Sequence[int]) -> list[Written]:
        """The texts that go on from prompts."""


def writer_of(settings: DistilConfig) -> Writer:
    """The teacher that a recipe names. Raises UserError where there is none, or other weights."""
    return _Remote(settings) if settings.at_endpoint else _Local(settings)


class _Remote:
    def __init__(self, settings: DistilConfig) -> None:
        self._settings, self._endpoint = settings, Endpoint(settings.teacher, settings.model_name, TEACHER)

    def record(self) -> dict[str, str]:
        return {"name": self._endpoint.model, "address": self._endpoint.address}

    def write(self, prompts: Sequence[Prompt], seeds: Sequence[int]) -> list[Written]:
        s = self._settings

        def one(prompt: Prompt, seed: int) -> Written:
            return self._endpoint.write(prompt, s.max_tokens, s.temperature, seed)

        with ThreadPoolExecutor(_REQUESTS) as pool:
            return list(pool.map(one, prompts, seeds))


class _Local:
    def __init__(self, settings: DistilConfig) -> None:
        from clearseek.hub.tokenizer_files import load_tokenizer, refuse_without_tokenizer
        from clearseek.inference.text import Bytes

        folder = Path(settings.teacher)
        if not folder.is_dir():
            what = "a file" if folder.exists() else "no such folder"
            raise UserError(f"{folder}: {what}: give a model's folder or an endpoint's address as distil.teacher")
        refuse_without_tokenizer(folder)
        config, groups, said = weights_of(folder)
        tensors = {name: tensor for group in groups.values() for name, tensor in group.items()}
        sha256 = hash_tensors(tensors.items())
        if settings.teacher_sha256 not in (None, sha256):
            raise UserError(
                f"{folder}: its weights have the SHA-256 {sha256}, and distil.teacher_sha256 is "
                f"{settings.teacher_sha256}: give the right folder, or change the recipe"
            )
        tokenizer = load_tokenizer(tokenizer_file(folder), config)
        self._settings, self._tokenizer, self._bytes = settings, tokenizer, Bytes(tokenizer)
        self._record = {"name": said["name"], "weights_sha256": sha256, "tokenizer_sha256": tokenizer.sha256}
        with torch.device("meta"):
            self._model = DeepSeekModel(config).requires_grad_(False)
        self._model.load_state_dict(tensors, assign=True)

    def record(self) -> dict[str, str]:
        return self._record

    def write(self, prompts: Sequence[Prompt], seeds: Sequence[int]) -> list[Written]:
        ids = [ids_of(self._tokenizer, prompt) for prompt in prompts]
        end = frozenset({self._tokenizer.eos_id})
        settings = Settings(self._settings.max_tokens, self._settings.temperature, stop_tokens=end)
        return [
            Written(b"".join(map(self._bytes, each.tokens[: len(each.tokens) - each.ended].tolist())).decode(
                "utf-8", "replace"), each.ended)
            for each in write_completions(self._model, ids, range(len(ids)), seeds, settings)
        ]  # fmt: skip


@sharing_cores()
def write_texts(
    file: Path, prompts: Sequence[Prompt], writer: Writer, seed: int, progress: Callable[[int, int], None]
) -> None:
    """Write the texts that are missing in a file, in order, a few at a time.

    Args:
        file: JSON lines with `number`, `prompt`, `text`, and whether the writer `ended` it; an unfinished last line of
            a killed process is cut off.
        prompts: Prompt of each text.
        writer: The teacher.
        seed: Seed of the draws; the text with number n has its own, which follows from `seed` and n.
        progress: Called with the texts there are, and with their number.

    Raises:
        UserError: the file holds texts of other prompts, or what the teacher or the disk refuses.
    """
    done = _cut_back(file, prompts)
    progress(done, len(prompts))
    with writing(file), FileIO(file, "a") as out:
        for first in range(done, len(prompts), _AT_ONCE):
            part = range(first, min(first + _AT_ONCE, len(prompts)))
            asked = [prompts[number] for number in part]
            written = writer.write(asked, [seed_of(seed, number) for number in part])
            lines = [
                {"number": number, "prompt": prompt, "text": each.text, "ended": each.ended}
                for number, prompt, each in zip(part, asked, written, strict=True)
            ]
            append(out, b"".join(json.dumps(line, ensure_ascii=True).encode() + b"\n" for line in lines))
            progress(part.stop, len(prompts))


def seed_of(seed: int, number: int) -> int:
    """Seed of a text's draws, 31 bits."""
    return int(canonical_sha256(["text", seed, number])[:8], 16) >> 1


def read_texts(file: Path) -> list[dict[str, Any]]:
    """Lines of a file of texts. Raises UserError where it is damaged."""
    with reading(file):
        lines = file.read_bytes().splitlines()
    try:
        return [_line(raw) for raw in lines]
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file}: damaged: {error!s:.100}: restore it from a copy") from None


def _line(raw: bytes) -> dict[str, Any]:
    line = json.loads(raw)
    forms = {"number": int, "text": str, "ended": bool}
    if not isinstance(line, dict) or any(type(line.get(name)) is not kind for name, kind in forms.items()):
        raise ValueError("a line is not of a text")
    if not isinstance(line.get("prompt"), (str, list)):
        raise ValueError("a line has no prompt")
    return line


def _cut_back(file: Path, prompts: Sequence[Prompt]) -> int:
    """Number of texts that are there already; what a kill left of the next one is cut off."""
    if not file.exists():
        return 0
    with reading(file):
        raw = file.read_bytes()
    whole = raw.rpartition(b"\n")[0]
    kept = len(whole) + 1 if whole else 0
    with writing(file), file.open("r+b") as out:
        out.truncate(kept)
    for number, line in enumerate(read_texts(file)):
        if number >= len(prompts) or line["number"] != number or line["prompt"] != prompts[number]:
            raise UserError(f"{file}:{number + 1}: a text of another prompt: delete the file, or choose another --run")
    return raw.count(b"\n")
