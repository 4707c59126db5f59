"""How many questions benchmarks have: what a stated score can be, and can carry, follows from that number.

Only sets of one size are here. Those of which several sizes, splits or subsets go by the same name (MATH, MBPP, DROP,
AIME without a year) are left out: of them nothing is known, and a wrong number would accuse wrongly.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Final


@dataclass(frozen=True, slots=True)
class Benchmark:
    """A set of questions."""

    name: str
    questions: int
    source: str
    """Where the number is from: a data set with its split, or a paper."""
    names: str
    """Pattern of the names that labels give it, in lower case, without spaces, hyphens and underscores."""
    data_sets: tuple[str, ...] = ()
    """Ids on the Hugging Face hub, in lower case; with a task's id after a colon where a data set has several."""
    averaged: bool = False
    """Whether its score is often a mean over parts, and then no count over all questions."""


BENCHMARKS: Final = (
    Benchmark("AIME 2024", 30, "AIME I and II, 15 problems each", r"aime(?:20)?'?24",
              ("huggingfaceh4/aime_2024", "math-ai/aime24", "maxwell-jia/aime_2024")),
    Benchmark("AIME 2025", 30, "AIME I and II, 15 problems each", r"aime(?:20)?'?25",
              ("math-ai/aime25", "matharena/aime_2025", "yentinglin/aime_2025")),
    Benchmark("AIME 2026", 30, "AIME I and II, 15 problems each", r"aime(?:20)?'?26", ("matharena/aime_2026",)),
    Benchmark("GPQA Diamond", 198, "arXiv:2311.12022, table 2", r"gpqa\(?diamond\)?|gpqad",
              ("idavidrein/gpqa:gpqa_diamond",)),
    Benchmark("GPQA main", 448, "arXiv:2311.12022, table 2", r"gpqa\(?main\)?", ("idavidrein/gpqa:gpqa_main",)),
    Benchmark("GPQA extended", 546, "arXiv:2311.12022, table 2", r"gpqa\(?extended\)?",
              ("idavidrein/gpqa:gpqa_extended",)),
    Benchmark("HumanEval", 164, "arXiv:2107.03374, section 2.2", r"(?:openai)?humaneval",
              ("openai_humaneval", "openai/openai_humaneval")),
    Benchmark("HumanEval+", 164, "arXiv:2305.01210, table 2", r"humaneval(?:\+|plus)", ("evalplus/humanevalplus",)),
    Benchmark("MATH-500", 500, "HuggingFaceH4/MATH-500, test", r"math500", ("huggingfaceh4/math-500",)),
    Benchmark("GSM8K", 1319, "openai/gsm8k, test", r"gsm8k", ("gsm8k", "openai/gsm8k")),
    Benchmark("SWE-bench Verified", 500, "princeton-nlp/SWE-bench_Verified, test", r"swebench\(?verified\)?",
              ("princeton-nlp/swe-bench_verified", "swe-bench/swe-bench_verified")),
    Benchmark("SimpleQA", 4326, "arXiv:2411.04368, section 2", r"simpleqa"),
    Benchmark("HellaSwag", 10042, "Rowan/hellaswag, validation", r"hellaswag", ("hellaswag", "rowan/hellaswag")),
    Benchmark("WinoGrande", 1267, "winogrande_xl, validation", r"winogrande", ("winogrande", "allenai/winogrande")),
    Benchmark("ARC-Challenge", 1172, "allenai/ai2_arc, ARC-Challenge, test", r"arc(?:c|challenge)",
              ("ai2_arc:arc-challenge", "allenai/ai2_arc:arc-challenge")),
    Benchmark("ARC-Easy", 2376, "allenai/ai2_arc, ARC-Easy, test", r"arc(?:e|easy)",
              ("ai2_arc:arc-easy", "allenai/ai2_arc:arc-easy")),
    Benchmark("PIQA", 1838, "ybisk/piqa, validation", r"piqa", ("piqa", "ybisk/piqa")),
    Benchmark("BoolQ", 3270, "google/boolq, validation", r"boolq", ("boolq", "google/boolq")),
    Benchmark("OpenBookQA", 500, "allenai/openbookqa, test", r"openbookqa|obqa", ("openbookqa", "allenai/openbookqa")),
    Benchmark("MMLU", 14042, "cais/mmlu, all, test", r"mmlu", ("cais/mmlu", "hendrycks_test"), averaged=True),
    Benchmark("MMLU-Pro", 12032, "TIGER-Lab/MMLU-Pro, test", r"mmlupro", ("tiger-lab/mmlu-pro",), averaged=True),
)  # fmt: skip
_ASIDE: Final = re.compile(
    r"\((?:em|acc|accuracy|acc[ _]norm|exact match|pass@1|avg@\d+|mean@\d+|cot|\d+-shot|,|\s|en|test|val)*\)"
    r"|\b\d+[- ]?shots?\b|\bpass@1(?![\d:])|\bavg@\d+|\bmean@\d+|\bcot\b|\baccuracy\b|\bacc\b|\bem\b|[,*†‡]",
    re.I,
)
"""What labels add to a name that changes neither the questions nor what is counted."""
_SAMPLES: Final = re.compile(
    r"\b(?:avg|mean)@(\d{1,4})\b|\bpass@1[ ,(:]{1,3}(?:avg|mean|k|n)[ =@:]{0,3}(\d{1,4})\b", re.I
)


@lru_cache(maxsize=4096)
def by_label(label: str) -> Benchmark | None:
    """The benchmark that a label of a table names, and nothing else; None for any other label."""
    if len(label) > 100:
        return None
    bare = re.sub(r"[\s_-]", "", _ASIDE.sub(" ", _SAMPLES.sub(" ", label)).lower()).strip(":()")
    return next((each for each in BENCHMARKS if re.fullmatch(each.names, bare)), None)


def by_data_set(id: str, task: str = "") -> Benchmark | None:
    """The benchmark of a data set on the hub, or of a task or configuration of it."""
    wanted = (id.lower(), f"{id.lower()}:{task.lower()}")
    return next((each for each in BENCHMARKS if any(name in each.data_sets for name in wanted)), None)


def samples_in(label: str) -> int | None:
    """Answers to each question whose mean a label says that the score is; None where it does not say."""
    match = _SAMPLES.search(label[:200])
    return max(1, int(match[1] or match[2])) if match else None
