"""Clients that others wrote, against a server of a tiny random model: ``llm``, and lm-eval's ``local-completions``.

Both want many packages, so they live in an environment of their own (``python -m venv E && E/bin/pip install llm
"lm-eval[api]" transformers``; no torch). ``python benchmarks/clients.py E/bin/python`` writes
``benchmarks/results/clients.json``: whether `llm` gets the answer that a plain request gets, whole and streamed, and
the largest difference between log-likelihoods by lm-eval and those of the engine without a server (aim: 1e-4).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from record import write_result

from clearseek.inference.model import Model
from clearseek.inference.request import Request, Settings
from tests.serve.served import PAGES, Served, serving, tiny_model

RESULT = Path(__file__).parent / "results" / "clients.json"
AIM = 1e-4
PAIRS = [
    ("hello world, how", " are you? hello world"), ("The quick", " brown fox."), ("x", "y"),
    ("The quick brown fox.", " The slow one"),
    ("hello " * 100, "world"), ("日本語", "テスト 123"), ("how are", " you?\n\nhello"),
]  # fmt: skip
LM_EVAL = """
import json, sys
from lm_eval.api.instance import Instance
from lm_eval.models.openai_completions import LocalCompletionsAPI
url, folder, pairs = json.loads(sys.argv[1])
url += "/v1/completions"
lm = LocalCompletionsAPI(base_url=url, model="tiny", tokenizer=folder, batch_size=4, max_length=1024)
found = lm.loglikelihood([Instance("loglikelihood", {}, tuple(pair), i) for i, pair in enumerate(pairs)])
tokens = [lm._encode_pair(*pair) for pair in pairs]
print("RESULT" + json.dumps([[a, b, c, d] for (a, b), (c, d) in zip(found, tokens)]))
"""


def main() -> None:
    """Try, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("python", type=Path, help="Python of the environment with llm and lm-eval")
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    model = tiny_model()
    with serving(model) as served, tempfile.TemporaryDirectory() as name:
        result = {
            "llm": by_llm(options.python, served, Path(name)),
            "lm_eval": by_lm_eval(options.python, served, Path(name)),
        }
    print(json.dumps(result, indent=1))
    write_result(options.out, result)
    sys.exit(0 if all(each["fits"] for each in result.values()) else 1)


def _run(command: list[str], **environment: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | environment, timeout=300)
    if done.returncode:
        sys.exit(f"{command[0]}: {done.stderr[-2000:]}")
    return done.stdout


def by_llm(python: Path, served: Served, folder: Path) -> dict[str, Any]:
    """An answer by the `llm` command, streamed and whole, beside that of a plain request."""
    known = [{"model_id": "mine", "model_name": "tiny", "api_base": f"{served.url}/v1"}]
    (folder / "extra-openai-models.yaml").write_text(json.dumps(known))
    body = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 20, "seed": 3}
    wanted = served.post("/v1/chat/completions", body).json()["choices"][0]["message"]["content"]
    command = [
        str(python.parent / "llm"),
        "-m",
        "mine",
        "hello",
        "-o",
        "max_tokens",
        "20",
        "-o",
        "seed",
        "3",
        "--key",
        "none",
    ]
    texts = [_run([*command, *more], LLM_USER_PATH=str(folder)).rstrip("\n") for more in ((), ("--no-stream",))]
    return {"streamed": texts[0], "whole": texts[1], "fits": texts == [wanted.rstrip("\n")] * 2}


def by_lm_eval(python: Path, served: Served, folder: Path) -> dict[str, Any]:
    """Log-likelihoods by lm-eval, beside those of the engine in this process."""
    served.service.model.tokenizer.save(folder / "tokenizer.json")
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<｜end▁of▁sentence｜>"}  # noqa: RUF001
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    told = _run([str(python), "-c", LM_EVAL, json.dumps([served.url, str(folder), PAIRS])])
    found = json.loads(next(line for line in told.splitlines() if line.startswith("RESULT"))[6:])
    own = [in_process(served.service.model, context, continuation) for *_, context, continuation in found]
    largest = max(abs(theirs[0] - ours) for theirs, ours in zip(found, own, strict=True))
    return {"pairs": len(found), "largest_difference": largest, "aim": AIM, "fits": largest <= AIM}


def in_process(model: Model, context: list[int], continuation: list[int]) -> float:
    """Log-likelihood of a continuation, by the engine without a server."""
    request = Request([*context, *continuation], Settings(max_tokens=0, prompt_logprobs=True))
    model.engine(PAGES).run([request])
    return sum(chosen.logprob or 0.0 for chosen in request.prompt_logprobs[-len(continuation) :])


if __name__ == "__main__":
    main()
