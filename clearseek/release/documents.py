# ruff: noqa: E501  (the documents' lines are filled in, and as long as their facts)
"""The words of a release: card, report, data card, summaries, each figure from the run."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clearseek.audit.render.croissant import dataset
from clearseek.counts import count_parameters, flops_per_token
from clearseek.signing.hashing import hash_files
from clearseek.signing.tree import walk
from clearseek.train.record import LOSS

if TYPE_CHECKING:
    from clearseek.release.gather import Made


def all_documents(made: Made, place: Path) -> dict[str, str]:
    """Path -> text of every document."""
    evaluation = json.dumps(made.evaluation, indent=1) + "\n"
    return {
        "README.md": card(made),
        "REPORT.md": report(made),
        "data/README.md": data_card(made),
        "data/croissant.json": json.dumps(croissant(made, place / "data"), indent=1) + "\n",
        "data/training-content-summary.md": content_summary(made),
        "evaluation/held_out.json": evaluation,
    }


def figure(count: int) -> str:
    """A count as cards write it, exact enough to be told from its neighbours: ``12.40M``."""
    return f"{count / 1e9:.2f}B" if count >= 1e9 else f"{count / 1e6:.2f}M"


def card(made: Made) -> str:
    """README.md."""
    count, recipe = count_parameters(made.recipe.model), made.recipe
    tokens = made.transcript.steps[-1].tokens
    mtp = f" A multi-token-prediction module has {figure(count.mtp)} parameters of its own." if count.mtp else ""
    licences = ", ".join(f"{name} ({number:,} documents)" for name, number in sorted(made.data.licences.items()))
    return f"""---
license: apache-2.0
library_name: transformers
pipeline_tag: text-generation
tags:
- {recipe.model.model_type}
- clearseek
---
# {made.name}

## Model

{made.name} is a mixture-of-experts language model of DeepSeek-V3's architecture with {figure(count.total)} total parameters
with {figure(count.activated_without_embedding)} activated for each token (without the look-up of the embedding).{mtp} It was
trained with ClearSeek by the recipe `{recipe.name}`.

Everything that made it is in this repository: [code](code), [data](data), [recipe, transcript and software](training),
[checkpoints with optimiser state](checkpoints), [raw evaluation](evaluation). `clearseek verify` trains parts of it again
and compares bits.

{_provider(made)}## Usage

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("{made.name}")
tokenizer = AutoTokenizer.from_pretrained("{made.name}")
```

## Training

{recipe.train.steps:,} steps of {recipe.train.batch_size} sequences of {recipe.data.sequence_length} tokens with
{recipe.optimizer.name}, {tokens:,} tokens in all; the report is [REPORT.md](REPORT.md). Source of the data:
{made.data.source}, {made.data.train.documents:,} documents; see [the data card](data/README.md).

## Evaluation

{_scores(made)}

## Limitations

It is small and saw {tokens:,} tokens of one kind of text: it completes such text and knows nothing else. It was not tuned
to follow instructions, and what it writes may be wrong, biased, or a copy of its data.

## License

The model weights are licensed under the [Apache License 2.0](LICENSE). The code is licensed under the Apache License 2.0.
The documents are licensed under the Apache License 2.0. The data keep the licences of their sources: {licences}.
"""


def _provider(made: Made) -> str:
    return f"Published by {made.provider}.\n\n" if made.provider else ""


def _scores(made: Made) -> str:
    if not made.evaluation:
        return "Nothing was held out, so nothing was measured."
    rows = [f"| {made.name} | {made.evaluation['bits_per_byte']:.3f} |"]
    rows += [f"| {name} | {value:.3f} |" for name, value in made.evaluation["compressors"].items()]
    head = f"| on {made.evaluation['bytes']:,} held-out bytes | bits per byte |\n|---|---|\n"
    return (
        head
        + "\n".join(rows)
        + "\n\nRaw results, window by window: [evaluation/held_out.json](evaluation/held_out.json)."
    )


def report(made: Made) -> str:
    """REPORT.md: the technical report."""
    recipe, steps = made.recipe, made.transcript.steps
    count = count_parameters(recipe.model)
    flops = flops_per_token(recipe.model, recipe.data.sequence_length) * steps[-1].tokens
    environment = made.transcript.header["environment"]
    machine = ", ".join(f"{key} {value}" for key, value in environment.items() if isinstance(value, str | int))
    shown = [steps[n] for n in sorted({0, *(len(steps) * q // 8 for q in range(1, 8)), len(steps) - 1})]
    curve = "\n".join(f"| {step.step} | {step.scalars[LOSS]:.4f} | {step.grad_norm:.3f} |" for step in shown)
    hours = f"{made.seconds / 3600:.3f} hours on one machine" if made.seconds else "not recorded"
    settings = json.dumps(recipe.model_dump(mode="json"), indent=1)
    return f"""# {made.name}: technical report

Written from the run's records by ClearSeek. Every setting is below, and nothing else was set.

## Architecture

DeepSeek-V3's: multi-head latent attention, shared and routed experts balanced without an auxiliary loss, multi-token
prediction. {count.total:,} parameters in the main model, {count.mtp:,} in the multi-token-prediction module;
{count.activated:,} activated with embedding and head, {count.activated_without_embedding:,} without the embedding.

## Data

{made.data.source}: {made.data.train.documents:,} documents, {made.data.train.bytes:,} bytes, {made.data.train.tokens:,} tokens to
train on; {made.data.heldout.documents:,} documents, {made.data.heldout.bytes:,} bytes held out by hash. Fingerprint
`{made.data.fingerprint}`. The batch of a step is a function of fingerprint, seed and step.

## Training

{steps[-1].tokens:,} tokens, {flops:.3e} operations, {hours}.

| step | loss | gradient norm |
|---|---|---|
{curve}

Final weights: SHA-256 `{steps[-1].weights_sha256}`. Last line of the transcript: `{made.transcript.head}`.

## Environment

{machine}. All packages: `training/requirements.lock`.

## Settings

```json
{settings}
```
"""


def data_card(made: Made) -> str:
    """data/README.md."""
    data = made.data
    licences = "\n".join(f"| {name} | {number:,} |" for name, number in sorted(data.licences.items()))
    files = "\n".join(f"| {entry.name} | {entry.bytes:,} | {entry.sha256} |" for entry in data.files)
    return f"""# Data of {made.name}

## What it is

All data the model was trained on, and what was held out: {data.train.documents + data.heldout.documents:,} documents from
`{data.source}`, as tokens, with the tokenizer. `documents.jsonl` names every document with its SHA-256, licence, size
and split. Fingerprint: `{data.fingerprint}`.

## How it was made

`training/recipe.json` says what was read; `clearseek data` reads it again. {data.duplicates:,} duplicates by bytes were
dropped, {data.left_out:,} unusable documents left out. Documents are held out by the hash of their bytes. Versions:
{", ".join(f"{name} {version}" for name, version in sorted(data.versions.items()))}.

## Licences

| licence | documents |
|---|---|
{licences}

## Copyright policy

Only the sources named here were read, under the licences in the table. Nothing was crawled, so no opt-out applied.

## Files

| file | bytes | SHA-256 |
|---|---|---|
{files}
"""


def croissant(made: Made, folder: Path) -> dict[str, Any]:
    """Croissant metadata of the data, with true hashes."""
    name = f"{made.name} training data"
    return dataset(
        name,
        f"Tokens, tokenizer and list of documents that {made.name} was trained on.",
        hash_files(folder, walk(folder).files),
        licences=made.data.licences,
        citation=f"{name}, fingerprint {made.data.fingerprint}",
        creator=f"{made.name} authors",
        published=datetime.now(UTC).date().isoformat(),
    )


def content_summary(made: Made) -> str:
    """The summary of training content that the AI Act asks for (article 53(1)(d)), from the data's manifest.

    What no run records, the provider and the languages, stands there only if the publisher said it.
    """
    data = made.data
    interpreter = data.config.source == "python-stdlib"
    kind = "source code of programs and its comments" if interpreter else "the texts that the recipe's source names"
    rows = {
        "1.1 provider": made.provider or "not stated",
        "1.2 model": f"{made.name}, recipe {made.recipe.name}; trained from random weights, from no other model",
        "1.3 modality and size": f"text, {_band(data.train.tokens)} ({data.train.tokens:,})",
        "1.3 types of content": f"{kind}; documents.jsonl lists every document",
        "1.3 latest acquisition": f"{datetime.now(UTC):%m/%Y} at the latest",
        "1.3 languages": made.languages or "not stated",
        "2.1 public data sets": f"{data.source}: {data.train.documents:,} documents, {data.train.bytes:,} bytes; the tokens are here",
        "2.2 private data sets": "none",
        "2.3 crawled data": "none: nothing was crawled",
        "2.4 user data": "none",
        "2.5 synthetic data": "none was generated for this run; what the sources hold was not looked into",
        "2.6 other data": "none",
        "3.1 reservations of rights": "sources are read under the licences listed in README.md; nothing was crawled",
        "3.2 illegal content": "no filter: the sources are published software, or files that the provider chose",
        "3.3 other information": f"{data.duplicates:,} duplicates and {data.left_out:,} unusable documents left out",
    }
    table = "\n".join(f"| {field} | {' '.join(text.split()).replace('|', '/')} |" for field, text in rows.items())
    return f"""# Summary of training content

After the template of the European Commission for article 53(1)(d) of Regulation (EU) 2024/1689; figures are derived from
`manifest.json`.

| field | value |
|---|---|
{table}
"""


def _band(tokens: int) -> str:
    """The template's band of size for text."""
    if tokens < 1e9:
        return "less than 1 billion tokens"
    return "1 billion to 10 trillion tokens" if tokens <= 1e13 else "more than 10 trillion tokens"
