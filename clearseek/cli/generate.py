"""``clearseek generate``: a trained model goes on with a prompt, a token at a time."""

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
    parser.add_argument("model", type=Path, help="a run folder or an exported folder")
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
    first = list(islice(stream, 1))  # what is wrong with the prompt shows here, before it is repeated
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

    It computes in FP32, whatever is stored: what a seed gives must not hang on how fast this machine is in BF16 today.
    """
    import torch

    from clearseek.cli.models import load_tokenizer
    from clearseek.hub.read import import_hf
    from clearseek.hub.tokenizer_files import refuse_without_tokenizer
    from clearseek.model.transformer import DeepSeekModel
    from clearseek.train.run import Run

    if not folder.is_dir():
        raise UserError(
            f"{folder}: {'a file' if folder.exists() else 'no such folder'}: give a run folder or an exported one"
        )
    if (folder / "config.json").is_file():
        if step is not None:
            raise UserError("--step is for run folders: an exported folder holds one model")
        refuse_without_tokenizer(folder)
        config, tensors = import_hf(folder, allow_missing_mtp=True)
        with torch.device("meta"):
            model = DeepSeekModel(config)
        model.load_state_dict(tensors, assign=True)
        return model.set_dtype(torch.float32).requires_grad_(False), load_tokenizer(folder / "tokenizer.json", config)
    trained = Run(folder)
    model, _ = trained.load_model(step)
    return model, load_tokenizer(trained.tokenizer, model.config)
