"""A small release to audit: a real checkpoint with a card that tells the truth, to be spoiled by the tests."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clearseek.audit.audit import audit_release
from clearseek.audit.evidence import Audit
from clearseek.config import ModelConfig
from clearseek.counts import count_parameters
from clearseek.hub.config_json import hf_config
from clearseek.hub.safetensors import build_header
from clearseek.reading.source import Folder
from clearseek.signing.hashing import hash_files
from clearseek.signing.keys import PublicKey
from clearseek.signing.manifest import MANIFEST, check, read
from clearseek.tensors import StoredTensor, tensors
from tests.published import published

LICENCES = Path(__file__).parents[1] / "clearseek/licences/texts"
CONFIG = ModelConfig(
    vocab_size=320, hidden_size=32, num_hidden_layers=3, num_attention_heads=2, q_lora_rank=24, kv_lora_rank=16,
    qk_nope_head_dim=8, qk_rope_head_dim=4, v_head_dim=12, intermediate_size=40, moe_intermediate_size=20,
    n_routed_experts=8, n_group=1, topk_group=1, num_experts_per_tok=2, first_k_dense_replace=1,
    max_position_embeddings=64,
)  # fmt: skip


def fixture(name: str) -> Path:
    """A folder of published files; the test is skipped where it is absent."""
    return published(name)


def millions(count: int) -> str:
    """As a card writes it."""
    return f"{count / 1e6:.3f}M"


def card(**changes: str) -> str:
    """A model card whose figures are right."""
    count = count_parameters(CONFIG)
    facts = {
        "total": millions(count.total),
        "activated": millions(count.activated_without_embedding),
        "license": "mit",
        "extra": "",
    } | changes
    return f"""---
license: {facts["license"]}
language: en
---
# Tiny

## Introduction

Tiny is a mixture-of-experts model with {facts["total"]} total parameters with {facts["activated"]} activated.

## Usage

Load it with transformers.

## Training

It was trained on a text.

## Evaluation

| Benchmark | Tiny |
|---|---|
| GSM8K (Acc.) | 0.3 |

## Limitations

Many.

## License

The model weights are licensed under the [MIT License](LICENSE). This code is licensed under the MIT License.
{facts["extra"]}
"""


def write_weights(file: Path, config: ModelConfig = CONFIG, seed: int = 0) -> None:
    """BF16 weights, any finite numbers."""
    rng = np.random.default_rng(seed)
    specs = list(tensors(config))
    header = build_header([StoredTensor(spec.name, spec.dtype, spec.shape) for spec in specs], None)
    whole = bytearray(header.raw)
    for entry in header.entries:
        numbers = rng.standard_normal(entry.size // (2 if entry.dtype == "BF16" else 4)).astype(np.float32)
        short = (numbers.view(np.uint32) >> 16).astype(np.uint16)
        whole += short.tobytes() if entry.dtype == "BF16" else numbers.tobytes()
    file.write_bytes(whole)


def make_release(folder: Path) -> Path:
    """Write the release."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(hf_config(CONFIG, "bfloat16", 0, 1, 2)))
    (folder / "README.md").write_text(card(), encoding="utf-8")
    mit = (LICENCES / "MIT.txt").read_text(encoding="utf-8")
    (folder / "LICENSE").write_text(mit.replace("[year] [fullname]", "2026 Somebody"), encoding="utf-8")
    vocabulary = {f"t{number}": number for number in range(CONFIG.vocab_size)}
    (folder / "tokenizer.json").write_text(
        json.dumps({"model": {"type": "BPE", "vocab": vocabulary}, "added_tokens": []})
    )
    settings = {"bos_token": "t0", "eos_token": "t1", "pad_token": "t2", "model_max_length": 64}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    write_weights(folder / "model.safetensors")
    return folder


def audited(folder: Path, name: str = "Tiny", hashes: bool = True) -> Audit:
    """Audit a folder with its files hashed."""
    source = Folder(folder)
    if hashes:
        source.hashes.update(hash_files(folder, source.tree.files))
    return audit_release(source, name)


def compared(folder: Path, *trusted: PublicKey) -> Audit:
    """The audit of a ClearSeek release, as level 1 of a verification compares it with the release's records."""
    from clearseek.verify.static import static_audit

    source = Folder(folder)
    source.hashes.update(hash_files(folder, source.tree.files))
    intact = (folder / MANIFEST).is_file() and not check(folder, read(folder))[0]
    return static_audit(source, trusted, intact)


def edit_json(file: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change a JSON file in place."""
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def valid_bills(folder: Path) -> Any:
    """The objects of a release's SPDX bill, after it and the CycloneDX one were validated by their own projects."""
    validation = pytest.importorskip("cyclonedx.validation.json", reason="cyclonedx-python-lib is not installed")
    schema = pytest.importorskip("cyclonedx.schema")
    spdx = pytest.importorskip("spdx_python_model", reason="spdx-python-model is not installed").v3_0_1
    validator = validation.JsonStrictValidator(schema.SchemaVersion.V1_6)
    assert validator.validate_str((folder / "bom.cdx.json").read_text()) is None
    with (folder / "bom.spdx.json").open("rb") as file:
        objects = spdx.SHACLObjectSet()
        spdx.JSONLDDeserializer().read(file, objects)
    return objects
