"""The command line: its commands, and the messages of a command that cannot go on.

A command is a module of this folder with two functions: ``add(parser)`` gives its options and examples, and
``run(arguments)`` does the work and returns an exit code (:mod:`clearseek.cli.exits`). The module is imported when its
command is called, and the libraries it needs when it runs, so that ``--help`` is instant. An exception other than those
that `main` reports is a defect and shows its traceback.
"""

from __future__ import annotations

import argparse
import errno
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from textwrap import fill
from types import ModuleType

import clearseek
from clearseek.cli.exits import INTERRUPTED, LOST, READER_GONE, USER_ERROR
from clearseek.cli.terminal import open_output
from clearseek.errors import LostError, UserError, nearest, one_line

COMMANDS = {
    "quickstart": "From nothing to a trained, exported model, in minutes.",
    "recipes": "List the recipes that come with ClearSeek.",
    "train": "Train a recipe, or go on with a run.",
    "ladder": "DeepSeek-R1's recipe in miniature: pre-training, cold start, reinforcement, rejection sampling.",
    "data": "Prepare a recipe's data: tokenizer, token shards, manifest.",
    "generate": "Write text with a trained model.",
    "chat": "Talk with a model in the terminal.",
    "serve": "Serve a model over HTTP: OpenAI's and Anthropic's clients, and a page for a browser.",
    "evaluate": "Say how well a model does at tasks, how sure the numbers are, and whether another does better.",
    "derive": "Derive a saved answer again, and compare every bit.",
    "export": "Write a model as a Hugging Face folder, or as a GGUF file for llama.cpp.",
    "import": "Make a run folder from a Hugging Face folder.",
    "convert": "Convert a DeepSeek checkpoint between FP8 and BF16, in little memory; resumes.",
    "plan": "What a recipe would cost: operations, memory, hours, dollars, energy.",
    "doctor": "Try what this machine can train with: precisions, FP8 backends, compilers.",
    "audit": "Say how open a release is, from its bytes: what the weights are and allow, what is open, what it means "
    "in practice. Nothing of the release is executed.",
    "release": "Make a repository that carries all that made a model: weights, code, data, recipe, transcript, "
    "checkpoints, evaluation, manifest, signature.",
    "verify": "Do parts of a release again and compare bits: hashes, evaluation, data, training.",
}
"""Summaries of the commands, by name."""
EXAMPLES = """examples:
  clearseek quickstart                              train a small DeepSeek-V3 here and now
  clearseek recipes                                 list the recipes that come along
  clearseek train shakespeare --run runs/bard       train another recipe
  clearseek train quickstart --dry-run              what it would do: parameters, memory, FLOPs
  clearseek train quickstart --set train.steps=50   change a setting
  clearseek train --resume runs/quickstart          go on, to the bit, where a run was stopped
  clearseek train --resume runs/quickstart --more-steps 200   a new run that goes on from a finished one
  clearseek ladder                                  DeepSeek-R1's recipe in miniature, in runs/ladder
  clearseek generate runs/quickstart --prompt "def "
  clearseek chat my-model                           talk with a model
  clearseek serve my-model                          a page and an API at http://127.0.0.1:8000
  clearseek evaluate my-model --against other-model   which is better, if that can be told
  clearseek derive my-model answer.json             a saved answer again, bit for bit
  clearseek export runs/quickstart my-model         a folder that transformers loads
  clearseek import my-model runs/imported           and back
  clearseek convert DeepSeek-V3 v3-bf16 --dtype bf16   FP8 weights to BF16, or back, in little memory
  clearseek plan v3-671b                            hours, dollars, memory, energy; beside what DeepSeek published
  clearseek doctor                                  what this machine can train with
  clearseek audit my-model                          how open a release is, from its bytes
  clearseek release runs/quickstart my-release      everything that made a model, for anyone to check
  clearseek verify my-release                       train parts of a release again, and compare bits
"""


def _module(command: str) -> ModuleType:
    return import_module(f"{__name__}.{'import_' if command == 'import' else command}")


class _Parser(argparse.ArgumentParser):
    """argparse with errors as UserErrors, and a suggestion for a misspelt command."""

    def error(self, message: str) -> None:  # type: ignore[override]
        if message.startswith("argument COMMAND: invalid choice: '"):
            given = message.split("invalid choice: '", 1)[1].split("'", 1)[0]
            message = f"no command {given!r}{nearest(given, COMMANDS)}; commands: {', '.join(COMMANDS)}"
        raise UserError(f"{message} (see {self.prog} --help)")


class _CommandParser(_Parser):
    """Parser of one command, whose module adds options and examples at the first use."""

    def add_options(self) -> None:
        """Import the command's module, and have it add its options and examples."""
        if self.epilog is None:
            _module(self.prog.split()[-1]).add(self)

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """Parse the arguments after the command's name; argparse calls it."""
        self.add_options()
        return super().parse_known_args(args, namespace)


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands, which loads none of their modules."""
    raw = argparse.RawDescriptionHelpFormatter
    first = (clearseek.__doc__ or "").partition("\n")[0]
    parser = _Parser(prog="clearseek", description=first, epilog=EXAMPLES, formatter_class=raw)
    parser.add_argument("--version", action="version", version=f"clearseek {clearseek.__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True, parser_class=_CommandParser)
    for name, text in COMMANDS.items():
        commands.add_parser(name, help=text, description=fill(text, 79), formatter_class=raw)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of ``clearseek``."""
    open_output()
    try:
        arguments, unknown = build_parser().parse_known_args(argv)
        if unknown:
            raise UserError(f"unrecognized arguments: {' '.join(unknown)} (see clearseek {arguments.command} --help)")
        arguments.words = list(sys.argv[1:] if argv is None else argv)
        _refuse_windows()
        code = int(_module(arguments.command).run(arguments))
        print(end="", flush=True)  # a fault of standard output raises here, not at exit
        return code
    except UserError as error:
        problem = str(error)
    except LostError as error:
        print(f"clearseek: {one_line(str(error))}", file=sys.stderr)
        return LOST
    except KeyboardInterrupt:
        print("clearseek: interrupted", file=sys.stderr)
        return INTERRUPTED
    except SystemExit as end:  # --help and --version; and rich, when the reader of the output went away
        return _reader_gone() if end.code else 0
    except BrokenPipeError:
        return _reader_gone()
    except OSError as error:
        if error.filename is None and error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
            raise
        problem = f"{error.filename or 'standard output'}: {error.strerror}"
    for line in problem.split("\n"):
        print(f"clearseek: {one_line(line)}", file=sys.stderr)
    return USER_ERROR


def _refuse_windows() -> None:
    try:
        import_module("fcntl")
    except ImportError:
        raise UserError("ClearSeek runs on Linux and macOS: on Windows use WSL (Windows Subsystem for Linux)") from None


def _reader_gone() -> int:
    """Exit code of a program whose output is no longer read, as before ``| head``; nothing more is written."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return READER_GONE
