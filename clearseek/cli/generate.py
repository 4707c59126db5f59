"""``clearseek generate``: a trained model continues a prompt, a token at a time."""

from __future__ import annotations

import argparse
import os
import sys
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING

from clearseek.cores import sharing_cores
from clearseek.errors import UserError

if TYPE_CHECKING:
    from clearseek.data.tokenizer import Tokenizer
    from clearseek.model.transformer import DeepSeekModel


def add(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "example:\n  clearseek generate runs/quickstart"
    parser.add_argument("model", type=Path, help="a run folder, an exported folder or a release")
    parser.add_argument("--prompt", default="", help="text to continue (default: none)")
    parser.add_argument("--max-tokens", type=int, default=200, help="most tokens to write (default: 200)")
    parser.add_argument("--temperature", type=float, default=0.8, help="0 takes the likeliest token (default: 0.8)")
    parser.add_argument("--top-p", type=float, default=0.95, help="probability mass to draw from (default: 0.95)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the draws (default: 0)")
    parser.add_argument("--step", type=int, help="checkpoint of a run (default: the newest)")


@sharing_cores()
def run(arguments: argparse.Namespace) -> int:
    from clearseek.data.tokenizer import BOS, EOS
    from clearseek.inference.sampler import Sampling, generate

    sampling = Sampling(arguments.temperature, arguments.top_p, arguments.seed)
    if arguments.max_tokens < 1:
        raise UserError(f"--max-tokens {arguments.max_tokens}: use a number from 1 up")
    try:  # in a locale that is not UTF-8 the shell's bytes arrive as escapes
        text = os.fsencode(arguments.prompt).decode()
    except UnicodeError:
        raise UserError("--prompt: not UTF-8 text: set the terminal's encoding to UTF-8") from None
    model, tokenizer = _load(arguments.model, arguments.step)
    prompt = [tokenizer.id_of(BOS), *tokenizer.encode(text)]
    stream = generate(model, prompt, arguments.max_tokens, sampling, frozenset({tokenizer.id_of(EOS)}))
    first = list(islice(stream, 1))  # a fault of the prompt raises here, before the prompt is written
    sys.stdout.write(arguments.prompt)
    written: list[int] = []
    shown = ""
    for token in chain(first, stream):
        written.append(token)
        so_far = tokenizer.decode(written).rstrip("\ufffd")  # a character may be split over tokens
        sys.stdout.write(so_far[len(shown) :])
        sys.stdout.flush()
        shown = so_far
    sys.stdout.write("\n")
    longest = model.config.max_position_embeddings
    if len(written) < arguments.max_tokens and len(prompt) + len(written) == longest:
        print(f"(ended at the model's longest sequence, {longest} tokens with the prompt's)", file=sys.stderr)
    return 0


def _load(folder: Path, step: int | None) -> tuple[DeepSeekModel, Tokenizer]:
    """A model ready to generate, from a run folder or an export, and its tokenizer.

    The model computes in FP32, whatever is stored: a seed's text must not depend on this machine's speed in BF16.
    """
    from clearseek.hub.read import import_model
    from clearseek.hub.tokenizer_files import load_tokenizer, refuse_without_tokenizer
    from clearseek.train.run import Run

    if not folder.is_dir():
        raise UserError(
            f"{folder}: {'a file' if folder.exists() else 'no such folder'}: give a run folder or an exported one"
        )
    if (folder / "config.json").is_file():
        if step is not None:
            raise UserError("--step is for run folders: an exported folder holds one model")
        refuse_without_tokenizer(folder)
        model, file = import_model(folder), folder / "tokenizer.json"
    else:
        trained = Run(folder)
        (model, _), file = trained.load_model(step), trained.tokenizer
    return model, load_tokenizer(file, model.config)
