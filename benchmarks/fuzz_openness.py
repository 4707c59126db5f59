"""Strangers' files against every parser of the audit: each case is read or refused in words, and quickly.

``python benchmarks/fuzz_openness.py --cases 25000`` gives each parser so many cases by hypothesis: sound files with
bytes flipped, cut, repeated and spliced, and free text. A case fails on any exception but UserError, and on more than
two seconds of processor time. Writes ``benchmarks/results/fuzz_openness.json``.
"""

from __future__ import annotations

import argparse
import io
import pickle
import resource
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from record import write_result

from clearseek.audit.checks import data, documents, evaluations, licence
from clearseek.audit.checks.evaluations import listed_scores, score_cells
from clearseek.audit.checks.template import problem
from clearseek.errors import UserError
from clearseek.filetypes import read_pointer
from clearseek.hub.safetensors import build_header, parse_header
from clearseek.jsontext import strict_json
from clearseek.licences.match import identify
from clearseek.reading.archive import members
from clearseek.reading.card import Document, read_yaml
from clearseek.reading.claims import find_claims
from clearseek.reading.identity import identify as identify_model
from clearseek.reading.pickles import is_pickle
from clearseek.reading.program import read_program
from clearseek.reading.repositories import repositories
from clearseek.reading.source import Folder
from clearseek.reading.subject import Subject
from clearseek.signing.dsse import verify_statement
from clearseek.signing.keys import load_public_key
from clearseek.signing.manifest import Entry, Manifest, parse
from clearseek.tensors import StoredTensor
from clearseek.train.transcript import check_transcript

RESULT = Path(__file__).parent / "results" / "fuzz_openness.json"
LONGEST_SECONDS = 2.0
SAID = """---
base_model: lab/Base-7B
license: mit
tags: [arxiv:2501.00001]
---
# Tiny
The code is under MIT, the weights under [Acme terms](LICENSE); no commercial use of the model.

Tiny was pre-trained on our [Broth](https://huggingface.co/datasets/lab/broth), a sample of our data; see our
[paper](https://arxiv.org/abs/2501.00001), LoRA ([paper](https://arxiv.org/abs/2106.09685)) and `data/train.jsonl`.
We cannot release the training data. Udon-7B was trained on [Wheat](https://huggingface.co/datasets/u/w):
- [x](https://zenodo.org/records/1) load_dataset("a/b"), MMLU: 61.2, 70 % on GSM8K
| Training data | [hub](https://huggingface.co/datasets/lab/x) |
|---|---|
| MMLU (5-shot) | 61.2 |
@article{a, title={Tiny: soups}, journal={arXiv preprint arXiv:2501.00001}}
"""
CARD = """---
license: mit
datasets: [a/b]
---
# Tiny
We present Tiny with 671B total parameters with 37B activated, trained on 14.8T tokens in 2.788M H800 GPU hours at $2.
| Model | #Total Params | Context Length |
|---|---|---|
| Tiny | 671B | 128K |
The weights are licensed under the [MIT License](LICENSE). See https://arxiv.org/abs/1.
<table><tr><th>Model</th><th colspan="2">MMLU</th></tr>
<tr><td rowspan=2><b>Tiny</b></td><td>1</td><td><a href="https://hf.co/lab/Tiny"><img src="b.svg" alt="x"></a>
</table>

- [![badge](https://b.example/a.svg)](https://github.com/lab/tiny) *one* **two** `hf download lab/Tiny-7B`
- [reference][r] <https://auto.example> <!-- hidden -->

```py
AutoModel.from_pretrained("lab/Tiny")
```
[r]: https://r.example "title"
"""
HEADER = build_header([StoredTensor("a", "BF16", (2, 3)), StoredTensor("b", "F32", (4,))], {"format": "pt"}).raw
INDEX = b'{"metadata": {"total_size": 28}, "weight_map": {"a": "model.safetensors", "b": "model.safetensors"}}'
TEMPLATE = b"{% for m in messages %}{% generation %}{{ m['content'] | trim }}{% endgeneration %}{% endfor %}{# x #}"
STEP = b'{"balance":[],"grad_norm":"0x1p+0","loss":"0x1p+1","prev":"%s","step":1,"tokens":8}'


def corpus() -> dict[str, list[bytes]]:
    """A sound file or more for each parser."""
    texts = Path(__file__).parents[1] / "clearseek/licences/texts"
    licences = [(texts / f"{name}.txt").read_bytes() for name in ("MIT", "ISC", "BSD-3-Clause", "Apache-2.0")]
    manifest = Manifest((Entry("a/b", 3, "0" * 64), Entry("c", 5, "1" * 64))).to_bytes()
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        info = tarfile.TarInfo("a/pyproject.toml")
        info.size = 4
        archive.addfile(info, io.BytesIO(b"[a]\n"))
    head = b'{"data_fingerprint":"x","format":"clearseek-transcript-2"}'
    from clearseek.files import sha256_bytes

    transcript = head + b"\n" + STEP % sha256_bytes(head).encode() + b"\n"
    bundle = b'{"mediaType":"x","dsseEnvelope":{"payload":"e30=","payloadType":"a","signatures":[{"sig":"AA=="}]}}'
    return {
        "safetensors header": [HEADER],
        "index": [INDEX],
        "card": [CARD.encode()],
        "what a card says": [SAID.encode()],
        "YAML": [b"license: mit\ndatasets:\n- a/b\nx: {y: [1, 2]}\n"],
        "licence": licences,
        "manifest": [manifest],
        "transcript": [transcript],
        "archive": [buffer.getvalue()],
        "signature": [bundle],
        "chat template": [TEMPLATE],
        "pickle": [b"cos\nsystem\n(S'id'\ntR.", pickle.dumps({"a": [1.5, "b"]}, 0), pickle.dumps(UserError("a"), 1)],
        "pointer": [b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"a" * 64 + b"\nsize 9\n"],
        "program": [
            Path(__file__).read_bytes()[:1500],
            b'{"cells": [{"cell_type": "code", "source": ["a = 1  # b"]}]}',
        ],
    }


def parsers(folder: Path) -> dict[str, Callable[[bytes], Any]]:
    """What reads each kind."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    public = ec.generate_private_key(ec.SECP256R1()).public_key()
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    key = load_public_key(public.public_bytes(serialization.Encoding.PEM, form))

    def text(raw: bytes) -> str:
        return raw.decode("utf-8", errors="replace")

    def card(raw: bytes) -> None:
        document = Document("README.md", text(raw))
        list(find_claims(document, "Tiny"))
        list(score_cells(document)), listed_scores(document)
        assert all(
            0 < each.line <= len(document.lines) for each in (*document.sentences, *document.cells, *document.links)
        )
        found = tuple(repositories(document))
        identify_model(document, {}, found, {})
        _ = document.headings, document.metadata

    def said(raw: bytes) -> None:
        (folder / "said").mkdir(exist_ok=True)
        (folder / "said/README.md").write_bytes(raw)
        subject = Subject(Folder(folder / "said"))
        for check in (data, documents, evaluations, licence):
            list(check.rows(subject))

    def transcript(raw: bytes) -> None:
        (folder / "transcript.jsonl").write_bytes(raw)
        check_transcript(folder / "transcript.jsonl")

    def archive(raw: bytes) -> None:
        (folder / "code").mkdir(exist_ok=True)
        (folder / "code/x.tar.gz").write_bytes(raw)
        list(members(Folder(folder), "code/x.tar.gz", 1000))

    return {
        "safetensors header": lambda raw: parse_header(raw, None, "x"),
        "index": lambda raw: strict_json(raw, "x"),
        "card": card,
        "what a card says": said,
        "YAML": lambda raw: read_yaml(text(raw), "x"),
        "licence": lambda raw: identify(text(raw)),
        "manifest": parse,
        "transcript": transcript,
        "archive": archive,
        "signature": lambda raw: verify_statement(raw, key),
        "chat template": lambda raw: problem(text(raw)),
        "pickle": lambda raw: [is_pickle(raw, cut) for cut in (True, False)],
        "pointer": read_pointer,
        "program": lambda raw: [read_program(name, raw) for name in ("a.py", "a.ipynb", "a.sh", "a.yaml", "a.toml")],
    }


def mutated(sound: list[bytes]) -> st.SearchStrategy[bytes]:
    """Sound files, spoiled; and anything."""
    edit = st.tuples(st.integers(0, 4), st.integers(0, 2**16), st.integers(0, 2**16), st.binary(max_size=24))

    def apply(base: bytes, edits: list[tuple[int, int, int, bytes]]) -> bytes:
        raw = bytearray(base)
        for kind, first, second, new in edits:
            place = first % (len(raw) + 1)
            length = second % 64
            if kind == 0 and raw:
                raw[place % len(raw)] ^= 1 << (second % 8)
            elif kind == 1:
                del raw[place : place + length]
            elif kind == 2:
                raw[place:place] = new
            elif kind == 3:
                raw[place:place] = raw[place : place + length] * (1 + second % 50)
            else:
                del raw[place:]
        return bytes(raw)

    spoiled = st.builds(apply, st.sampled_from(sound), st.lists(edit, max_size=6))
    return st.one_of(spoiled, spoiled, spoiled, st.binary(max_size=400), st.text(max_size=400).map(str.encode))


def fuzz(name: str, read: Callable[[bytes], Any], sound: list[bytes], cases: int) -> dict[str, Any]:
    """Run one parser; returns counts."""
    counts: dict[str, Any] = {"cases": 0, "read": 0, "refused": 0, "slowest_seconds": 0.0}

    @settings(
        max_examples=cases, deadline=None, database=None, phases=[Phase.generate], suppress_health_check=[*HealthCheck]
    )
    @given(mutated(sound))
    def run(raw: bytes) -> None:
        begun = time.process_time()
        try:
            read(raw)
            counts["read"] += 1
        except UserError:
            counts["refused"] += 1
        taken = time.process_time() - begun
        counts["cases"] += 1
        counts["slowest_seconds"] = max(counts["slowest_seconds"], taken)
        if taken > LONGEST_SECONDS:
            Path(tempfile.gettempdir(), "slow-case").write_bytes(raw)
        assert taken < LONGEST_SECONDS, f"{name}: {taken:.1f} s"

    run()
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=25_000, help="for each parser")
    parser.add_argument("--only", help="one parser")
    parser.add_argument("--out", type=Path, default=RESULT)
    arguments = parser.parse_args()
    report: dict[str, Any] = {"parsers": {}}
    with tempfile.TemporaryDirectory() as folder:
        sound = corpus()
        for name, read in parsers(Path(folder)).items():
            if arguments.only in (None, name):
                report["parsers"][name] = counts = fuzz(name, read, sound[name], arguments.cases)
                print(f"{name:20} {counts}", flush=True)
    report["cases"] = sum(counts["cases"] for counts in report["parsers"].values())
    report["peak_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(f"{report['cases']:,} cases, {report['peak_bytes'] / 1e6:.0f} MB at most")
    if arguments.only is None:
        write_result(arguments.out, report)


if __name__ == "__main__":
    main()
