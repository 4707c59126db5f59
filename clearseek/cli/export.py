"""``clearseek export``: a model as a Hugging Face folder or a GGUF file, or its adapters alone as PEFT's."""

from __future__ import annotations

import argparse
from pathlib import Path

from clearseek.errors import UserError

DTYPES = {"hf": ("bf16", "fp32", "fp8"), "gguf": ("bf16", "f32", "f16", "q8_0", "q4_0"), "peft": ("fp32",)}
"""Stored types of each format; the first is the default."""


def add(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "example:\n  clearseek export runs/quickstart my-model\n"
        "  clearseek export runs/quickstart my-model.gguf --format gguf --dtype q8_0"
    )
    parser.add_argument("model", type=Path, help="a run folder; for GGUF also an exported folder or a release")
    parser.add_argument("out", type=Path, help="folder, or GGUF file, to make")
    parser.add_argument("--format", choices=DTYPES, default="hf",
                        help="hf: config.json and safetensors (default); gguf: one file for llama.cpp; peft: the "
                        "adapters of a run with [lora], for PEFT over its parent's Hugging Face folder")  # fmt: skip
    parser.add_argument("--dtype", choices=sorted({each for some in DTYPES.values() for each in some}), metavar="TYPE",
                        help="stored type (default: bf16). hf: bf16, fp32 or fp8, which is DeepSeek-V3's, in blocks of "
                        "128 x 128. gguf: bf16, f32, f16, q8_0 or q4_0, the last two in blocks of 32. "
                        "peft: fp32")  # fmt: skip
    parser.add_argument("--step", type=int, help="checkpoint of a run (default: the newest)")


def run(arguments: argparse.Namespace) -> int:
    known = DTYPES[arguments.format]
    dtype = arguments.dtype or known[0]
    if dtype not in known:
        raise UserError(f"--dtype {dtype}: --format {arguments.format} stores {', '.join(known)}")
    return {"hf": _hf, "gguf": _gguf, "peft": _peft}[arguments.format](arguments, dtype)


def _hf(arguments: argparse.Namespace, dtype: str) -> int:
    from clearseek.cli.report import output, print_findings
    from clearseek.data.tokenizer import Tokenizer, trained_here
    from clearseek.hub.portability import check_portability
    from clearseek.hub.write import DTYPES, Weights, export_hf, export_scales
    from clearseek.train.run import Run

    if arguments.out.suffix == ".gguf":
        raise UserError(f"{arguments.out}: names a GGUF file, and --format hf makes a folder: add --format gguf")
    folder = Run(arguments.model)
    recipe = folder.read_recipe(record=True)
    weights: Weights
    if recipe.lora is None:  # read piece by piece, however large
        weights, step = folder.open_weights(arguments.step)
    else:
        model, step = folder.load_model(arguments.step)
        weights = model.state_dict()
    scales = export_scales(recipe)
    export_hf(
        weights, recipe.model, folder.tokenizer, arguments.out, DTYPES[dtype], scales=scales,
        conversational=recipe.conversational,
    )  # fmt: skip
    print(f"{arguments.out}: step {step} of {folder.root} as {dtype}, a Hugging Face folder")
    print_findings(output(), check_portability(recipe.model, trained_here(Tokenizer.load(folder.tokenizer))))
    return 0


def _gguf(arguments: argparse.Namespace, dtype: str) -> int:
    from clearseek.cli.models import tensors_of, tokenizer_of
    from clearseek.cli.report import output, print_findings
    from clearseek.hub.gguf import export_gguf, places
    from clearseek.hub.portability import check_portability

    config, tensors, tokenizer = tensors_of(arguments.model, arguments.step)
    wide = export_gguf(tensors, config, tokenizer_of(tokenizer, config), arguments.out, dtype)  # type: ignore[arg-type]
    print(f"{arguments.out}: {arguments.model} as {dtype}, a GGUF file for llama.cpp")
    if wide:
        print(f"F16 instead of {dtype}, whose blocks of 32 their rows do not fill: {places(wide)}")
    findings = check_portability(config, own_tokenizer=False)
    print_findings(output(), [finding for finding in findings if finding.tool == "llama.cpp"])
    return 0


def _peft(arguments: argparse.Namespace, dtype: str) -> int:
    from clearseek.posttrain.peft import export_peft
    from clearseek.train.run import Run

    folder = Run(arguments.model)
    recipe = folder.read_recipe(record=True)
    if recipe.lora is None or recipe.parent is None:
        raise UserError(f"{folder.root}: has no adapters: --format peft is for runs with [lora]; use --format hf")
    if recipe.train.bias_update_speed:
        raise UserError(
            f"{folder.root}: train.bias_update_speed = {recipe.train.bias_update_speed} moved the routers' balance "
            "biases, which PEFT's format does not hold: use --format hf, which stores the whole model"
        )
    model, step = folder.load_model(arguments.step, merged=False)
    base = Path(recipe.parent.path)
    export_peft(model, arguments.out, str(base) if (base / "config.json").is_file() else None)
    print(f"{arguments.out}: adapters of step {step} of {folder.root} as {dtype}, for PEFT over its parent, {base}")
    return 0
