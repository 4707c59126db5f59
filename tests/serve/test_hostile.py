"""Requests that are wrong, huge, or meant to harm: one clear error, and other requests unharmed."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import pytest

from tests.serve.served import JSON, Served
from tests.serve.test_bits import record

HELLO = [{"role": "user", "content": "hello"}]
DEEP = "[" * 150 + "]" * 150


def nested(depth: int) -> Any:
    """A schema of many levels."""
    schema: Any = {"type": "string"}
    for _ in range(depth):
        schema = {"type": "object", "properties": {"a": schema}}
    return schema


def schema(value: Any) -> dict[str, Any]:
    """A chat whose answer must follow a schema."""
    return {"response_format": {"type": "json_schema", "json_schema": {"schema": value}}}


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"model": "other"}, "model_not_found"),
    ({"messages": []}, "messages"),
    ({"messages": [{"role": "robot", "content": "x"}]}, "role"),
    ({"messages": [{"role": "user"}]}, "content"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]}, "text alone"),
    ({"messages": [{"role": "assistant", "content": "x", "tool_calls": [1]}]}, "tool_calls"),
    ({"messages": [{"role": "user", "content": {"a": 1}}]}, "content"),
    ({"messages": HELLO * 5000}, "messages"),
    ({"temperature": -1}, "temperature"),
    ({"temperature": "hot"}, "temperature"),
    ({"top_p": 0}, "top_p"),
    ({"n": 0}, "n"),
    ({"n": 17}, "n"),
    ({"seed": 2**64}, "seed"),
    ({"max_tokens": -1}, "max_tokens"),
    ({"max_tokens": 2**40}, "max_tokens"),
    ({"stop": "x" * 5000}, "stop"),
    ({"stop": ["x"] * 17}, "stop"),
    ({"logit_bias": {"600": 1}}, "logit_bias"),
    ({"logit_bias": {"-1": 1}}, "logit_bias"),
    ({"logit_bias": {"x": 1}}, "logit_bias"),
    ({"logit_bias": {"1" * 5000: 1}}, "logit_bias"),
    ({"logit_bias": {"5": 101}}, "logit_bias"),
    ({"logit_bias": {"5": "x"}}, "logit_bias"),
    ({"logit_bias": {str(i): 1 for i in range(2000)}}, "logit_bias"),
    ({"top_logprobs": 21}, "top_logprobs"),
    ({"tools": [{"type": "function"}]}, "tools[0]"),
    ({"tools": "x"}, "tools"),
    ({"tool_choice": "perhaps"}, "tool_choice"),
    ({"tool_choice": "required"}, "tool_choice"),
    ({"tool_choice": {"type": "function"}}, "tool_choice"),
    ({"response_format": {"type": "xml"}}, "response_format"),
    ({"response_format": {"type": "json_schema"}}, "response_format"),
    ({"response_format": {"type": "json_schema", "json_schema": 1}}, "response_format"),
    (schema({"type": "no such"}), "cannot be followed"),
    (schema({"type": "string", "pattern": "("}), "cannot be followed"),
    (schema({"type": "string", "maxLength": 10**30}), "cannot be followed"),
    (schema({"type": "integer", "multipleOf": 99999989}), "multipleOf"),
    (schema({"allOf": [{"multipleOf": 9973}, {"multipleOf": 9967}]}), "multipleOf"),
    (schema({"$ref": "http://evil.example/x"}), "cannot be followed"),
    (schema({"$ref": "file:///etc/passwd"}), "cannot be followed"),
    (schema({"$ref": "#"}), "cannot be followed"),
    (schema({"enum": ["x" * 70000]}), "characters"),
    (schema({"allOf": [{"anyOf": [{"properties": {f"p{i}{j}": {}}} for j in range(8)]} for i in range(9)]}),
     "cannot be followed"),
    (schema(nested(70)), "cannot be followed"),
    ({"messages": [{"role": "user", "content": "x" * 20000}]}, "context_length_exceeded"),
    ({"messages": [{"role": "user", "content": "x" * 3_900_000}]}, "context_length_exceeded"),
]  # fmt: skip


@pytest.mark.parametrize(("wrong", "words"), WRONG, ids=range(len(WRONG)))  # type: ignore[arg-type]
def test_wrong_requests_get_one_clear_error(served: Served, wrong: dict[str, Any], words: str) -> None:
    begun = time.monotonic()
    response = served.post("/v1/chat/completions", {"messages": HELLO, "max_tokens": 3} | wrong)
    assert response.status_code in (400, 404), response.text
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    assert words in json.dumps(error)
    assert len(response.text) < 2000
    assert time.monotonic() - begun < 5


MANY = 4_000
"""Wrong elements, each of which could be told as an error of its own."""
RAW = [
    b"", b"{", b"null", b"[]", b"\xff\xfe", b"\x00", b"[" * 100_000, b'{"messages":' + b"[" * 100_000,
    b'{"messages":[{"role":"user","content":"\\ud800"}]}',
    b'{"messages":[{"role":"user","content":"\xed\xa0\x80"}]}',
    b'{"messages":[{"role":"user","content":"x"}],"temperature":NaN}',
    b'{"messages":[{"role":"user","content":"x"}],"temperature":1e999}',
    b'{"messages":[{"role":"user","content":"x"}],"seed":' + b"9" * 5000 + b"}",
    b'{"messages":[{"role":"user","content":"x"}],"max_tokens":1.5}',
    b'{"messages":[{"role":"user","content":"x"}],"response_format":{"type":"json_schema","json_schema":{"schema":{"maximum":NaN}}}}',
    b'{"prompt":[' + b"{}," * MANY + b"{}]}",
    b'{"prompt":[' + b'"a",1,' * MANY + b"1]}",
    b'{"prompt":[-1]}', b'{"prompt":[600]}', b'{"prompt":[true]}', b'{"prompt":[[]]}', b'{"prompt":[]}',
    b'{"prompt":' + b"[[1]," + b"[1]," * 99 + b"[1]]}",
    b'{"prompt":"x","logit_bias":{' + b",".join(b'"%d":"x"' % i for i in range(MANY)) + b"}}",
]  # fmt: skip


SLOW = ("/v1/chat/completions", "/v1/responses", "/tokenize")


@pytest.mark.parametrize(
    "path", ["/v1/completions", "/v1/messages", *(pytest.param(p, marks=pytest.mark.slow) for p in SLOW)]
)
def test_wrong_bytes_get_one_clear_error(served: Served, path: str) -> None:
    for body in RAW[:-1] if path == "/tokenize" else RAW:
        begun = time.monotonic()
        response = served.client.post(served.url + path, content=body, timeout=30)
        assert response.status_code == 400 or (path == "/tokenize" and b"prompt" not in body), (
            body[:80],
            response.text,
        )
        assert "error" in response.json() or path == "/tokenize"
        assert time.monotonic() - begun < 10, body[:80]


@pytest.mark.slow
def test_a_million_wrong_elements_are_told_as_one(served: Served) -> None:
    begun = time.monotonic()
    response = httpx2.post(
        served.url + "/v1/completions", content=b'{"prompt":[' + b"{}," * 10**6 + b"{}]}", headers=JSON, timeout=30
    )
    assert response.status_code == 400
    assert time.monotonic() - begun < 10  # pydantic alone needed 110 s and 5.8 GB to tell of each


def test_numbers_that_are_none_in_a_tools_schema_are_text(served: Served) -> None:
    body = (b'{"max_tokens":1,"messages":[{"role":"user","content":"x"}],"tools":[{"type":"function","function":'
            b'{"name":"f","parameters":{"maximum":1e999,"minimum":' + b"1" * 4200 + b"}}}]}")  # fmt: skip
    assert served.client.post(served.url + "/v1/chat/completions", content=body, timeout=30).status_code in (200, 400)


@pytest.mark.parametrize("pattern", ["(a{1000}){1000}", "^(a|a)*(b|[^c]*d){200}.*(x+x+)+y$", "^.*a.{30}$"])
def test_patterns_that_explode_end_in_time(served: Served, pattern: str) -> None:
    begun = time.monotonic()
    asked = {"messages": HELLO, "max_tokens": 30, "seed": 1} | schema({"type": "string", "pattern": pattern})
    assert served.post("/v1/chat/completions", asked).status_code in (200, 400)
    assert time.monotonic() - begun < 10


def test_templates_are_text(served: Served) -> None:
    text = "{{ 7*7 }}{% for i in range(10**9) %}x{% endfor %}{{ cycler.__init__.__globals__ }}\ue0001\ue001"
    a = served.post("/tokenize", {"messages": [{"role": "user", "content": text}]}).json()["tokens"]
    b = served.post("/tokenize", {"prompt": text, "add_special_tokens": False}).json()["tokens"]
    assert a[2:-2] == b


def test_others_are_unharmed(served: Served) -> None:
    alone = [record(served, number) for number in range(6)]
    with ThreadPoolExecutor(8) as clients:
        garbage = [
            clients.submit(served.client.post, served.url + "/v1/completions", content=body, timeout=60) for body in RAW
        ]
        beside = list(clients.map(lambda number: record(served, number), range(6)))
    assert beside == alone
    assert {each.result().status_code for each in garbage} == {400}
    served.wait_until_idle()
