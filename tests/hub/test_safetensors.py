from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError, safe_open
from safetensors.torch import save, save_file

from clearseek.errors import UserError
from clearseek.hub import safetensors
from clearseek.hub.safetensors import DTYPE_BYTES, Entry, build_header, parse_header, read_header, tensor_bytes
from clearseek.jsontext import strict_json
from clearseek.tensors import StoredTensor

TORCH = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16, "F8_E4M3": torch.float8_e4m3fn,
         "U8": torch.uint8, "I64": torch.int64}  # fmt: skip
NAMES = st.text(st.characters(codec="utf-8"), max_size=12).filter(lambda name: name != "__metadata__")
SHAPES = st.lists(st.integers(0, 4), max_size=3).map(tuple)
CONTENTS = st.dictionaries(NAMES, st.tuples(st.sampled_from(sorted(TORCH)), SHAPES), max_size=5)
SAMPLE = {"b.weight": ("F8_E4M3", (3, 5)), "a": ("BF16", (7,)), "c": ("F32", (2, 2))}


def sample(contents: dict[str, tuple[str, tuple[int, ...]]] = SAMPLE) -> bytes:
    tensors = {name: torch.ones(shape).to(TORCH[dtype]) for name, (dtype, shape) in contents.items()}
    return bytes(save(tensors, metadata={"format": "pt"}))


def file_of(header: Any, data: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def entry(begin: int, end: int, dtype: str = "U8", shape: list[Any] | None = None) -> dict[str, Any]:
    return {"dtype": dtype, "shape": [end - begin] if shape is None else shape, "data_offsets": [begin, end]}


@given(CONTENTS)
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_reads_what_safetensors_writes_and_writes_the_same_header(
    tmp_path: Path, contents: dict[str, tuple[str, tuple[int, ...]]]
) -> None:
    file = tmp_path / "x.safetensors"
    file.write_bytes(sample(contents))
    header = read_header(file)
    assert {e.name: (e.dtype, e.shape) for e in header.entries} == contents
    assert header.metadata == {"format": "pt"} and header.file_bytes == file.stat().st_size
    assert build_header([e.shaped for e in header.entries], header.metadata).raw == header.raw


@given(st.lists(st.tuples(st.sampled_from(sorted(TORCH)), SHAPES), max_size=6))
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_safetensors_reads_what_is_laid_out_here(tmp_path: Path, tensors: list[tuple[str, tuple[int, ...]]]) -> None:
    shaped = [StoredTensor(f"tensor {number}", *each) for number, each in enumerate(tensors)]
    header = build_header(shaped, None)
    assert [e.shaped for e in header.entries if e.size] in (
        [s for s in shaped if 0 not in s.shape],
        [s for s in sorted(shaped, key=lambda s: -DTYPE_BYTES[s.dtype]) if 0 not in s.shape],
    )
    assert len(header.raw) % 8 == 0
    assert all(e.begin % DTYPE_BYTES[e.dtype] == 0 for e in header.entries)
    file = tmp_path / "x.safetensors"
    data = bytes(range(256)) * (header.file_bytes // 256 + 1)
    file.write_bytes(header.raw + data[: header.file_bytes - len(header.raw)])
    with safe_open(file, "pt") as handle:
        for e in header.entries:
            theirs = handle.get_tensor(e.name)
            assert (tuple(theirs.shape), theirs.dtype) == (e.shape, TORCH[e.dtype])
            raw = data[e.begin - len(header.raw) :][: e.size]
            assert bytes(theirs.reshape(-1).view(torch.uint8).numpy()) == raw if e.size else True


def test_order_is_kept_where_every_tensor_starts_at_a_multiple_of_its_element(tmp_path: Path) -> None:
    kept = [
        StoredTensor("w", "F8_E4M3", (4, 2)),
        StoredTensor("w_scale_inv", "F32", (1, 1)),
        StoredTensor("n", "BF16", (3,)),
    ]
    assert [e.shaped for e in build_header(kept, None).entries] == kept
    odd = [
        StoredTensor("w", "F8_E4M3", (3, 3)),
        StoredTensor("w_scale_inv", "F32", (1, 1)),
        StoredTensor("n", "BF16", (3,)),
    ]
    assert [e.name for e in build_header(odd, None).entries] == ["w_scale_inv", "n", "w"]


FORGED: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "not a safetensors file"),
    "short": (b"1234567", "not a safetensors file"),
    "no header": (file_of(b""), "not a safetensors file"),
    "header beyond the file": (file_of({}, length=50), "cut off"),
    "huge header": (file_of({}, length=2**64 - 1), "cut off"),
    "header over the limit": (file_of({}, length=100_000_001), "at most 100,000,000 bytes"),
    "pickle": (b"\x80\x04\x95" + bytes(50), "not a safetensors file"),
    "zip": (b"PK\x03\x04" + bytes(50), "not a safetensors file"),
    "not JSON": (file_of(b"{nonsense}"), "not valid JSON"),
    "not UTF-8": (file_of(b'{"\xff":1}'), "not valid JSON"),
    "half a surrogate": (file_of(b'{"\\ud800":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}'), "not valid JSON"),
    "leading space": (file_of(b" {}"), "not a JSON object"),
    "a list": (file_of([]), "not a JSON object"),
    "trailing rubbish": (file_of(b'{} {"a":1}'), "not valid JSON"),
    "deep nesting": (file_of(b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"), "not valid JSON"),
    "long number": (file_of(b'{"a":' + b"1" * 10_000 + b"}"), "the header must give"),
    "NaN": (file_of(b'{"a":NaN}'), "NaN is not JSON"),
    "the same tensor twice": (
        file_of(b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{"dtype":"U8","shape":[1],'
                b'"data_offsets":[1,2]}}', b"xx"), "'a' appears twice"),
    "the same field twice": (file_of(b'{"a":{"dtype":"U8","dtype":"I8","shape":[1],"data_offsets":[0,1]}}', b"x"),
                             "'dtype' appears twice"),
    "cut off": (file_of({"a": entry(0, 9)}, b"12345678"), "the file is cut off"),
    "bytes after the end": (file_of({"a": entry(0, 2)}, b"123"), "bytes after its last tensor"),
    "a gap": (file_of({"a": entry(0, 2), "b": entry(3, 4)}, b"1234"), "b leaves a gap"),
    "a gap at the start": (file_of({"a": entry(1, 2)}, b"12"), "a leaves a gap"),
    "an overlap": (file_of({"a": entry(0, 2), "b": entry(1, 3)}, b"123"), "b overlaps"),
    "the same place": (file_of({"a": entry(0, 2), "b": entry(0, 2)}, b"12"), "b overlaps"),
    "backwards": (file_of({"a": {"dtype": "U8", "shape": [2], "data_offsets": [2, 0]}}, b"12"), "span -2"),
    "a wrong size": (file_of({"a": entry(0, 3, "F32", [1])}, b"123"), "needs 4 bytes, but its data_offsets span 3"),
    "an absurd shape": (file_of({"a": entry(0, 3, "F32", [2**62, 2**62, 2**62])}, b"123"), "data_offsets span 3"),
    "a number beyond 64 bits": (file_of({"a": entry(0, 3, "U8", [2**70])}, b"123"), "whole numbers"),
    "a negative size": (file_of({"a": entry(0, 3, "U8", [-3])}, b"123"), "whole numbers"),
    "a true size": (file_of({"a": entry(0, 1, "U8", [True])}, b"1"), "whole numbers"),
    "a broken size": (file_of({"a": entry(0, 1, "U8", [1.0])}, b"1"), "whole numbers"),
    "one offset": (file_of({"a": {"dtype": "U8", "shape": [1], "data_offsets": [0]}}, b"1"), "whole numbers"),
    "an unknown dtype": (file_of({"a": entry(0, 1, "F4")}, b"1"), "a has the unsupported dtype 'F4'"),
    "a dtype that is none": (file_of({"a": entry(0, 1) | {"dtype": ["U8"]}}, b"1"), "unsupported dtype"),
    "a field too many": (file_of({"a": entry(0, 1) | {"x": 1}}, b"1"), "and nothing else"),
    "a field too few": (file_of({"a": {"dtype": "U8", "shape": [1]}}, b"1"), "must give dtype, shape"),
    "no fields": (file_of({"a": 3}, b"1"), "must give dtype, shape"),
    "numbers as metadata": (file_of({"__metadata__": {"a": 1}}), "__metadata__ must map"),
    "a list as metadata": (file_of({"__metadata__": ["a"]}), "__metadata__ must map"),
}  # fmt: skip


@pytest.mark.parametrize("name", FORGED)
def test_forged_headers_are_refused(name: str, tmp_path: Path) -> None:
    content, says = FORGED[name]
    file = tmp_path / "forged.safetensors"
    file.write_bytes(content)
    with pytest.raises(UserError, match=r"forged\.safetensors: ") as caught:
        read_header(file)
    assert says in str(caught.value)


@given(st.data())
@settings(max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_a_damaged_file_is_refused_or_read_as_safetensors_reads_it(tmp_path: Path, data: st.DataObject) -> None:
    content = bytearray(sample())
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(content) - 1))
        match data.draw(st.sampled_from(["replace", "delete", "insert", "digit", "cut"])):
            case "replace":
                content[place] = data.draw(st.integers(0, 255))
            case "delete":
                del content[place : place + data.draw(st.integers(1, 4))]
            case "insert":
                content[place:place] = data.draw(st.binary(min_size=1, max_size=4))
            case "digit":
                digits = [i for i, byte in enumerate(content) if 0x30 <= byte <= 0x39] or [place]
                content[data.draw(st.sampled_from(digits))] = data.draw(st.integers(0x30, 0x39))
            case "cut":
                del content[place:]
        if not content:
            break
    file = tmp_path / "damaged.safetensors"
    file.write_bytes(content)
    try:
        header = read_header(file)
    except UserError as error:
        assert str(error).startswith(f"{file}: ")
        return
    assert header.file_bytes == len(content)
    try:
        handle = safe_open(file, "pt")
    except SafetensorError:
        pytest.fail("accepted what safetensors refuses")
    with handle:
        assert set(handle.keys()) == {e.name for e in header.entries}
        for e in header.entries:
            assert tuple(handle.get_slice(e.name).get_shape()) == e.shape
            assert handle.get_slice(e.name).get_dtype() == e.dtype


@given(st.binary(max_size=200))
def test_any_bytes_are_refused_or_read(raw: bytes) -> None:
    try:
        header = parse_header(len(raw).to_bytes(8, "little") + raw, None, "x")
    except UserError:
        return
    assert header.file_bytes >= 8 + len(raw)


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"gone\.safetensors: cannot read"):
        read_header(tmp_path / "gone.safetensors")
    with pytest.raises(UserError, match="cannot read"):
        read_header(tmp_path)


def test_a_header_alone_needs_no_file(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(3)}, tmp_path / "x.safetensors")
    header = read_header(tmp_path / "x.safetensors")
    assert parse_header(header.raw, None, "x") == header and header.metadata is None


def test_keys_stand_once_at_every_depth() -> None:
    assert strict_json(b'{"a": {"b": 1}, "b": [{"a": 2}]}', "x") == {"a": {"b": 1}, "b": [{"a": 2}]}
    with pytest.raises(UserError, match="'b' appears twice"):
        strict_json(b'{"a": [{"b": 1, "b": 2}]}', "x")


@given(begin=st.integers(8, 99), count=st.integers(0, 50), piece=st.integers(1, 6), at_once=st.integers(1, 9))
def test_a_tensor_is_read_whole_or_at_its_beginning_middle_and_end(
    begin: int, count: int, piece: int, at_once: int
) -> None:
    entry, content = Entry("a", "F32", (count,), begin, 4 * count), bytes(range(250)) + bytes(100)

    def read(file: str, limit: int, start: int) -> bytes:
        assert file == "it" and 0 < limit <= at_once
        return content[start : start + limit]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(safetensors, "AT_ONCE", at_once)
        assert b"".join(tensor_bytes(read, "it", entry)) == content[begin : begin + 4 * count]
        sampled = b"".join(tensor_bytes(read, "it", entry, 4 * piece))
    numbers = [content[begin + 4 * number : begin + 4 * number + 4] for number in range(count)]
    middle = count // 2
    few = numbers[:piece] + numbers[middle : middle + piece] + numbers[count - piece :]
    assert sampled == b"".join(numbers if count <= 3 * piece else few)
