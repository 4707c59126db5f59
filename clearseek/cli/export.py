"""``clearseek export``: a run's model as a Hugging Face folder."""

from __future__ import annotations

import argparse
from pathlib import Path


def add(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "example:\n  clearseek export runs/quickstart my-model"
    parser.add_argument("run", type=Path, help="a run folder")
    parser.add_argument("out", type=Path, help="folder to make")
    parser.add_argument("--format", choices=("hf",), default="hf", help="hf: config.json and safetensors")
    parser.add_argument("--dtype", choices=("bf16", "fp32", "fp8"), default="bf16",
                        help="stored type (default: bf16); fp8 is DeepSeek-V3's, in blocks of 128 x 128")  # fmt: skip
    parser.add_argument("--step", type=int, help="checkpoint to take (default: the newest)")


def run(arguments: argparse.Namespace) -> int:
    from clearseek.cli.report import output, print_findings
    from clearseek.data.tokenizer import Tokenizer, trained_here
    from clearseek.hub.portability import check_portability
    from clearseek.hub.write import DTYPES, export_hf, export_scales
    from clearseek.train.run import Run

    folder = Run(arguments.run)
    recipe = folder.read_recipe(record=True)
    model, step = folder.load_model(arguments.step)
    dtype, scales = DTYPES[arguments.dtype], export_scales(recipe)
    export_hf(model.state_dict(), recipe.model, folder.tokenizer, arguments.out, dtype, scales=scales)
    print(f"{arguments.out}: step {step} of {folder.root} as {arguments.dtype}, a Hugging Face folder")
    print_findings(output(), check_portability(recipe.model, trained_here(Tokenizer.load(folder.tokenizer))))
    return 0
