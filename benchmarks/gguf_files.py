"""What llama.cpp makes of our GGUF files, against our own FP32 model.

Needs llama-cpp-python, which is built for this and is no dependency, and a trained run with held-out text. Measured are

* logits of small random models of every kind that llama.cpp can run, and of the trained run, from F32 files;
* bits per byte of the trained run in every type, each relative to ours in FP32;
* token ids: gettext catalogues in every language that this machine has, and random text of every Unicode block, with
  the run's tokenizer and with one trained on the catalogues, whose merges cross more of what could be split wrongly;
* conversations by llama-cpp-python's template engine and, with ``--template-tool`` (llama.cpp's test-chat-template), by
  llama.cpp's own;
* with ``--speculative`` (llama.cpp's llama-speculative-simple), drafts of the MTP layer (draft-mtp): how many are
  accepted, and whether the text is the one without them.

llama.cpp's cache is F32, and it runs in one thread. ``python benchmarks/gguf_files.py runs/quickstart`` prints the
figures and writes ``benchmarks/results/gguf.json``.
"""

from __future__ import annotations

import argparse
import gettext
import json
import math
import random
import re
import subprocess
import sys
import tempfile
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
import torch
from record import write_result

from clearseek.chat.render import render, template
from clearseek.config import ModelConfig, RopeScaling
from clearseek.data.loader import Stream
from clearseek.data.tokenizer import BOS, EOS, Tokenizer, train
from clearseek.hub.gguf import DTYPES, export_gguf
from clearseek.model.transformer import DeepSeekModel
from clearseek.recipe import load_recipe
from clearseek.train.run import Run

RESULT = Path(__file__).parent / "results" / "gguf.json"
BITS_AIMS = {"bf16": 0.001, "f16": 0.001, "q8_0": 0.005}
LOGIT_AIM = 5e-3
V2 = {"scoring_func": "softmax", "topk_method": "greedy", "routed_scaling_factor": 2.0}
LITE = {"q_lora_rank": None, "num_hidden_layers": 26}


def yarn(mscale: float, mscale_all_dim: float) -> dict[str, Any]:
    scaling = RopeScaling(
        factor=40.0, original_max_position_embeddings=64, mscale=mscale, mscale_all_dim=mscale_all_dim
    )
    return {"rope_scaling": scaling, "max_position_embeddings": 2560}


KINDS: dict[str, dict[str, Any]] = {
    "V3": {},
    "V3 with MTP layer": {"num_nextn_predict_layers": 1},
    "V3, plain queries, 26 layers and MTP layer": LITE | {"num_nextn_predict_layers": 1},
    "V3, 25 layers and MTP layer": {"num_hidden_layers": 25, "num_nextn_predict_layers": 1},
    "V3, 16 experts in 4 groups": {"n_routed_experts": 16, "n_group": 4, "topk_group": 2, "num_experts_per_tok": 4},
    "V3, tied embeddings": {"tie_word_embeddings": True},
    "V3, no dense layer": {"first_k_dense_replace": 0},
    "V3, dense layers only": {"first_k_dense_replace": 4},
    "V3, two shared experts": {"n_shared_experts": 2},
    "V3, YaRN 1 / 1": yarn(1.0, 1.0),
    "V3, YaRN 0.707 / 1": yarn(0.707, 1.0),
    "V3, YaRN 1 / 0": yarn(1.0, 0.0),
    "V3, YaRN 0 / 0": yarn(0.0, 0.0),
    "V2": V2 | {"norm_topk_prob": False},
    "V2, normalised": V2 | {"norm_topk_prob": True},
    "V2-Lite, YaRN 0.707 / 0.707": V2 | LITE | yarn(0.707, 0.707) | {"norm_topk_prob": False},
}


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="a trained run with its data")
    parser.add_argument("--windows", type=int, default=64, help="held-out windows of the trained model")
    parser.add_argument("--catalogues", type=Path, default=Path("/usr/share/locale"), help="folder of gettext files")
    parser.add_argument("--template-tool", type=Path)
    parser.add_argument("--speculative", type=Path)
    options = parser.parse_args()
    torch.set_grad_enabled(False)
    run = Run(options.run)
    model, step = run.load_model()
    tokenizer = Tokenizer.load(run.tokenizer)
    result: dict[str, Any] = {"what": __doc__.splitlines()[0], "llama-cpp-python": llama_cpp.__version__}
    result["model"] = {"recipe": run.read_recipe(record=True).name, "step": step}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = {}
        for dtype in DTYPES:
            files[dtype] = folder / f"{dtype}.gguf"
            export_gguf(model.state_dict(), model.config, tokenizer, files[dtype], dtype)  # type: ignore[arg-type]
        result["kinds"] = kinds(tokenizer, folder)
        stream = Stream(run.root / "data", "heldout")
        result["trained"] = trained(model, stream, files, options.windows)
        result["tokens"] = tokens(tokenizer, options.catalogues, folder)
        result["template"] = templates(tokenizer, options.template_tool, folder)
        if options.speculative:
            starts = stream.offsets[:12].tolist()
            prompts = [tokenizer.decode(stream[start + 1 : start + 33].tolist()) for start in starts]
            result["draft-mtp"] = drafts(options.speculative, files, prompts)
    write_result(RESULT, result)
    print(RESULT)


def without_repacking() -> Any:
    """llama.cpp's settings of a model, with weights as they lie in the file (``--no-repack``).

    Where the processor has AMX, llama.cpp 0.3.36 would put F16, Q8_0 and Q4_0 weights into a form in which it cannot
    multiply the absorbed keys, and abort.
    """
    settings = _default_settings()
    settings.use_extra_bufts = False
    return settings


_default_settings = llama_cpp.llama_cpp.llama_model_default_params
llama_cpp.llama_cpp.llama_model_default_params = without_repacking  # the class has no argument for it


def opened(file: Path, context: int = 0, **settings: Any) -> llama_cpp.Llama:
    threads = {"n_threads": 1, "n_threads_batch": 1}
    cache = {"type_k": llama_cpp.GGML_TYPE_F32, "type_v": llama_cpp.GGML_TYPE_F32}
    return llama_cpp.Llama(str(file), n_ctx=context, n_batch=512, verbose=False, **threads, **cache, **settings)


def theirs(model: llama_cpp.Llama, ids: list[int]) -> np.ndarray:
    """Logits of a whole sequence: [positions, vocabulary]."""
    model.reset()
    model.eval(ids)
    return np.array(model.scores[: len(ids)])


def kinds(tokenizer: Tokenizer, folder: Path) -> dict[str, Any]:
    """Largest difference of logits, and the share of positions with the same best token, for each kind of model."""
    base = load_recipe("quickstart").model.model_dump() | {
        "hidden_size": 64, "num_hidden_layers": 4, "q_lora_rank": 32, "kv_lora_rank": 32, "intermediate_size": 96,
        "moe_intermediate_size": 32, "n_routed_experts": 8, "num_experts_per_tok": 3, "initializer_range": 0.05,
        "num_nextn_predict_layers": 0, "max_position_embeddings": 512,
    }  # fmt: skip
    found = {}
    for name, changes in KINDS.items():
        config, file = ModelConfig(**base | changes), folder / "kind.gguf"
        model = DeepSeekModel(config)
        model.initialise(seed=1)
        generator = torch.Generator().manual_seed(2)
        for each in [*model.buffers(), *(p for p in model.parameters() if p.ndim == 1)]:
            each += 0.2 * torch.randn(each.shape, generator=generator)
        export_gguf(model.state_dict(), config, tokenizer, file, "f32")
        ids = torch.randint(config.vocab_size, (150,), generator=generator).tolist()
        loaded = opened(file, 160, logits_all=True)
        found[name] = compared(model.logits(torch.tensor([ids]))[0].numpy(), theirs(loaded, ids))
        loaded.close()
        file.unlink()
        print(f"{name:45} max |difference| {found[name]['difference']:.1e}  same best {found[name]['same best']:.3f}")
    return found


def compared(mine: np.ndarray, other: np.ndarray) -> dict[str, Any]:
    same = float((mine.argmax(1) == other.argmax(1)).mean())
    return {"positions": len(mine), "difference": float(np.abs(mine - other).max()), "same best": same}


def trained(model: DeepSeekModel, stream: Stream, files: dict[str, Path], windows: int) -> dict[str, Any]:
    """Logits from the F32 file, and each type's bits per byte relative to ours in FP32, over the same windows."""
    window = 256
    windows = min(windows, len(stream) // window - 1)
    pieces = [stream[start : start + window + 1] for start in range(0, windows * window, window)]

    def nats(logits: np.ndarray, piece: np.ndarray) -> float:
        losses = torch.nn.functional.cross_entropy(
            torch.from_numpy(logits).double(), torch.from_numpy(piece[1:]), reduction="sum"
        )
        return float(losses)

    mine = [model.logits(torch.from_numpy(piece[None, :-1]))[0].numpy() for piece in pieces]
    ours = sum(nats(logits, piece) for logits, piece in zip(mine, pieces, strict=True))
    found: dict[str, Any] = {"positions": windows * window, "bits per token": ours / math.log(2) / (windows * window)}
    for dtype, file in files.items():
        loaded = opened(file, window, logits_all=True)
        other, differences, same = 0.0, 0.0, 0
        for logits, piece in zip(mine, pieces, strict=True):
            got = theirs(loaded, piece[:-1].tolist())
            other += nats(got, piece)
            differences = max(differences, float(np.abs(got - logits).max()))
            same += int((got.argmax(1) == logits.argmax(1)).sum())
        loaded.close()
        change = other / ours - 1
        found[dtype] = {
            "bits per byte, relative": change,
            "difference": differences,
            "same best": same / len(pieces) / window,
        }
        good = abs(change) <= BITS_AIMS[dtype] if dtype in BITS_AIMS else None
        if dtype == "f32":
            good = found[dtype]["same best"] == 1 and differences <= LOGIT_AIM
        found[dtype]["aim reached"] = good
        print(f"{dtype:5} bits per byte {change:+.5%}  max |difference| {differences:.1e}  "
              f"same best {found[dtype]['same best']:.4%}  {file.stat().st_size / 1e6:.1f} MB")  # fmt: skip
    return found


def catalogue(folder: Path, most: int = 24_000) -> dict[str, str]:
    """Translated messages of each language, up to `most` bytes, without the markers of special tokens."""
    found = {}
    for language in sorted(folder.iterdir()) if folder.is_dir() else []:
        lines: dict[str, None] = {}
        size = 0
        for file in sorted(language.glob("LC_MESSAGES/*.mo")):
            try:
                with file.open("rb") as opened_file:
                    messages = gettext.GNUTranslations(opened_file)._catalog  # type: ignore[attr-defined]
            except (OSError, ValueError, IndexError, SyntaxError):  # some are damaged
                continue
            for text in messages.values():
                if isinstance(text, str) and text.strip() and text not in lines and size < most:
                    lines[text] = None
                    size += len(text.encode())
        if lines:
            found[language.name] = "\n".join(lines)
    return found


def blocks(seed: int = 1) -> Iterator[str]:
    """Random words of every 128 code points that are assigned, with digits, spaces, line ends, marks and emoji."""
    draw = random.Random(seed)
    between = [
        " ",
        "  ",
        "\n",
        "\r\n",
        "\t",
        "",
        ", ",
        "-",
        "'",
        "12",
        "3456",
        ".\n\n",
        "\u00a0",
        "\u3000",
        "\u200d",
        "\u0301",
    ]
    for start in range(0, 0x32000, 128):
        letters = [chr(code) for code in range(start, start + 128) if unicodedata.category(chr(code))[0] not in "C"]
        if letters:
            words = ("".join(draw.choices(letters, k=draw.randint(1, 6))) + draw.choice(between) for _ in range(400))
            yield "".join(words)


def tokens(own: Tokenizer, folder: Path, scratch: Path) -> dict[str, Any]:
    """Texts whose ids are equal, and bytes, for each tokenizer and each set of texts."""
    languages = catalogue(folder)
    texts = {"catalogues": list(languages.values()), "blocks": list(blocks())}
    tokenizers = {"of the run": own}
    if languages:
        tokenizers["of the catalogues"] = train(texts["catalogues"], 32_768)
    base = load_recipe("quickstart").model.model_dump()
    found: dict[str, Any] = {"languages": len(languages)}
    for name, tokenizer in tokenizers.items():
        small = {"hidden_size": 32, "num_hidden_layers": 1, "num_nextn_predict_layers": 0, "first_k_dense_replace": 1}
        config = ModelConfig(**base | small | {"vocab_size": tokenizer.vocab_size})
        model = DeepSeekModel(config)
        model.initialise(seed=1)
        export_gguf(model.state_dict(), config, tokenizer, scratch / f"{name}.gguf", "f16")
        loaded = opened(scratch / f"{name}.gguf", 64)
        for kind, set_of_texts in texts.items():
            different = []
            for text in set_of_texts:
                mine, other = tokenizer.encode(text), loaded.tokenize(text.encode(), add_bos=False, special=False)
                if mine != other:
                    place = next((n for n, pair in enumerate(zip(mine, other)) if pair[0] != pair[1]), 0)  # noqa: B905
                    different.append([tokenizer.decode(ids[max(0, place - 2) : place + 4]) for ids in (mine, other)])
            size = sum(len(text.encode()) for text in set_of_texts)
            same = len(set_of_texts) - len(different)
            found[f"{kind}, tokenizer {name}"] = {
                "texts": len(set_of_texts), "bytes": size, "equal": same, "first differences": different[:5],
            }  # fmt: skip
            print(f"tokens of {kind} ({size:,} bytes), tokenizer {name}: {same} of {len(set_of_texts)} texts equal")
        loaded.close()
    return found


TOOL = {"type": "function", "function": {
    "name": "weather", "description": "Weather of a place", "parameters": {
        "type": "object", "properties": {"place": {"type": "string"}, "días": {"type": "integer"}}}}}  # fmt: skip
CALL = {"id": "1", "type": "function", "function": {"name": "weather", "arguments": '{"place": "Zürich"}'}}
CONVERSATIONS: dict[str, dict[str, Any]] = {
    "one question": {"messages": [{"role": "user", "content": "Hello, 世界"}]},
    "system and turns": {"messages": [
        {"role": "system", "content": "Be brief."}, {"role": "user", "content": "  1 + 1?\n"},
        {"role": "assistant", "content": "2"}, {"role": "user", "content": "And \"2\" + 2?"}]},
    "thinking": {"thinking": True, "messages": [
        {"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So.", "reasoning_content": "Hm."},
        {"role": "user", "content": "Really?"}]},
    "tools": {"tools": [TOOL], "messages": [
        {"role": "system", "content": "Use tools."}, {"role": "user", "content": "Zürich?"},
        {"role": "assistant", "content": "", "tool_calls": [CALL]},
        {"role": "tool", "content": "sunny & 20°", "tool_call_id": "1"}]},
    "parts": {"messages": [
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}]},
}  # fmt: skip


def templates(tokenizer: Tokenizer, tool: Path | None, folder: Path) -> dict[str, Any]:
    """Whether other engines render the chat template to the text that our tokens stand for."""
    (folder / "template.jinja").write_text(template(), encoding="utf-8")
    formatter = llama_cpp.llama_chat_format.Jinja2ChatFormatter(template(), EOS, BOS)
    found: dict[str, Any] = {}
    for name, request in CONVERSATIONS.items():
        thinking, tools = request.get("thinking", False), request.get("tools")
        expected = tokenizer.decode(render(tokenizer, request["messages"], tools, thinking).ids)
        prompt = formatter(messages=request["messages"], tools=tools, thinking=thinking).prompt
        found[name] = {"llama-cpp-python": prompt == expected}
        if tool:
            given = request | {"bos_token": BOS, "eos_token": EOS, "add_generation_prompt": True}
            (folder / "input.json").write_text(json.dumps(given, ensure_ascii=False), encoding="utf-8")
            out = folder / "rendered.txt"
            command = [tool, "--no-common", "--json", folder / "input.json", "--output", out, folder / "template.jinja"]
            subprocess.run([str(part) for part in command], capture_output=True, check=True)
            found[name]["llama.cpp"] = out.read_text(encoding="utf-8") == expected
        print(f"template, {name}: {found[name]}")
    return found


def drafts(program: Path, files: dict[str, Path], prompts: list[str]) -> dict[str, Any]:
    """Drafts accepted, and whether the text is the one that is written without drafts."""
    found: dict[str, Any] = {}
    for dtype in ("f32", "bf16", "q8_0"):
        plain = opened(files[dtype], 512)
        expected = [BOS + prompt + greedy(plain, prompt) for prompt in prompts]
        plain.close()
        for most in (1, 3):
            settings = ["-n", "121", "-c", "512", "--temp", "0", "-t", "1", "-ctk", "f32", "-ctv", "f32", "--no-repack",
                        "--spec-type", "draft-mtp", "--spec-draft-n-max", str(most)]  # fmt: skip
            counts = {"n_drafted": 0, "n_accept": 0}
            same = 0
            for prompt, text in zip(prompts, expected, strict=True):
                command = [str(program), "-m", str(files[dtype]), "-p", prompt, *settings]
                said = subprocess.run(command, capture_output=True, check=True)
                same += text.encode() in said.stdout
                for key, value in re.findall(rb"(n_drafted|n_accept)\s*=\s*(\d+)", said.stdout + said.stderr):
                    counts[key.decode()] += int(value)
            found[f"{dtype}, {most}"] = {"prompts": len(prompts), "same text": same, **counts}
            print(f"draft-mtp, {dtype}, at most {most}: {found[f'{dtype}, {most}']}")
    return found


def greedy(model: llama_cpp.Llama, prompt: str, most: int = 120) -> str:
    """Text of the best tokens after a prompt."""
    ids, written = model.tokenize(prompt.encode(), add_bos=True, special=False), []
    for token in model.generate(ids, temp=0.0, repeat_penalty=1.0):
        if token == model.token_eos() or len(written) == most:
            break
        written.append(token)
    return str(model.detokenize(written, prev_tokens=ids).decode(errors="ignore"))


if __name__ == "__main__":
    sys.exit(main())
