from __future__ import annotations

import bz2
import gzip
import io
import lzma
import pickle
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save

from clearseek.errors import UserError
from clearseek.filetypes import expect, recognise, recognise_file

PROSE = "Not every file is what its name says.\n" * 3
POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'ab' * 32}\nsize 123456\n"


def zipped(*members: str) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for member in members:
            archive.writestr(member, "content")
    return out.getvalue()


def archived() -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("a.txt"))
    return out.getvalue()


def numpy() -> bytes:
    out = io.BytesIO()
    np.save(out, np.zeros(3))
    return out.getvalue()


def checkpoint(*, archive: bool) -> bytes:
    out = io.BytesIO()
    torch.save({"weight": torch.zeros(2)}, out, _use_new_zipfile_serialization=archive)
    return out.getvalue()


REAL = {
    "gzip": gzip.compress(PROSE.encode()),
    "bzip2": bz2.compress(PROSE.encode()),
    "xz": lzma.compress(PROSE.encode()),
    "zip": zipped("notes.txt"),
    "Office": zipped("[Content_Types].xml", "word/document.xml"),
    "tar": archived(),
    "NumPy": numpy(),
    "safetensors": save({"weight": np.zeros(2, np.float32)}),
    "UTF-8 BOM": PROSE.encode("utf-8-sig"),
    "Git-LFS pointer": POINTER.encode(),
    "git-annex pointer": b"/annex/objects/SHA256E-s5--" + b"0" * 64 + b".txt\n",
    "HTML": b"\n<!-- saved -->\n<!DOCTYPE html>\n<html lang=en><head>",
    "PDF": b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n",
    "RTF": rb"{\rtf1\ansi Hello}",
    "GGUF": b"GGUF" + (3).to_bytes(4, "little") + bytes(16),
    "zstd": bytes.fromhex("28b52ffd0458090000") + b"a\n",
    "PNG": b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR",
}


@pytest.mark.parametrize("name", REAL)
def test_real_files_are_named(name: str) -> None:
    kind = recognise(REAL[name])
    assert kind is not None and kind.name == name
    assert kind.phrase and kind.cure and not kind.cure.endswith(".")


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_pickles(protocol: int) -> None:
    for value in ({"weight": 1}, [1, 2], "text", None):
        kind = recognise(pickle.dumps(value, protocol=protocol))
        assert kind is not None and kind.name == "pickle"


@pytest.mark.parametrize("archive", [True, False])
def test_torch_checkpoints_are_pickles(archive: bool) -> None:
    kind = recognise(checkpoint(archive=archive))
    assert kind is not None and kind.name == "pickle"


def test_parquet(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    for number, rows in enumerate(([], ["one", "two"])):
        path = tmp_path / f"{number}.txt"
        parquet.write_table(pyarrow.table({"text": pyarrow.array(rows, "string")}), path)
        kind = recognise_file(path)
        assert kind is not None and kind.name == "Parquet"


@pytest.mark.parametrize("code", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be"])
def test_wide_text_with_and_without_a_mark(code: str) -> None:
    kind = recognise(PROSE.encode(code))
    assert kind is not None and kind.name == code[:6].upper() and "iconv" in kind.cure


@pytest.mark.parametrize(
    "text",
    [
        "",
        "%PDF files begin so",
        "GGUF is a format of llama.cpp's",
        "PAR1 stands at both ends",
        "A page begins with <!doctype html>, and <html> follows",
        "<p align=center>A readme</p>",
        "MZ are Mark Zbikowski's initials",
        "PK is short for primary key",
        "BZh91AY&SY begins bzip2 files",
        f"A pointer looks like this:\n{POINTER}",
        f"{POINTER}and more text",
        "<!--a-->" * 500,
        "\x1b[1mbold\x1b[0m",
        "日本語" * 50,
    ],
)
def test_text_about_formats_is_text(text: str) -> None:
    assert recognise(text.encode()) is None


@given(st.text(st.characters(exclude_categories=["Cs", "Cc"], include_characters="\t\n\r\f\x1b")))
def test_text_is_never_called_anything_else(text: str) -> None:
    kind = recognise(text.encode())
    assert (kind.name if kind else None) == ("UTF-8 BOM" if text.startswith("\ufeff") else None)


@given(st.binary(max_size=300))
def test_anything_has_an_answer(head: bytes) -> None:
    kind = recognise(head)
    assert kind is None or (kind.name and kind.cure)


def test_lfs_pointer_tells_what_it_stands_for() -> None:
    kind = recognise(POINTER.replace("\n", "\r\n").encode())
    assert kind is not None and "123,456 bytes" in kind.phrase and "abababababab" in kind.phrase


def test_mark_hides_nothing() -> None:
    kind = recognise("\ufeff<html>".encode())
    assert kind is not None and kind.name == "HTML"


def test_spreadsheet_is_told_by_its_ending() -> None:
    kind = recognise(REAL["Office"], "table.XLSX")
    assert kind is not None and kind.cure == "save it as CSV"


def test_expect(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(REAL["Git-LFS pointer"])
    with pytest.raises(UserError, match=r"config\.json: this is a Git-LFS pointer .* not JSON: .*git lfs pull"):
        expect(path, "JSON", "UTF-8 BOM")
    path.write_bytes(b"\xef\xbb\xbf{}")
    expect(path, "JSON", "UTF-8 BOM")
