"""A truthful release passes; each way to spoil it shows in the row that it concerns, and in no other."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from clearseek.audit.evidence import Audit, Grade
from clearseek.hub.safetensors import parse_header
from tests.published import published
from tests.releases import LICENCES, audited, card, edit_json, fixture, make_release, write_weights

TECHNICAL = (
    "files.inventory", "files.names", "files.execution", "weights.format", "weights.tensors", "weights.dtype",
    "weights.health", "parameters.total", "parameters.activated", "context.length", "tokenizer.vocabulary",
    "tokenizer.special", "licence.agreement", "licence.freedom",
)  # fmt: skip


def test_a_truthful_release_passes(release: Path) -> None:
    found = audited(release)
    assert [row.id for row in found if row.id in TECHNICAL and row.answer != "yes"] == []
    assert all(found[id].grade >= Grade.PRESENT for id in TECHNICAL)
    assert found["weights.final"].answer == "yes"
    assert found["weights.final"].grade == Grade.CHECKED
    assert found["licence.weights"].grade == Grade.CHECKED
    assert found["data.training"].answer == "no"
    assert found["code.training"].answer == "no"


def test_rows_name_places_that_exist(release: Path) -> None:
    for row in audited(release):
        for place in row.evidence:
            assert (release / place.file).exists(), (row.id, place)
            if place.where.startswith("line "):
                line = int(place.where.removeprefix("line ").split(",")[0])
                assert line <= len((release / place.file).read_text(encoding="utf-8").splitlines())


Spoil = Callable[[Path], object]


def flip_exponent(release: Path) -> None:
    """One weight becomes infinite."""
    file = release / "model.safetensors"
    raw = bytearray(file.read_bytes())
    entry = parse_header(bytes(raw[: 8 + int.from_bytes(raw[:8], "little")]), None, "").entries[-1]
    raw[entry.begin : entry.begin + 2] = b"\x80\x7f"
    file.write_bytes(raw)


def twice_in_header(release: Path) -> None:
    file = release / "model.safetensors"
    raw = file.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    name, value = next(iter(json.loads(raw[8 : 8 + length]).items()))
    text = raw[8 : 8 + length].rstrip()[:-1] + f",{json.dumps(name)}:{json.dumps(value)}}}".encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + raw[8 + length :])


def add_pickle(release: Path) -> None:
    (release / "optimizer.pt").write_bytes(b"\x80\x04K\x01.")


def hidden_pickle(release: Path) -> None:
    (release / "notes").write_bytes(b"\x80\x04K\x01.")


def lying_index(release: Path) -> None:
    index = {"metadata": {}, "weight_map": {"model.embed_tokens.weight": "model-00001-of-00002.safetensors"}}
    (release / "model.safetensors.index.json").write_text(json.dumps(index))


def clause(release: Path) -> None:
    file = release / "LICENSE"
    text = file.read_text(encoding="utf-8")
    file.write_text(
        text.replace("THE SOFTWARE IS", "The Software must not be used for military purposes.\n\nTHE SOFTWARE IS")
    )


def cut(release: Path) -> None:
    file = release / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-7])


def other_shape(release: Path) -> None:
    edit_json(release / "config.json", lambda content: content.update(moe_intermediate_size=24))


SPOILT: dict[str, tuple[Spoil, str]] = {
    "wrong total": (lambda r: (r / "README.md").write_text(card(total="9.999M")), "parameters.total"),
    "wrong activated": (lambda r: (r / "README.md").write_text(card(activated="0.001M")), "parameters.activated"),
    "tag of another licence": (lambda r: (r / "README.md").write_text(card(license="apache-2.0")), "licence.agreement"),
    "a clause added": (clause, "licence.freedom"),
    "a pickle": (add_pickle, "files.execution"),
    "a pickle without a name": (hidden_pickle, "files.execution"),
    "auto_map": (
        lambda r: edit_json(r / "config.json", lambda c: c.update(auto_map={"AutoModel": "m.M"})),
        "files.execution",
    ),
    "an index that lies": (lying_index, "weights.format"),
    "a key twice": (twice_in_header, "weights.format"),
    "cut off": (cut, "weights.format"),
    "an infinite weight": (flip_exponent, "weights.health"),
    "another config": (other_shape, "weights.tensors"),
    "another type": (
        lambda r: edit_json(r / "config.json", lambda c: c.update(torch_dtype="float32")),
        "weights.dtype",
    ),
    "another context": (
        lambda r: edit_json(r / "tokenizer_config.json", lambda c: c.update(model_max_length=128)),
        "context.length",
    ),
    "a token too many": (
        lambda r: edit_json(r / "tokenizer.json", lambda c: c["added_tokens"].append({"id": 320, "content": "x"})),
        "tokenizer.vocabulary",
    ),
    "another end": (
        lambda r: edit_json(r / "tokenizer_config.json", lambda c: c.update(eos_token="t7")),
        "tokenizer.special",
    ),
    "a link out": (lambda r: (r / "passwd").symlink_to("/etc/passwd"), "files.names"),
    "a name that cannot be seen": (lambda r: (r / "READ\u200bME.md").write_text("x"), "files.names"),
    "a name that looks alike": (lambda r: (r / "readme.MD").write_text("x"), "files.names"),
    "a pipe": (lambda r: os.mkfifo(r / "pipe"), "files.names"),
}


@pytest.mark.parametrize("kind", SPOILT)
def test_each_way_to_spoil_it_shows_in_its_row(release: Path, kind: str) -> None:
    before = audited(release)
    spoil, row = SPOILT[kind]
    assert before[row].answer == "yes"
    spoil(release)
    after = audited(release)
    assert after[row].answer in ("no", "partly"), after[row]
    assert after[row].reason != before[row].reason
    changed = {each.id for each in before if before[each.id].answer == "yes" and after[each.id].answer != "yes"}
    # What hangs on the same bytes may fall with it; nothing else may.
    hanging = {
        "weights.format": {"weights.final", "weights.tensors", "weights.health", "weights.dtype", "barriers.hardware"},
        "weights.tensors": {"weights.final", "parameters.total", "parameters.activated"},
        "licence.freedom": {
            "licence.weights",
            "licence.code",
            "licence.documents",
            "licence.agreement",
            "barriers.geography",
        },
        "licence.agreement": {"licence.weights"},
        "files.execution": set(),
        "parameters.activated": {"claims.consistent"},
    }
    assert changed - {row} <= hanging.get(row, set())


def test_weights_of_another_seed_in_two_checkpoints_are_different_and_copies_are_not(release: Path) -> None:
    for step, seed in ((10, 1), (20, 2)):
        (release / f"checkpoints/step-{step}").mkdir(parents=True)
        write_weights(release / f"checkpoints/step-{step}/weights.safetensors", seed=seed)
    found = audited(release)
    assert found["weights.trajectory"].answer == "yes"
    assert found["weights.intermediate"].grade == Grade.PRESENT
    write_weights(release / "checkpoints/step-10/weights.safetensors", seed=2)
    assert "step 20 holds the files of step 10" in audited(release)["weights.trajectory"].reason


def test_a_folder_without_anything_is_all_no_or_unknown(tmp_path: Path) -> None:
    found = audited(tmp_path)
    assert not [row.id for row in found.of("definition") if row.answer in ("yes", "partly")]


def test_damaged_files_never_stop_an_audit(release: Path) -> None:
    for file in sorted(release.iterdir()):
        whole = file.read_bytes()
        for damaged in (b"", whole[: len(whole) // 2], b"\xff" * 64, b"{" * 2000, b"[" * 100_000):
            file.write_bytes(damaged)
            audited(release)
        file.write_bytes(whole)
    assert audited(release)["weights.format"].answer == "yes"


def test_auditing_needs_no_torch(release: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from clearseek.cli import main; "
        f"code = main(['audit', {str(release)!r}]); assert 'torch' not in sys.modules; sys.exit(code)"
    )
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)


@pytest.fixture(scope="module")
def v3() -> Audit:
    return audited(fixture("deepseek-v3"), "deepseek-v3")


@pytest.fixture(scope="module")
def r1() -> Audit:
    return audited(fixture("deepseek-r1"), "deepseek-r1")


def test_deepseek_v3_weights_and_documents_but_neither_data_nor_code(v3: Audit) -> None:
    assert (v3["weights.final"].answer, v3["weights.final"].grade) == ("yes", Grade.LINKED)
    assert v3["documents.report"].answer == "yes"
    assert v3["data.training"].answer == "no"
    assert v3["code.complete"].answer == "no"
    assert "described in words" in v3["data.training"].reason
    assert "14.8 trillion" in str(v3["data.training"].evidence[0])


def test_deepseek_v3_parameters(v3: Audit) -> None:
    activated = v3["parameters.activated"]
    assert activated.answer == "partly"
    assert "“36.7B” activated including embedding and head is not" in activated.reason
    assert "37.55B" in activated.reason
    assert "36.63B without the input embedding" in activated.reason
    assert activated.evidence[0].file == "README_WEIGHTS.md"
    assert activated.evidence[0].where == "line 21"
    assert v3["parameters.total"].answer == "yes"
    assert "671.03B" in v3["parameters.total"].reason
    assert v3["parameters.stored"].answer == "yes"
    assert "without eh_proj" in v3["parameters.mtp"].reason


def test_deepseek_v3_licences(v3: Audit) -> None:
    published("deepseek-v3/LICENSE-MODEL")
    weights = v3["licence.weights"]
    assert weights.answer == "no"
    assert "RAIL family" in weights.reason
    assert any("You agree not to use the Model" in place.quote for place in weights.evidence)
    assert v3["licence.code"].answer == "yes"
    assert "MIT" in v3["licence.code"].reason
    assert v3["licence.freedom"].answer == "no"


def test_deepseek_v3_cost(v3: Audit) -> None:
    price = v3["cost.price"]
    assert price.answer == "yes"
    assert "$5.576M" in price.reason
    assert "final run only" in price.reason
    assert "39.1 %" in v3["cost.compute"].reason
    assert "34.3 % by 6ND" in v3["cost.compute"].reason


@pytest.mark.parametrize(("cost", "answer"), [("$5.576M", "yes"), ("$5.6M", "yes"), ("$5.0M", "no"), ("$4M", "no")])
def test_a_cost_is_hours_times_the_price_as_it_is_written(tmp_path: Path, cost: str, answer: str) -> None:
    text = f"The full training took 2.788M H800 GPU hours; the total cost is {cost} at $2 per GPU hour.\n"
    (tmp_path / "README.md").write_text(f"# Large\n\n{text}")
    assert audited(tmp_path, "Large")["cost.price"].answer == answer


def test_deepseek_r1_licences(r1: Audit) -> None:
    assert r1["licence.weights"].answer == "yes"
    upstream = r1["licence.upstream"]
    assert upstream.answer == "no"
    assert "DeepSeek-R1-Distill-Llama-8B" in upstream.reason
    assert "must begin with “Llama”" in upstream.reason
    assert "Qwen" not in upstream.reason


def test_hub_cache_links_are_followed_and_no_others(tmp_path: Path) -> None:
    real = make_release(tmp_path / "real")
    snapshot = tmp_path / "models--x--Tiny/snapshots/0123456789abcdef0123456789abcdef01234567"
    blobs = tmp_path / "models--x--Tiny/blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for number, file in enumerate(sorted(real.iterdir())):
        blob = blobs / f"{number:040x}"
        blob.write_bytes(file.read_bytes())
        (snapshot / file.name).symlink_to(f"../../blobs/{blob.name}")
    found = audited(snapshot)
    assert found["weights.format"].answer == "yes"
    assert found["files.names"].answer == "yes"
    (snapshot / "more").symlink_to("../../blobs/../../../real/LICENSE")
    assert audited(snapshot)["files.names"].answer == "no"


def test_the_standard_texts_are_found(tmp_path: Path) -> None:
    for text in sorted(LICENCES.glob("[!~]*.txt"))[::4]:
        if "~" in text.stem:  # the short notice of a long licence
            continue
        release = tmp_path / text.stem
        release.mkdir()
        (release / "LICENSE").write_text(text.read_text(encoding="utf-8"), encoding="utf-8")
        (release / "README.md").write_text("# x\n")
        reason = audited(release)["licence.code"].reason
        assert text.stem in reason, reason


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("rope_scaling", {"type": "yarn", "factor": 1e308, "original_max_position_embeddings": 10**300}),
        ("eos_token_id", {"a": []}),
        ("bos_token_id", [[], {}, "x"]),
        ("max_position_embeddings", 10**400),
        ("vocab_size", 10**30),
        ("quantization_config", []),
        ("torch_dtype", [[]]),
    ],
)
def test_settings_of_any_type_never_stop_an_audit(release: Path, key: str, value: object) -> None:
    edit_json(release / "config.json", lambda content: content.update({key: value}))
    audited(release)


def test_a_config_that_no_model_can_have_is_refused_at_once(release: Path) -> None:
    edit_json(release / "config.json", lambda c: c.update(num_hidden_layers=100_000, n_routed_experts=100_000))
    assert "no such model is looked at" in audited(release)["weights.tensors"].reason


def test_long_lines_take_no_time(release: Path) -> None:
    (release / "README.md").write_text("# a\n" + ("a is " * 2000 + "\n") * 300)
    start = time.process_time()
    audited(release)
    assert time.process_time() - start < 20


def test_prose_that_is_too_much_is_counted_and_left(release: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (release / "docs").mkdir()
    for number in range(5):
        (release / f"docs/{number}.md").write_text(f"page {number} " * 100)
    (release / "docs/2.md").write_text("Tiny has 5B parameters.")
    assert "text files" not in audited(release)["files.inventory"].reason
    monkeypatch.setattr("clearseek.reading.source.MOST_TEXT", (release / "README.md").stat().st_size + 2000)
    assert "2 text files, from docs/3.md on, are more than is read" in audited(release)["files.inventory"].reason
    monkeypatch.setattr("clearseek.reading.source.MOST_TEXTS", 2)
    assert "4 text files, from docs/1.md on, are more than is read" in audited(release)["files.inventory"].reason
