"""Completions are those of the model that is trained."""

from __future__ import annotations

import hashlib
import itertools

import torch

from clearseek.config import LoraConfig
from clearseek.inference.request import Settings
from clearseek.model.lora import merge
from clearseek.model.transformer import DeepSeekModel
from clearseek.posttrain.lora import add_lora
from clearseek.posttrain.rollouts import seed_of, write_completions
from tests.tiny import tiny


def test_every_address_has_a_seed_of_its_own() -> None:
    """Addresses of one spelling without the gaps, too: 1, 23, 4 is not 12, 3, 4."""
    assert seed_of(1, 23, 4) == int.from_bytes(hashlib.sha256(b"rollout 1 23 4").digest()[:8], "little") // 2
    parts = (-1, 0, 1, 2, 11, 12, 112)
    addresses = [address for size in (2, 3, 4) for address in itertools.product(parts, repeat=size)]
    seeds = {seed_of(*address) for address in addresses}
    assert len(seeds) == len(addresses) and all(0 <= seed < 2**63 for seed in seeds)


def test_a_model_with_adapters_writes_with_them() -> None:
    """What it writes is what it writes once they are merged, and the log-probabilities are its own."""
    model = DeepSeekModel(tiny().model)
    model.initialise(0)
    prompts, settings = [[1, 2, 3], [4, 5]], Settings(max_tokens=12)
    before = write_completions(model, prompts, [0, 1], [5, 6], settings)
    generator = torch.Generator().manual_seed(1)
    for name, parameter in add_lora(model, LoraConfig(rank=4), seed=1):
        if name.endswith("lora_B"):
            parameter.data.normal_(0.0, 0.3, generator=generator)
    found = write_completions(model, prompts, [0, 1], [5, 6], settings)
    assert [each.tokens.tolist() for each in found] != [each.tokens.tolist() for each in before]
    for prompt, each in zip(prompts, found, strict=True):
        tokens = torch.tensor([prompt + each.tokens.tolist()])
        logp_TV = model.logits(tokens)[0, len(prompt) - 1 : -1].log_softmax(-1)
        own_T = logp_TV.gather(1, torch.from_numpy(each.tokens).unsqueeze(1)).squeeze(1)
        torch.testing.assert_close(own_T.detach(), torch.from_numpy(each.logp).float(), rtol=1e-4, atol=1e-4)
    merged = write_completions(merge(model), prompts, [0, 1], [5, 6], settings)
    assert [each.tokens.tolist() for each in merged] == [each.tokens.tolist() for each in found]
