"""Answers of our engine beside PyTorch's forward pass of the same weights, and alone beside in a crowd."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from clearseek.config import ModelConfig
from clearseek.data.tokenizer import Tokenizer, train
from clearseek.errors import UserError
from clearseek.evaluate.answerers import Answered, Asked, Local
from clearseek.evaluate.check import faults
from clearseek.evaluate.evaluation import bits, evaluate, wanted
from clearseek.evaluate.records import read_records
from clearseek.evaluate.tasks import Asking, Task, build
from clearseek.inference.engine import Engine
from clearseek.inference.model import Model
from clearseek.model.transformer import DeepSeekModel
from tests.serve.served import ids, script

LONGEST = 96
TEXT = "".join(f"the quick brown fox {n} jumps, hello world, how are you {n * n}?\n" for n in range(60))


@pytest.fixture(scope="module")
def network() -> DeepSeekModel:
    config = ModelConfig(
        vocab_size=600, hidden_size=64, num_hidden_layers=3, num_attention_heads=3, q_lora_rank=24, kv_lora_rank=20,
        qk_nope_head_dim=12, qk_rope_head_dim=8, v_head_dim=10, intermediate_size=100, moe_intermediate_size=24,
        n_routed_experts=8, num_experts_per_tok=2, max_position_embeddings=LONGEST, initializer_range=0.2,
        num_nextn_predict_layers=0,
    )  # fmt: skip
    found = DeepSeekModel(config).requires_grad_(False)
    found.initialise(1)
    return found


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train(["hello world, how are you? 12+34=46 " * 50, TEXT], 600)


@pytest.fixture(scope="module")
def model(network: DeepSeekModel, tokenizer: Tokenizer) -> Model:
    return Model.of("tiny", network.config, dict(network.state_dict()), tokenizer, "F32")


def logprobs(network: DeepSeekModel, ids: list[int]) -> list[float]:
    """Log-probability of each token but the first, by the forward pass that trains."""
    logits_TV = network(torch.tensor([ids]))[0].double() @ network.head_weight.double().T
    return logits_TV.log_softmax(-1)[:-1].gather(1, torch.tensor(ids[1:])[:, None])[:, 0].tolist()


def answers(model: Model, task: Task, asking: Asking, chosen: list[Asked] | None = None) -> list[Answered]:
    return list(Local(model).answer(task, asking, wanted(task, asking) if chosen is None else chosen))


def test_what_is_written_is_the_models_own(model: Model, network: DeepSeekModel) -> None:
    task, asking = build("addition", Asking(questions=20)), Asking(questions=20)
    for found in answers(model, task, asking):
        assert found.prompt_ids is not None and found.output_ids is not None and found.logprobs is not None
        whole = found.prompt_ids + found.output_ids
        assert whole[0] == model.tokenizer.bos_id and not found.missing
        assert found.prompt == model.tokenizer.decode(found.prompt_ids)
        of_output = logprobs(network, whole)[len(found.prompt_ids) - 1 :]
        assert found.logprobs == pytest.approx(of_output, abs=1e-5)
        logits_TV = network(torch.tensor([whole]))[0] @ network.head_weight.T
        greedy = logits_TV[len(found.prompt_ids) - 1 : -1].argmax(-1).tolist()
        assert greedy == found.output_ids
        assert found.ended == (len(found.output_ids) < task.max_tokens)


def test_answers_do_not_depend_on_their_neighbours(model: Model) -> None:
    asking = Asking(questions=12, samples=3, temperature=1.0)
    task = build("copying:length=8", asking)
    every = wanted(task, asking)
    together = answers(model, task, asking)
    local = Local(model)
    assert [next(iter(local.answer(task, asking, [each]))) for each in every] == together
    assert [*reversed([*local.answer(task, asking, every[::-1])])] == together
    assert len({found.output for found in together}) > 12  # draws differ


@pytest.mark.parametrize("passage", [40, 400])
def test_bits_are_those_of_the_forward_pass(
    model: Model, network: DeepSeekModel, tokenizer: Tokenizer, passage: int
) -> None:
    """Also where a passage alone is longer than the model's sequences: window by window, half of each as context."""
    asking = Asking(questions=8, texts=[("t", TEXT)])
    task = build(f"bits-per-byte:passage={passage}", asking)
    for asked, found in zip(wanted(task, asking), answers(model, task, asking), strict=True):
        before = [tokenizer.bos_id, *tokenizer.encode(asked.question.prompt)]
        target = tokenizer.encode(asked.question.target)
        assert (
            found.logprobs is not None and len(found.logprobs) == len(target) and found.output == asked.question.target
        )
        if passage == 40:
            ids = (before + target)[-LONGEST:]
            expected = logprobs(network, ids)[-len(target) :]
        else:
            expected, whole, done = [], before + target, len(before)
            assert len(target) > LONGEST
            while done < len(whole):
                end = min(len(whole), done + LONGEST // 2)
                expected += logprobs(network, whole[max(0, end - LONGEST) : end])[done - end :]
                done = end
        assert found.logprobs == pytest.approx(expected, abs=1e-5)
        assert bits(found.logprobs) == pytest.approx(-sum(expected) / math.log(2), rel=1e-6)


def test_a_prompt_that_is_too_long_is_missing(model: Model) -> None:
    asking = Asking(questions=3)
    task = build("induction:pairs=40", asking)
    found = answers(model, task, asking)
    assert all("room for" in each.missing for each in found)
    short = build("induction:pairs=2", asking)
    assert not any(each.missing for each in answers(model, short, asking))


def test_logits_that_are_no_numbers_are_missing(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: Engine, request: object, logits_V: object) -> int:
        raise UserError("the model's logits are not finite")

    monkeypatch.setattr(Engine, "_pick", broken)
    asking = Asking(questions=3)
    assert {each.missing for each in answers(model, build("sums", asking), asking)} == {
        "the model's logits are not finite"
    }


def test_chat_prompts_are_the_templates(model: Model) -> None:
    asking = Asking(questions=2, template="chat")
    task = build("addition", asking)
    for asked, found in zip(wanted(task, asking), answers(model, task, asking), strict=True):
        assert asked.question.chat in found.prompt and found.prompt.count("User") == 1
        assert found.prompt_ids is not None and found.prompt_ids[0] == model.tokenizer.bos_id


def test_a_mark_within_an_answer_is_part_of_it(model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer with a special token in its middle is not the answer without it; and its ids are what was scored."""
    asking = Asking(questions=3, template="chat")
    task = build("addition", asking)
    answer = task.questions[0].answer
    tokens = ids(model.tokenizer, answer[0], "</think>", answer[1:])
    script(monkeypatch, model.tokenizer, tokens)
    index = evaluate(Local(model), [task], asking, tmp_path)
    _, records, _ = read_records(tmp_path / "addition.jsonl")
    assert records[0].output == f"{answer[0]}</think>{answer[1:]}" and index.tasks["addition"].scores["right"] == 0
    assert list(faults(tmp_path, model.tokenizer)) == []


def test_a_stop_text_ends_and_is_left_out(model: Model) -> None:
    asking = Asking(questions=8, temperature=1.0)
    task = replace(build("copying", asking), stops=("e", "o"), max_tokens=40)
    for found in answers(model, task, asking):
        assert "e" not in found.output and "o" not in found.output
