"""lm-evaluation-harness on ClearSeek's engine, against its own Hugging Face backend on the exported model."""

from __future__ import annotations

import json
import random
import socket
from pathlib import Path
from typing import Any

import pytest
import torch

from clearseek.config import ModelConfig
from clearseek.data.tokenizer import Tokenizer, train
from clearseek.errors import UserError
from clearseek.hub.write import export_hf
from clearseek.inference.model import Model
from clearseek.inference.request import Request, Settings
from clearseek.model.transformer import DeepSeekModel

pytest.importorskip("lm_eval")

from lm_eval.evaluator import simple_evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from clearseek.evaluate.answerers import Local
from clearseek.evaluate.check import faults
from clearseek.evaluate.harness.adapter import EngineLM, Setup
from clearseek.evaluate.harness.evaluation import _recorded, evaluate_tasks, harness_faults
from clearseek.evaluate.harness.offline import NoNetworkError, offline
from clearseek.evaluate.harness.tasks import Options, Session, TaskResult, evaluate_harness, run_tasks
from clearseek.evaluate.records import Index, Record, file_name, read_records
from tests.serve.served import serving

CONTEXT = 96
WORDS = ["hello", "world,", "how", "are", "you?", "The", "quick", "brown", "fox.", "Σ", "é", "over", "12", "dogs\n"]
TASKS = {
    "choice": """
output_type: multiple_choice
num_fewshot: 2
training_split: test
doc_to_text: "{{question}} "
doc_to_choice: "{{choices}}"
doc_to_target: right
metric_list: [{metric: acc}, {metric: acc_norm}]
""",
    "likely": """
output_type: multiple_choice
num_fewshot: 0
doc_to_text: "{{question}}"
doc_to_choice: "{{likely}}"
target_delimiter: ""
doc_to_target: 0
metric_list: [{metric: acc}]
""",
    "rolling": """
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{text}}"
metric_list: [{metric: word_perplexity}, {metric: bits_per_byte}]
""",
    "writing": """
output_type: generate_until
num_fewshot: 0
doc_to_text: "{{question}}"
doc_to_target: "{{text}}"
generation_kwargs: {until: ["\\n", "qu"], max_gen_toks: 24, do_sample: false}
filter_list:
  - {name: raw, filter: [{function: take_first}]}
  - {name: start, filter: [{function: regex, regex_pattern: "(.)"}, {function: take_first}]}
metric_list: [{metric: exact_match}]
""",
}


def text_of(rng: random.Random, words: int) -> str:
    return " ".join(rng.choice(WORDS) for _ in range(words))


def likely(model: Model, text: str, bos: bool) -> str:
    """The model's greedy continuation of a text."""
    prompt = [model.tokenizer.bos_id] * bos + model.tokenizer.encode(text)[-CONTEXT // 2 :]
    done = model.engine(16).run([Request(prompt, Settings(max_tokens=2, temperature=0))])[0]
    return model.tokenizer.decode([chosen.token for chosen in done.answer])


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory, model: Model) -> Path:
    """A folder with tasks: some prompts and texts are longer than the model's context."""
    folder = tmp_path_factory.mktemp("tasks")
    rng = random.Random(1)
    documents = []
    for n in range(9):
        question, text = text_of(rng, (3, 9, 70)[n % 3]), text_of(rng, (5, 30, 150)[n % 3])
        choices = ["you", text_of(rng, 1), text_of(rng, 2), text_of(rng, 6)]
        documents.append(
            {"question": question, "text": text, "right": n % 4, "choices": choices,
             "likely": [likely(model, question, False), likely(model, question, True)]}
        )  # fmt: skip
    data = folder / "documents.jsonl"
    data.write_text("".join(json.dumps(document) + "\n" for document in documents), encoding="utf-8")
    source = f"dataset_path: json\ndataset_kwargs: {{data_files: {{test: {data}}}}}\ntest_split: test\n"
    for name, body in TASKS.items():
        text = f"task: {name}\n{source}{body.strip()}\nmetadata: {{version: 1.5}}\n"
        (folder / f"{name}.yaml").write_text(text, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model whose answers vary, as Hugging Face's libraries load it."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("model")
    train([" ".join(WORDS) * 40, "hello world, how are you? " * 50], 330).save(folder / "tokenizer.json")
    config = ModelConfig(
        vocab_size=330, hidden_size=48, num_hidden_layers=3, num_attention_heads=3, q_lora_rank=24, kv_lora_rank=20,
        qk_nope_head_dim=12, qk_rope_head_dim=8, v_head_dim=10, intermediate_size=100, moe_intermediate_size=24,
        n_routed_experts=8, num_experts_per_tok=2, max_position_embeddings=CONTEXT, initializer_range=0.2,
    )  # fmt: skip
    network = DeepSeekModel(config).requires_grad_(False)
    network.initialise(1)
    export_hf(dict(network.state_dict()), config, folder / "tokenizer.json", folder / "export", dtype=torch.float32)
    return folder / "export"


@pytest.fixture(scope="module")
def model(exported: Path) -> Model:
    from clearseek.hub.read import import_hf

    config, tensors = import_hf(exported)
    return Model.of("model", config, tensors, Tokenizer.load(exported / "tokenizer.json"), "F32")


def theirs(lm: Any, tasks: Path, names: list[str], **options: Any) -> dict[str, Any]:
    """What the harness itself says of a backend."""
    manager = TaskManager(include_path=str(tasks), include_defaults=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lm_eval.evaluator.add_env_info", lambda results: None)  # seconds, for nothing here
        found = simple_evaluate(lm, tasks=names, task_manager=manager, bootstrap_iters=0, **options)
    assert found is not None
    return found


def compare(ours: TaskResult, found: dict[str, Any]) -> None:
    """The same answers for each sample and filter, and the same means."""
    samples = found["samples"][ours.task]
    assert len(samples) == sum(len(record["answers"]) for record in ours.records)
    assert samples
    by_id = {record["doc_id"]: record for record in ours.records}
    for sample in samples:
        record = by_id[sample["doc_id"]]
        for key in ("doc", "prompt", "target"):
            assert record["hashes"][key] == sample[f"{key}_hash"]
        same(record["answers"][sample["filter"]], sample["filtered_resps"])
    for metric, value in ours.metrics.items():
        assert value == pytest.approx(found["results"][ours.task][metric], rel=1e-4)


def same(ours: Any, other: Any) -> None:
    """Numbers within 1e-4, all else equal."""
    if isinstance(ours, list):
        assert len(ours) == len(other)
        for one, two in zip(ours, other, strict=True):
            same(one, two)
    elif isinstance(ours, float):
        assert abs(ours - float(other)) < 1e-4
    else:
        assert ours == other


@pytest.mark.parametrize("bos", [False, True])
def test_log_likelihoods_flags_and_texts_are_those_of_the_hugging_face_backend(
    bos: bool, exported: Path, model: Model, tasks: Path
) -> None:
    lm = HFLM(
        str(exported), device="cpu", dtype="float32", softmax_dtype="float64", batch_size=3, add_bos_token=bos or None
    )
    found = theirs(lm, tasks, [*TASKS])
    flags, cut = set(), 0
    for result in run_tasks(model, [*TASKS], Options(tasks), Setup(add_bos=bos, rows=64)):
        assert (result.version, len(result.records)) == ("1.5", 9)
        compare(result, found)
        for record in result.records:
            json.dumps(record, allow_nan=False)
            for request in record["requests"]:
                flags.add(request.get("greedy"))
                cut += len(request.get("prompt_ids", ())) + len(request.get("ids", ())) > CONTEXT - 10
                cut += len(request.get("windows", ())) > 1
    assert flags == {True, False, None}
    assert cut > 20
    assert len({record["answers"]["raw"][0] for record in result.records}) > 5


def test_conversations_are_those_of_the_hugging_face_backend(exported: Path, model: Model, tasks: Path) -> None:
    lm = HFLM(str(exported), device="cpu", dtype="float32", softmax_dtype="float64", batch_size=3)
    options = {"num_fewshot": 1, "system_instruction": "Be brief."}
    found = theirs(lm, tasks, ["choice", "writing"], apply_chat_template=True, limit=5, **options)
    asked = Options(tasks, limit=5, num_fewshot=1, chat=True, system="Be brief.")
    for result in run_tasks(model, ["choice", "writing"], asked):
        compare(result, found)
        prompt = result.records[0]["requests"][0]["prompt"]
        assert prompt.startswith("<｜begin▁of▁sentence｜>Be brief.<｜User｜>")  # noqa: RUF001
        assert result.records[0]["requests"][0]["prompt_ids"].count(3) <= 2


def test_through_the_server(model: Model, exported: Path, tasks: Path) -> None:
    """The harness's client for servers counts a drawn token into the context, so that its texts are cut one earlier."""
    pytest.importorskip("tenacity")
    from lm_eval.models.openai_completions import LocalCompletionsAPI

    with serving(model) as served:
        lm = LocalCompletionsAPI(
            base_url=served.url + "/v1/completions", model="model", tokenizer=str(exported), batch_size=4,
            tokenizer_backend="huggingface", max_length=CONTEXT,
        )  # fmt: skip
        found = theirs(lm, tasks, [*TASKS])
    for result in run_tasks(model, ["choice", "rolling"], Options(tasks), Setup(max_length=CONTEXT - 2)):
        compare(result, found)
    for result in run_tasks(model, ["writing"], Options(tasks), Setup(max_length=CONTEXT - 1)):
        compare(result, found)


# --- What is refused --------------------------------------------------------------------------------------------------


@pytest.fixture
def task(tasks: Path, tmp_path: Path) -> Any:
    """Writes a task with some lines changed, and tells where."""

    def write(base: str, **lines: str) -> Path:
        text = (tasks / f"{base}.yaml").read_text(encoding="utf-8").replace(f"task: {base}", "task: changed")
        kept = [line for line in text.splitlines() if line.split(":")[0] not in lines]
        (tmp_path / "changed.yaml").write_text(
            "\n".join(kept + [f"{k}: {v}" for k, v in lines.items()]), encoding="utf-8"
        )
        return tmp_path

    return write


def run(model: Model, folder: Path, **options: Any) -> list[TaskResult]:
    return list(run_tasks(model, ["changed"], Options(folder, **options)))


def test_an_unknown_task_is_told_with_the_nearest_name(
    model: Model, tasks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The harness's own tasks are left out: reading their names takes ten seconds."""
    own = TaskManager(include_path=str(tasks), include_defaults=False)
    monkeypatch.setattr("lm_eval.tasks.TaskManager", lambda **_: own)
    with pytest.raises(UserError, match=r"no task is called 'choise' \(did you mean \"choice\"\?\)"):
        list(evaluate_harness(model, ["likely", "choise"], Options(tasks)))
    with pytest.raises(UserError, match="no task: name at least one"):
        list(evaluate_harness(model, []))
    with pytest.raises(UserError, match="nowhere: no such folder"):
        list(evaluate_harness(model, ["choice"], Options(Path("nowhere"))))


def test_data_that_are_not_here_are_told_and_nothing_is_fetched(model: Model, task: Any, tmp_path: Path) -> None:
    elsewhere = {"dataset_path": "someone/something", "dataset_kwargs": "{}"}
    for lines in (elsewhere, {"dataset_kwargs": "{data_files: {test: no.jsonl}}"}):
        with pytest.raises(
            UserError, match=r"task changed: its data are not here: .*: allow the download, or name files"
        ):
            run(model, task("choice", **lines))
    (tmp_path / "fetching.py").write_text(
        "import urllib.request\ndef fetch(**_):\n    urllib.request.urlopen('http://127.0.0.1:9/')\n"
    )
    with pytest.raises(UserError, match=r"the network is not to be used"):
        run(model, task("choice", custom_dataset="!function fetching.fetch"))
    with pytest.raises(UserError, match=r"Connection refused.*see whether they are there"):
        run(model, task("choice", custom_dataset="!function fetching.fetch"), allow_download=True)


def test_no_socket_connects_without_leave() -> None:
    import datasets

    before = datasets.config.HF_HUB_OFFLINE
    with socket.create_server(("127.0.0.1", 0)) as listener:
        with offline():
            assert datasets.config.HF_HUB_OFFLINE is True
            for connect in (socket.socket().connect, socket.socket().connect_ex):
                with pytest.raises(NoNetworkError):
                    connect(listener.getsockname())
        socket.create_connection(listener.getsockname()).close()
    assert before is datasets.config.HF_HUB_OFFLINE


def test_tasks_that_do_not_suit_are_refused(model: Model, task: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="runs code that the model writes"):
        run(model, task("writing", unsafe_code="true"))
    (tmp_path / "needing.py").write_text("import nobody_has_this\n")
    with pytest.raises(UserError, match=r"needs a package that is not here: .*nobody_has_this"):
        run(model, task("choice", process_docs="!function needing.x"))
    with pytest.raises(UserError, match="task changed, document 1: an empty continuation"):
        run(model, task("likely", doc_to_choice="\"{{['a', '' if right == 1 else 'b']}}\""))
    with pytest.raises(UserError, match=r"task changed cannot be loaded: ValueError: malformed"):
        run(model, task("likely", doc_to_choice="no_such_column", doc_to_target="no_such_column"))
    with pytest.raises(UserError, match="num_beams = 4: not supported"):
        run(model, task("writing", generation_kwargs="{until: [x], num_beams: 4, max_gen_toks: 3}"))
    with pytest.raises(UserError, match="asks for 256 tokens, and the model's context has 96: set max_gen_toks"):
        run(model, task("writing", generation_kwargs="{until: [x]}"))
    with pytest.raises(UserError, match="context 96: the task does not suit"):
        run(model, task("likely", doc_to_choice="\"{{['a', 'a b' * 200]}}\""))
    with pytest.raises(UserError, match="max_length = 97: use 2 to 96"):
        EngineLM(model, Setup(max_length=97))


def test_without_the_extra(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.metadata as metadata

    def missing(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", missing)
    with pytest.raises(UserError, match=r"pip install 'clearseek\[evaluate\]'"):
        list(evaluate_harness(model, ["choice"]))


# --- What is done -----------------------------------------------------------------------------------------------------


def test_samples_are_drawn_by_seed_and_repeats_differ(model: Model, task: Any) -> None:
    drawing = task("writing", generation_kwargs="{until: [], temperature: 1.0, max_gen_toks: 8}", repeats="3")
    first, again = (list(evaluate_harness(model, ["changed"], Options(drawing, limit=2))) for _ in range(2))
    assert first == again
    assert [len(record["requests"]) for record in first] == [3, 3]
    assert len({request["text"] for record in first for request in record["requests"]}) == 6
    other = list(evaluate_harness(model, ["changed"], Options(drawing, limit=2), Setup(seed=100)))
    assert other[0]["requests"][0]["ids"] != first[0]["requests"][0]["ids"]


def test_shared_examples_are_read_once(model: Model, task: Any) -> None:
    """Two examples come before each question; each step's tokens are counted."""
    adapter = EngineLM(model)
    lines = {"doc_to_text": '"{{question[:9]}}"', "doc_to_choice": '["a", "b"]', "fewshot_config": "{sampler: first_n}"}
    theirs(adapter, task("choice", **lines), ["changed"])
    read = [(*each.prompt, *each.tokens)[:-1] for raws in adapter.raw.values() for each in raws[0]]
    assert adapter.counts.read == len({tokens[:n] for tokens in read for n in range(1, len(tokens) + 1)})
    assert adapter.counts.read < sum(map(len, read)) / 2


# --- In an evaluation's folder ----------------------------------------------------------------------------------------


def evaluated(model: Model, tasks: Path, folder: Path) -> Index:
    answerer = Local(model)
    index = Index(model=answerer.model, tasks={})
    evaluate_tasks(answerer, ["choice", "likely", "rolling", "writing"], Options(tasks), folder, index)
    return index


def test_an_evaluation_holds_the_harness_records_and_ends_in_the_same_bytes(
    model: Model, tasks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = evaluated(model, tasks, tmp_path / "first")
    found = list(faults(tmp_path / "first"))
    assert len(found) == 4 and all("which is not run again here" in what for what in found)
    scores = {name: task.scores for name, task in index.tasks.items()}
    results = {f"harness:{each.task}": each for each in run_tasks(model, [*TASKS], Options(tasks))}
    for name in ("harness:choice", "harness:likely"):
        assert scores[name]["score"] == results[name].metrics["acc,none"]
    assert scores["harness:rolling"]["score"] == pytest.approx(results["harness:rolling"].metrics["bits_per_byte,none"])
    text = (tmp_path / "first" / "index.json").read_text() + "".join(map(str, results))
    assert str(tasks) not in text

    evaluated(model, tasks, tmp_path / "second")
    torn = tmp_path / "second" / index.tasks["harness:likely"].file
    torn.write_bytes(torn.read_bytes()[:-7])
    run = Session.run
    monkeypatch.setattr(Session, "run", lambda self, name: run(self, name) if name == "likely" else pytest.fail(name))
    evaluated(model, tasks, tmp_path / "second")
    for file in (tmp_path / "first").iterdir():
        assert file.read_bytes() == (tmp_path / "second" / file.name).read_bytes()


@pytest.mark.parametrize(
    ("task", "change", "told"),
    [
        ("choice", lambda r: r | {"score": 1.0 - r["score"]}, "is not that of what the harness measured"),
        ("writing", lambda r: r | {"output": "other"}, "is not that of what the harness measured"),
        ("choice", lambda r: edited(r, "requests", 0, "logprobs", [-1.0]), "whose tokens have another"),
        ("likely", lambda r: edited(r, "target", 1), "log-likelihoods and target say otherwise"),
        ("rolling", lambda r: edited(r, "metrics", "none", "bits_per_byte", [-1.0, 9]), "do not give"),
        ("rolling", lambda r: r | {"harness": None}, "not what the harness gives: KeyError"),
    ],
)
def test_records_that_contradict_themselves_are_told(
    task: str, change: Any, told: str, model: Model, tasks: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.getbasetemp() / "kept"
    if not folder.exists():
        evaluated(model, tasks, folder)
    head, records, _ = read_records(folder / file_name(f"harness:{task}"))
    assert not list(harness_faults(head, records))
    for number in range(3):
        made = change(records[number].model_dump(mode="json"))
        if made["harness"] is not None and made["harness"] != records[number].harness:  # and all that follows from it
            metric = str(head.settings["filter"]), str(head.settings["metric"])
            made = _recorded(number, made["harness"], metric).model_dump(mode="json")
        changed = [*records[:number], Record.model_validate(made), *records[number + 1 :]]
        found = list(harness_faults(head, changed))
        assert [line for line, _ in found] == [number + 2] and told in found[0][1], found


def edited(record: dict[str, Any], *path: Any) -> dict[str, Any]:
    """The record with another value deep in what the harness measured."""
    *place, last, value = path
    copy = json.loads(json.dumps(record))
    inner = copy["harness"]
    for key in place:
        inner = inner[key]
    inner[last] = value
    return copy
