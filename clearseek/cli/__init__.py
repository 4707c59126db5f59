"""The command line: what each command is called and what it takes. The work is done elsewhere.

Exit codes: 0 done; 2 something the user can mend, said in one message on standard error; 130 ended by Ctrl-C or SIGTERM
after saving; 141 the reader of a pipe went away. Anything else is a defect and shows its traceback.
"""

from __future__ import annotations

import argparse
import errno
import os
import re
import signal
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path

import clearseek
from clearseek.cli.terminal import open_output
from clearseek.errors import UserError, nearest, one_line

EXAMPLES = """examples:
  clearseek quickstart                              train a small DeepSeek-V3 here and now
  clearseek recipes                                 list the recipes that come along
  clearseek train shakespeare --run runs/bard       train another recipe
  clearseek train quickstart --dry-run              what it would do: parameters, memory, FLOPs
  clearseek train quickstart --set train.steps=50   change a setting
  clearseek train --resume runs/quickstart          go on, to the bit, where a run was stopped
  clearseek train --resume runs/quickstart --more-steps 200   a new run that goes on from a finished one
  clearseek generate runs/quickstart --prompt "def "
  clearseek export runs/quickstart my-model         a folder that transformers loads
  clearseek import my-model runs/imported           and back
  clearseek convert DeepSeek-V3 v3-bf16 --dtype bf16   FP8 weights to BF16, or back, in little memory
  clearseek plan v3-671b                            hours, dollars, memory, energy; beside what DeepSeek published
  clearseek doctor                                  what this machine can train with
  clearseek audit my-model                          how open a release is, from its bytes
  clearseek release runs/quickstart my-release      everything that made a model, for anyone to check
  clearseek verify my-release                       train parts of a release again, and compare bits
"""


class _Parser(argparse.ArgumentParser):
    """argparse with one-line errors and a suggestion for a misspelt command."""

    def error(self, message: str) -> None:  # type: ignore[override]
        if message.startswith("argument COMMAND: invalid choice: '"):
            given = message.split("invalid choice: '", 1)[1].split("'", 1)[0]
            message = f"no command {given!r}{nearest(given, COMMANDS)}; commands: {', '.join(COMMANDS)}"
        raise UserError(f"{message} (see {self.prog} --help)")


OPENNESS = {
    "plan": "clearseek.cli.plan",
    "audit": "clearseek.cli.audit",
    "release": "clearseek.cli.release",
    "verify": "clearseek.cli.release",
}
"""Commands of openness and where they live; the first two need no PyTorch."""
COMMANDS = (
    "quickstart", "recipes", "train", "data", "generate", "export", "import", "convert", "doctor", *OPENNESS,
)  # fmt: skip


def _add_recipe_options(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE",
        help="change a setting of the recipe, such as train.steps=100; may be repeated",
    )  # fmt: skip


def _number(text: str) -> float:
    """A number as people write it: ``14.8e12``, ``14.8T``, ``40%``, ``2,048``."""
    match = re.fullmatch(r"((?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:[eE][+-]?\d+)?)\s*([kKMBT%]?)", text.strip())
    try:
        value = float(match[1].replace(",", "")) if match else float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no number such as 14.8e12, 14.8T or 40%") from None
    return value * {"": 1.0, "k": 1e3, "m": 1e6, "b": 1e9, "t": 1e12, "%": 0.01}[match[2].lower() if match else ""]


def _add_plan(plan: argparse.ArgumentParser) -> None:
    plan.add_argument("recipe", nargs="?", help="a TOML file or the name of a shipped recipe")
    plan.add_argument("--published", action="store_true", help="instead: published runs beside what is predicted")
    plan.add_argument("--hardware", help="device, such as h100 (default: that of the model's published run, or h100)")
    plan.add_argument("--gpus", type=int, metavar="N", help="devices (default: as published, or the least that fit)")
    plan.add_argument("--layout", metavar="DEGREES", help="data, expert and pipeline parallel: dp=128,ep=64,pp=16")
    plan.add_argument(
        "--recompute", choices=("none", "selective", "full"),
        help="what backward computes anew (default: none on one device, else selective, as V3)",
    )  # fmt: skip
    plan.add_argument("--utilisation", type=_number, help="share of the BF16 peak (default: fitted on published runs)")
    plan.add_argument("--tokens", type=_number, help="tokens, such as 14.8e12 (default: the recipe's steps)")
    plan.add_argument("--price", type=_number, default=2.0, help="dollars a device hour (default: 2)")
    plan.add_argument("--grid", type=_number, metavar="KG", help="kg of CO2e a kWh, to estimate emissions")
    plan.add_argument("--json", action="store_true", help="print it as JSON")
    _add_recipe_options(plan)


def _add_audit(audit: argparse.ArgumentParser) -> None:
    audit.add_argument(
        "releases",
        nargs="+",
        metavar="RELEASE",
        help="folder of a release, or a repository on the hub: owner/name or owner/name@revision",
    )
    audit.add_argument("--name", help="the model's name in its documents (default: the folder's)")
    audit.add_argument("--compare", action="store_true", help="put several releases side by side")
    audit.add_argument("--evidence", action="store_true", help="show where each finding can be seen")
    audit.add_argument(
        "--format", default="text", help="how to say it (default: text)",
        choices=("text", "json", "markdown", "html", "sarif", "cyclonedx", "spdx", "croissant", "mot",
                 "european-index"),
    )  # fmt: skip
    audit.add_argument("--out", type=Path, help="file to write instead of standard output")
    audit.add_argument("--no-hash", action="store_true", help="do not hash the files: faster, and proves less")
    audit.add_argument("--require", action="append", default=[], metavar="ROW[=GRADE]",
                       help="exit with 1 unless this row is a yes, of this grade at least; repeatable")  # fmt: skip
    audit.add_argument("--trust", action="append", default=[], type=Path, metavar="KEY.pub",
                       help="count what this key signed in attestations/ as re-execution; repeatable")  # fmt: skip
    audit.add_argument(
        "--base", metavar="RELEASE", help="a release that it may have been made from: their weights are compared"
    )
    audit.add_argument("--json", action="store_true", help="same as --format json")


def _add_release(release: argparse.ArgumentParser) -> None:
    release.add_argument("run", type=Path, help="a finished run")
    release.add_argument("out", type=Path, help="folder to make")
    release.add_argument("--data", type=Path, help="the run's data (default: RUN/data)")
    release.add_argument("--name", help="the model's name (default: the folder's)")
    release.add_argument("--provider", default="", metavar="TEXT",
                         help="who publishes it, with a contact: for the card and the AI Act's summary")  # fmt: skip
    release.add_argument("--languages", default="", metavar="TEXT", help="languages of the data, for that summary")
    release.add_argument("--dtype", choices=("bf16", "fp32", "fp8"), default="bf16",
                         help="type of the final weights (default: bf16); checkpoints are FP32")  # fmt: skip
    release.add_argument("--key", type=Path, help="private key to sign with")
    release.add_argument("--make-key", action="store_true", help="make that key first")
    release.add_argument("--push", metavar="OWNER/NAME", help="upload it to this repository of the Hugging Face hub")
    release.add_argument("--private", action="store_true", help="with --push: make a new repository private")
    release.add_argument("--json", action="store_true", help="print the result as JSON")


def _add_verify(verify: argparse.ArgumentParser) -> None:
    verify.add_argument("release", type=Path, help="folder of a release")
    verify.add_argument("--levels", default="0,1,2,3,4,5",
                        help="0 hashes, 1 audit, 2 logits, 3 evaluation, 4 data, 5 segments of the training, 6 all "
                        "of it (default: 0,1,2,3,4,5)")  # fmt: skip
    verify.add_argument("--segments", type=int, default=1, help="segments to train again at level 5 (default: 1)")
    verify.add_argument("--nonce", help="text that chooses the segments (default: random)")
    verify.add_argument("--key", type=Path, help="the publisher's public key")
    verify.add_argument("--read-sources", action="store_true",
                        help="make the data again from the files on this machine that the recipe names")  # fmt: skip
    verify.add_argument("--sign", type=Path, metavar="KEY", help="add a statement of the result, signed with this key")
    verify.add_argument("--make-key", action="store_true", help="make the key of --sign first")
    verify.add_argument("--json", action="store_true", help="print the result as JSON")


def build_parser() -> argparse.ArgumentParser:
    """The parser with all commands."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = _Parser(prog="clearseek", description=clearseek.__doc__, epilog=EXAMPLES, formatter_class=raw)
    parser.add_argument("--version", action="version", version=f"clearseek {clearseek.__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)

    def command(name: str, text: str, example: str) -> argparse.ArgumentParser:
        return commands.add_parser(
            name, help=text, description=text, epilog=f"example:\n  {example}", formatter_class=raw
        )

    _add_training(command)
    _add_models(command)
    _add_openness(command)
    return parser


def _add_training(command: Callable[[str, str, str], argparse.ArgumentParser]) -> None:
    """What makes a model: quickstart, recipes, train, data."""
    quickstart = command("quickstart", "From nothing to a trained, exported model, in minutes.", "clearseek quickstart")
    quickstart.add_argument("--runs", type=Path, default=Path("runs"), help="folder of run folders (default: runs)")
    quickstart.add_argument("--recipe", choices=("quickstart", "quickstart-small"),
                            help="how large a model (default: by this machine's measured speed)")  # fmt: skip
    quickstart.add_argument("--json", action="store_true", help="print the summary as JSON")
    _add_recipe_options(quickstart)

    recipes = command("recipes", "List the recipes that come with ClearSeek.", "clearseek recipes")
    recipes.add_argument("--json", action="store_true", help="print them as JSON")

    train = command("train", "Train a recipe, or go on with a run.", "clearseek train quickstart --set train.steps=50")
    train.add_argument("recipe", nargs="?", help="a TOML file or the name of a shipped recipe")
    train.add_argument("--run", type=Path, help="run folder to make (default: runs/NAME)")
    train.add_argument("--data", type=Path, help="data folder made by 'clearseek data' (default: RUN/data)")
    train.add_argument("--resume", type=Path, metavar="RUN", help="go on with this run, exactly where it stopped")
    train.add_argument("--from-step", type=int, metavar="N", help="with --resume: go on from the checkpoint of step N")
    train.add_argument(
        "--more-steps", type=int, metavar="N",
        help="with --resume: train a finished run N steps longer, as a new run (--run; default: RUN-STEPS)",
    )  # fmt: skip
    train.add_argument("--device", default="cpu", help="cpu or cuda (default: cpu)")
    train.add_argument("--dry-run", action="store_true", help="print the resolved recipe and its costs, and stop")
    train.add_argument("--json", action="store_true", help="print the result as JSON")
    _add_recipe_options(train)

    data = command("data", "Prepare a recipe's data: tokenizer, token shards, manifest.",
                   "clearseek data shakespeare --out data/bard")  # fmt: skip
    data.add_argument("recipe", help="a TOML file or the name of a shipped recipe")
    data.add_argument("--out", type=Path, required=True, help="folder to make")
    data.add_argument("--json", action="store_true", help="print the summary as JSON")
    _add_recipe_options(data)


def _add_models(command: Callable[[str, str, str], argparse.ArgumentParser]) -> None:
    """What is done with one: generate, export, import, convert."""
    generate = command("generate", "Write text with a trained model.", "clearseek generate runs/quickstart")
    generate.add_argument("model", type=Path, help="a run folder or an exported folder")
    generate.add_argument("--prompt", default="", help="text to continue (default: none)")
    generate.add_argument("--max-tokens", type=int, default=200, help="most tokens to write (default: 200)")
    generate.add_argument("--temperature", type=float, default=0.8, help="0 takes the likeliest token (default: 0.8)")
    generate.add_argument("--top-p", type=float, default=0.95, help="probability mass to draw from (default: 0.95)")
    generate.add_argument("--seed", type=int, default=0, help="seed of the draws (default: 0)")
    generate.add_argument("--step", type=int, help="checkpoint of a run (default: the newest)")

    export = command("export", "Write a model as a Hugging Face folder.", "clearseek export runs/quickstart my-model")
    export.add_argument("run", type=Path, help="a run folder")
    export.add_argument("out", type=Path, help="folder to make")
    export.add_argument("--format", choices=("hf",), default="hf", help="hf: config.json and safetensors")
    export.add_argument("--dtype", choices=("bf16", "fp32", "fp8"), default="bf16",
                        help="stored type (default: bf16); fp8 is DeepSeek-V3's, in blocks of 128 x 128")  # fmt: skip
    export.add_argument("--step", type=int, help="checkpoint to take (default: the newest)")

    imported = command("import", "Make a run folder from a Hugging Face folder.", "clearseek import my-model runs/mine")
    imported.add_argument("folder", type=Path, help="folder with config.json, safetensors and tokenizer.json")
    imported.add_argument("run", type=Path, help="run folder to make")
    imported.add_argument(
        "--without-mtp",
        action="store_true",
        help="accept a folder whose MTP module is missing (transformers drops it when saving)",
    )

    convert = command("convert", "Convert a DeepSeek checkpoint between FP8 and BF16, in little memory; resumes.",
                      "clearseek convert DeepSeek-V3 v3-bf16 --dtype bf16")  # fmt: skip
    convert.add_argument("folder", type=Path, help="folder with config.json and safetensors")
    convert.add_argument("out", type=Path, help="folder to make")
    convert.add_argument("--dtype", choices=("fp8", "bf16"), required=True, help="what to make")
    convert.add_argument(
        "--scales", choices=("float", "power-of-two"),
        help="scales of FP8 blocks: float as in V3, power-of-two as in V3.1 (default: as before the weights were "
        "converted to BF16, where that is known, else float)",
    )  # fmt: skip
    convert.add_argument("--json", action="store_true", help="print the result as JSON")


def _add_openness(command: Callable[[str, str, str], argparse.ArgumentParser]) -> None:
    """What is said of a machine, a plan and a release."""
    _add_plan(command("plan", "What a recipe would cost: operations, memory, hours, dollars, energy.",
                      "clearseek plan v3-671b --gpus 2048"))  # fmt: skip

    doctor = command("doctor", "Try what this machine can train with: precisions, FP8 backends, compilers.",
                     "clearseek doctor")  # fmt: skip
    doctor.add_argument("--device", help="cpu or cuda (default: the GPU, if there is one)")
    doctor.add_argument("--json", action="store_true", help="print the findings as JSON")

    _add_audit(command("audit", "Say how open a release is, from its bytes: what the weights are and allow, what is "
                    "open, what it means in practice. Nothing of the release is executed.",
                    "clearseek audit my-model --format html --out audit.html\n"
                    "  clearseek audit one other --compare\n"
                    "  clearseek audit my-model --require weights.tensors=E4   (exit code 1 unless it holds)\n"
                    "  clearseek audit my-model --trust alice.pub        (E5 where Alice did it again)"))  # fmt: skip
    _add_release(command("release", "Make a repository that carries all that made a model: weights, code, data, "
                      "recipe, transcript, checkpoints, evaluation, manifest, signature.",
                      "clearseek release runs/quickstart my-release --key release.key --make-key"))  # fmt: skip
    _add_verify(command("verify", "Do parts of a release again and compare bits: hashes, evaluation, data, training.",
                     "clearseek verify my-release --segments 2 --key release.key.pub\n"
                     "  clearseek verify my-release --levels 6                    (the whole run)\n"
                     "  clearseek verify my-release --sign my.key --make-key      (and say so to others)"))  # fmt: skip


def dispatch(arguments: argparse.Namespace) -> int:
    """Run the chosen command; imports are late so that --help is instant."""
    try:
        import_module("fcntl")
    except ImportError:
        raise UserError("ClearSeek runs on Linux and macOS: on Windows use WSL (Windows Subsystem for Linux)") from None
    if arguments.command in OPENNESS:
        return int(getattr(import_module(OPENNESS[arguments.command]), arguments.command)(arguments))
    from clearseek.cli import training as commands

    handler = getattr(commands, arguments.command.replace("import", "import_model"))
    return int(handler(arguments))


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of ``clearseek``."""
    open_output()
    try:
        arguments, unknown = build_parser().parse_known_args(argv)
        if unknown:
            raise UserError(f"unrecognized arguments: {' '.join(unknown)} (see clearseek {arguments.command} --help)")
        code = dispatch(arguments)
        print(end="", flush=True)  # what is wrong with standard output shows here rather than after us
        return code
    except UserError as error:
        problem = str(error)
    except KeyboardInterrupt:
        print("clearseek: interrupted", file=sys.stderr)
        return 130
    except SystemExit as end:  # after --help and --version; and by rich, when the reader of our output went away
        if not end.code:
            return 0
        return _reader_gone()
    except BrokenPipeError:
        return _reader_gone()
    except OSError as error:
        if error.filename is None and error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
            raise
        problem = f"{error.filename or 'standard output'}: {error.strerror}"
    for line in problem.split("\n"):
        print(f"clearseek: {one_line(line)}", file=sys.stderr)
    return 2


def _reader_gone() -> int:
    """The exit code of a program whose output nobody reads any more, as before ``| head``; nothing more is written."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return 128 + signal.SIGPIPE


if __name__ == "__main__":
    sys.exit(main())
