"""Everybody's files, end to end: each input becomes data or ends in one clear error, exit code 2.

The inputs are made here. CLEARSEEK_INPUTS=FOLDER runs those of a folder too: FOLDER/NAME/cmd is the command line as a
JSON list, run in a copy of that folder; OUT stands for a new path; FOLDER/expect.json may give the exit codes (``rc``),
words that must be printed (``words``) and words that must not (``never``).
"""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import random
import shutil
import zipfile
from pathlib import Path
from typing import Any

import pytest

from clearseek import cli
from clearseek.data.decode import check_documents
from clearseek.data.manifest import read_manifest

DRAW = random.Random(3)
WORDS = ["".join(DRAW.choices("abcdefghiklmnoprstuvw", k=DRAW.randint(2, 8))) for _ in range(300)]
TEXTS = [" ".join(DRAW.choices(WORDS, k=30)) + "." for _ in range(60)]
ROWS = [{"text": text} for text in TEXTS]
NOTES = {f"n{number}.txt": text for number, text in enumerate(TEXTS)}
LATIN1_CSV = ("Gr\xf6\xdfe,text\n" + "".join(f"\xf6,{text}\n" for text in TEXTS) + "1,\xf6\n").encode("latin-1")
TALKS = [[{"role": "user", "content": text}, {"role": "assistant", "content": TEXTS[0]}] for text in TEXTS]
POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 1234567\n"
TINY = """name = "tiny"
[model]
vocab_size = 320
hidden_size = 128
num_hidden_layers = 2
num_attention_heads = 2
kv_lora_rank = 32
qk_nope_head_dim = 16
qk_rope_head_dim = 16
v_head_dim = 16
intermediate_size = 128
moe_intermediate_size = 128
n_routed_experts = 4
num_experts_per_tok = 2
max_position_embeddings = 128
[data]
sequence_length = 32
[train]
steps = 20
batch_size = 4
"""


def lines(rows: list[Any], end: str = "\n") -> str:
    return end.join(json.dumps(row, ensure_ascii=False) for row in rows) + end


def zipped(*members: str) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for member in members:
            archive.writestr(member, "content")
    return out.getvalue()


JSONL, CSV, FILES = 'source="jsonl"', 'source="csv"', 'source="files"'
SKIP = 'unusable="skip"'
Case = tuple[dict[Any, Any], list[str], int, str]
"""Files, settings of data, exit code, words that are printed."""
CASES: dict[str, Case] = {
    # one file of text, of any size
    "one small": ({"a.txt": " ".join(TEXTS[:20])}, [FILES], 0, "cut into parts"),
    "one tiny": ({"a.txt": TEXTS[0] * 2 + TEXTS[1] * 2}, [FILES], 0, "cut into parts"),
    "one line of 100 bytes": ({"a.txt": TEXTS[0][:100]}, [FILES], 0, "cut into parts"),
    "no line end": ({"a.txt": " ".join(TEXTS * 30)}, [FILES], 0, "cut into parts"),
    "Windows line ends": ({"a.txt": "\r\n".join(TEXTS)}, [FILES], 0, "cut into parts"),
    "Chinese": ({"a.txt": "".join(chr(0x4E00 + DRAW.randrange(800)) for _ in range(20_000))}, [FILES], 0, "cut"),
    "two files": ({"a.txt": "\n\n".join(TEXTS[:9]), "b.txt": "\n".join(TEXTS[9:])}, [FILES], 0, "cut into parts"),
    # what a file is
    "pointers": (dict.fromkeys(NOTES, POINTER), [FILES], 2, "LFS"),
    "a pointer as JSON": ({"a.jsonl": POINTER}, [JSONL], 2, "LFS"),
    "UTF-16": ({**NOTES, "x.txt": TEXTS[0].encode("utf-16")}, [FILES], 2, "UTF-16"),
    "UTF-16 without a mark": ({**NOTES, "x.txt": TEXTS[0].encode("utf-16-le")}, [FILES], 2, "UTF-16LE"),
    "Latin-1": ({**NOTES, "x.txt": "Größe".encode("latin-1")}, [FILES], 2, "x.txt: not UTF-8 (byte 2)"),
    "Latin-1 skipped": ({**NOTES, "x.txt": "Größe".encode("latin-1")}, [FILES, SKIP], 0, "1 not UTF-8"),
    "a pointer with a mark": ({"a.txt": "\ufeff" + POINTER}, [FILES], 2, "LFS"),
    "zip": ({**NOTES, "x.txt": zipped("a.txt")}, [FILES], 2, "a zip archive"),
    "pictures skipped": ({**NOTES, "x.txt": b"\x89PNG\r\n\x1a\n\0\0"}, [FILES, SKIP], 0, "1 PNG"),
    "spreadsheet": ({"a.xlsx": zipped("[Content_Types].xml")}, [CSV, 'paths=["*.xlsx"]'], 2, "save it as CSV"),
    "HTML": ({**NOTES, "x.txt": "<!DOCTYPE html><html>404</html>"}, [FILES], 0, "1 HTML"),
    "HTML page": ({**NOTES, "page.html": "<!DOCTYPE html><html><p>hello</html>"}, [FILES, 'paths=["*"]'], 0, "1 HTML"),
    "HTML as JSON": ({"a.jsonl": "<html><body>404</body></html>"}, [JSONL], 2, "HTML"),
    "CSV as text": ({**NOTES, "t.csv": "id,text\n1,one"}, [FILES, 'paths=["*.csv", "*.txt"]'], 0, "1 CSV"),
    "a mark": ({name: "\ufeff" + text for name, text in NOTES.items()}, [FILES], 0, "60"),
    "compressed text": ({**NOTES, "x.txt": gzip.compress(b"packed text")}, [FILES], 0, ""),
    "empty file": ({**NOTES, "x.txt": ""}, [FILES], 2, "unusable"),
    "empty file skipped": ({**NOTES, "x.txt": ""}, [FILES, SKIP], 0, "1 empty"),
    # names
    "brackets": ({f"Note [{n}] (alt).txt": text for n, text in enumerate(TEXTS[:2])},
                 [FILES, 'paths=["Note [0] (alt).txt", "Note [1] (alt).txt"]'], 0, ""),
    "Latin-1 name": ({**NOTES, b"Gr\xf6.txt": "one more"}, [FILES], 0, ""),
    "Latin-1 name of no text": ({**NOTES, b"Gr\xf6.txt": b"\xff"}, [FILES], 2, "Gr\\xf6.txt"),
    "line end in a name": ({**NOTES, 'a\nb "c".txt': "one more"}, [FILES], 0, ""),
    "escapes in a name": ({**NOTES, "\x1b[31mred\n.txt": b"\xff"}, [FILES], 2, "\\x1b[31mred\\x0a.txt: not UTF-8"),
    "NUL in a pattern": (NOTES, [FILES, 'paths=["a\\u0000b"]'], 2, "a\\x00b: data.paths names no file"),
    "a tilde that is no user's home": ({"~$a.txt": " ".join(TEXTS)}, [FILES, 'paths=["~$a.txt"]'], 0, ""),
    "a user that is not there": (NOTES, [FILES, 'paths=["~nosuchuser/a.txt"]'], 2, "~nosuchuser/a.txt: data.paths"),
    "capitals": ({"A.TXT": TEXTS[0], **NOTES}, [FILES], 0, "1 names in other case"),
    "hidden": ({".vault/a.txt": TEXTS[0]}, [FILES, 'paths=["**/*.txt"]'], 2, "hidden files or folders"),
    "folder": ({"notes/a.txt": TEXTS[0]}, [FILES, 'paths=["notes"]'], 2, "is a folder"),
    "exclude": ({**NOTES, "x.txt": b"\xff"}, [FILES, 'exclude=["x.*"]'], 0, ""),
    # JSON
    "array": ({"a.json": json.dumps(ROWS)}, [JSONL], 0, "60"),
    "array over many lines": ({"a.json": json.dumps(ROWS, indent=2)}, [JSONL], 0, ""),
    "array called lines": ({"a.jsonl": json.dumps(ROWS)}, [JSONL], 0, ""),
    "object with an array": ({"a.json": json.dumps({"version": 1, "data": ROWS})}, [JSONL], 0, ""),
    "object with two": ({"a.json": json.dumps({"train": ROWS, "test": ROWS[:2]})}, [JSONL], 2, "under train, test"),
    "objects over many lines": ({"a.json": "\n".join(json.dumps(row, indent=1) for row in ROWS)}, [JSONL], 0, ""),
    "comma after the last": ({"a.json": json.dumps(ROWS)[:-1] + ",]"}, [JSONL], 2, "a.json:1: not JSON"),
    "commas between lines": ({"a.jsonl": lines(ROWS, ",\n")}, [JSONL], 2, "a.jsonl:1: not JSON: a comma"),
    "blank lines": ({"a.jsonl": lines(ROWS, "\n\n \n")}, [JSONL], 0, ""),
    "Windows lines": ({"a.jsonl": "\ufeff" + lines(ROWS, "\r\n")}, [JSONL], 0, ""),
    "marks within": ({"a.jsonl": "\ufeff" + lines(ROWS[:30]) + "\ufeff" + lines(ROWS[30:])}, [JSONL], 0, "60"),
    "marks between objects": ({"a.json": "\n".join("\ufeff" + json.dumps(r, indent=1) for r in ROWS)}, [JSONL], 0, ""),
    "comments in front": ({"a.jsonl": "# a dump\n// of 2026\n" + lines(ROWS)}, [JSONL, SKIP], 0, "2 not JSON"),
    "line cut off": ({"a.jsonl": lines(ROWS)[:-9]}, [JSONL], 2, "unterminated string starting at character 10"),
    "old Macintosh lines": ({"a.jsonl": lines(ROWS, "\r")}, [JSONL], 0, ""),
    "long numbers": ({"a.jsonl": lines(ROWS) + '{"n": %s, "text": "x"}' % ("1" * 5000)}, [JSONL], 0, ""),
    "long number in front": ({"a.jsonl": '{"n": %s, "text": "x"}\n' % ("1" * 5000) + lines(ROWS)}, [JSONL], 0, ""),
    "NaN": ({"a.jsonl": lines([{**row, "score": float("nan")} for row in ROWS])}, [JSONL], 0, ""),
    "null": ({"a.jsonl": lines([*ROWS, {"text": None}])}, [JSONL], 2, "a.jsonl:61: \"text\" is null"),
    "all kinds skipped": (
        {"a.jsonl": lines([*ROWS, *({"text": bad} for bad in (None, "", 5, ["a"], "a\0")), {}]) + '{"text": "cut o'},
        [JSONL, SKIP], 0, "1 NUL bytes, 1 empty, 1 not JSON, 2 not text, 1 null, 1 without \"text\"",
    ),
    "nothing left": ({"a.jsonl": lines([{"text": None}] * 9)}, [JSONL, SKIP], 2, "no documents in a.jsonl"),
    "nested": ({"a.jsonl": lines([{"doc": row} for row in ROWS])}, [JSONL, 'text_field="doc.text"'], 0, ""),
    "dot in a name": ({"a.jsonl": lines([{"doc.text": t} for t in TEXTS])}, [JSONL, 'text_field="doc.text"'], 0, ""),
    "misspelt": ({"a.jsonl": lines([{"doc": row} for row in ROWS])}, [JSONL, 'text_field="doc.txt"'], 2, '"doc.text"'),
    "messages": ({"a.jsonl": lines([{"messages": talk} for talk in TALKS])}, [JSONL, 'text_field="messages"'], 0, ""),
    "messages of strings": (
        {"a.jsonl": lines([{"m": [{"role": "user", "content": [t, {"type": "image"}]}]} for t in TEXTS])},
        [JSONL, 'text_field="m"'], 0, "60 documents"),
    "messages of something else": ({"a.jsonl": lines([{"m": [{"role": "user", "content": [5]}]}] * 9)},
                                   [JSONL, 'text_field="m"'], 2, "role and content"),
    "no messages": ({"a.jsonl": lines([{"m": [{"a": 1}]}] * 9)}, [JSONL, 'text_field="m"'], 2, "role and content"),
    # compressed
    "gzip": ({"a.jsonl.gz": gzip.compress(lines(ROWS).encode())}, [JSONL, 'paths=["*.gz"]'], 0, ""),
    "bzip2": ({"a.jsonl": bz2.compress(lines(ROWS).encode())}, [JSONL], 0, ""),
    "xz": ({"a.jsonl": lzma.compress(lines(ROWS).encode())}, [JSONL], 0, ""),
    "gzip cut off": ({"a.jsonl": gzip.compress(lines(ROWS).encode())[:-20]}, [JSONL], 2, "damaged compressed data"),
    # CSV
    "CSV": ({"a.csv": "\ufeffid;text\r\n" + "".join(f'{n};"{t}\r\ntwo"\r\n' for n, t in enumerate(TEXTS))},
            [CSV, 'paths=["*.csv"]'], 0, "60"),
    "TSV": ({"a.tsv": "id\ttext\n" + "".join(f"{n}\t{t}\n" for n, t in enumerate(TEXTS))},
            [CSV, 'paths=["*.tsv"]'], 0, "60"),
    "CSV of old Macintoshes": ({"a.csv": "id,text\r" + "".join(f'{n},"{t}\rb"\r' for n, t in enumerate(TEXTS))},
                               [CSV, 'paths=["*.csv"]'], 0, "60 documents"),
    "CSV in Latin-1": ({"a.csv": LATIN1_CSV}, [CSV, 'paths=["*.csv"]'], 2, "a.csv:62: not UTF-8"),
    "CSV in Latin-1 skipped": ({"a.csv": LATIN1_CSV}, [CSV, 'paths=["*.csv"]', SKIP], 0, "1 not UTF-8"),
    "CSV with a quote left open": ({"a.csv": "id,text\n1,one\n2,\"two\n" + "".join(f"3,{t}\n" for t in TEXTS)},
                                   [CSV, 'paths=["*.csv"]'], 2, "a.csv:3: not CSV: unexpected end of data"),
    "CSV of Excel": ({"a.csv": 'sep=|\r\n"the\r\nid"|text\r\n' + "".join(f"1|{t}\r\n" for t in TEXTS) + "5\r\n"},
                     [CSV, 'paths=["*.csv"]'], 2, 'a.csv:64: "text" is null'),
    "JSON as CSV": ({"a.csv": lines(ROWS)}, [CSV, 'paths=["*.csv"]'], 2, 'data.source = "jsonl"'),
    "CSV without the column": ({"a.csv": "id,body\n1,one\n"}, [CSV, 'paths=["*.csv"]'], 2, "columns: id, body"),
    "CSV as JSON": ({"a.csv": "id,text\n1,one\n"}, [JSONL, 'paths=["*.csv"]'], 2, 'data.source = "csv"'),
}  # fmt: skip


def run(folder: Path, command: list[str], out: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Exit code and all that was printed; what was made must hold the documents that it lists."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("COLUMNS", "1000")
        code = cli.main([str(out) if word == "OUT" else word for word in command])
    printed = "".join(capsys.readouterr())
    assert "Traceback" not in printed
    assert out.exists() == (code == 0)
    if code == 0:
        manifest = read_manifest(out)
        assert check_documents(out) == manifest.train.documents + manifest.heldout.documents
        assert manifest.heldout.documents
    return code, printed


@pytest.mark.parametrize("name", CASES)
def test_input(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files, settings, expected, words = CASES[name]
    here = tmp_path / "here"
    here.mkdir()
    (tmp_path / "tiny.toml").write_text(TINY)
    for file, content in files.items():
        path = Path(os.fsdecode(os.fsencode(here) + b"/" + os.fsencode(file)))
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    if not any(setting.startswith("paths") for setting in settings):
        settings = [*settings, 'paths=["*.txt"]' if FILES in settings else 'paths=["a.json*"]']
    command = ["data", "../tiny.toml", "--out", "OUT"]
    for setting in settings:
        command += ["--set", f"data.{setting}"]
    code, printed = run(here, command, tmp_path / "out", capsys)
    assert code == expected, printed
    assert words in printed
    assert "set_int_max_str_digits" not in printed


GIVEN = Path(os.environ.get("CLEARSEEK_INPUTS", "/nowhere"))


def given() -> list[str]:
    """Inputs of the folder that make data."""
    found = sorted(file.parent for file in GIVEN.glob("*/cmd"))
    return [folder.name for folder in found if json.loads((folder / "cmd").read_text())[0] == "data"]


@pytest.mark.skipif(not GIVEN.is_dir(), reason="CLEARSEEK_INPUTS names no folder")
@pytest.mark.parametrize("name", given())
def test_given_input(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(GIVEN / name, tmp_path / name, symlinks=True)
    shutil.copy(GIVEN / "tiny.toml", tmp_path)
    file = GIVEN / "expect.json"
    expected = json.loads(file.read_text()).get(name, {}) if file.is_file() else {}
    command = json.loads((GIVEN / name / "cmd").read_text())
    code, printed = run(tmp_path / name, command, tmp_path / "out", capsys)
    assert code in expected.get("rc", [0, 2]), printed
    assert all(word in printed for word in expected.get("words", []))
    assert not any(word in printed for word in expected.get("never", []))
