"""Chat templates: those of real models parse, and those that want more than a conversation are named."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from clearseek.audit.evidence import Grade, Row
from tests.releases import audited

GOOD = """{%- for message in messages %}{% if not loop.first %}{% break %}{% endif -%}
{% generation %}{{ '<|Assistant|>' + message['content'] | trim }}{% endgeneration %}{%- endfor %}
{%- set ns = namespace(found=false) %}{% if add_generation_prompt %}{{ raise_exception('no') }}{% endif %}"""


def row(release: Path, **files: object) -> Row:
    for name, content in files.items():
        path = release / {"jinja": "chat_template.jinja", "config": "tokenizer_config.json"}.get(name, name)
        path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return audited(release)["tokenizer.template"]


@pytest.mark.parametrize(
    "files",
    [
        {"jinja": GOOD},
        {"config": {"chat_template": GOOD}},
        {
            "config": {
                "chat_template": [{"name": "default", "template": GOOD}, {"name": "tools", "template": "{{ x }}"}]
            }
        },
        {"jinja": GOOD, "config": {"chat_template": GOOD}},
        {"jinja": "{% for key in tool %}{{ tool[key] }}{{ tool['a_' ~ key] }}{% endfor %}"},
        {"jinja": "if __name__ == '__main__': {{ 'def __init__(self): pass' }}{{ '-' * 20 }}{{ range(100) | list }}"},
    ],
)
def test_real_templates_pass(release: Path, files: dict[str, object]) -> None:
    found = row(release, **files)
    assert (found.answer, found.grade) == ("yes", Grade.PRESENT), found.reason
    assert "parsed, not run" in found.reason


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("{{ messages.__class__.__mro__ }}", "asks for '__"),
        ("line\n{{ x['__globals__'] }}", "line 2 asks for '__globals__'"),
        ("{{ messages | attr('__class__') }}", "asks for '__class__'"),
        ("{{ messages | attr(x) }}", "puts together the attribute"),
        ("{{ messages['__cl' ~ 'ass__'] }}", "puts together the name"),
        ("{{ messages['_' + '_class__'] }}", "puts together the name"),
        ("{{ messages[['__class', '__'] | join] }}", "with the filter join"),
        ("{{ messages | map(attribute='__class__') | list }}", "asks for '__class__'"),
        ("{{ messages | map('attr', '__class__') | list }}", "asks for '__class__'"),
        ("{{ messages | map(attribute='role.__class__') | list }}", "asks for 'role.__class__'"),
        ("{% set k = '__class__' %}{{ messages[k] }}", "holds the private name"),
        ("{% set k = '__' ~ 'class' ~ '__' %}\n{{ messages[k] }}", "line 2 asks for a name that is computed"),
        ("{% set k = '%c%cclass' | format(95, 95) %}", "puts a text together"),
        ("{% for i in range(99999999999) %}{% endfor %}", "counts to 99999999999"),
        ("{{ 'a' * 999999999 }}", "counts to 999999999"),
        ("{{ 9 ** 9 ** 9 }}", "computes a power"),
        ("{% include '/etc/passwd' %}", "loads another template"),
        ("{% from 'a' import b %}", "loads another template"),
        ("{% extends 'a' %}", "loads another template"),
        ("{% for x in y %}", "Unexpected end of template"),
        ("a\n{{ x y }}", "line 2: "),
        ("{{ " + "(" * 50_000, "nested too deep"),
        ("x" * 200_001, "longer than 200,000"),
    ],
)
def test_what_no_template_needs_is_named(release: Path, text: str, what: str) -> None:
    begun = time.process_time()
    found = row(release, jinja=text)
    assert found.answer == "no"
    assert what in found.reason
    assert time.process_time() - begun < 20


def test_two_different_templates_are_told(release: Path) -> None:
    found = row(release, jinja=GOOD, config={"chat_template": "{{ messages }}"})
    assert found.answer == "partly"
    assert "different" in found.reason


@pytest.mark.parametrize("held", [None, 7, [1], [{"name": "default"}], {"a": 1}])
def test_no_template_is_no_failure(release: Path, held: object) -> None:
    assert row(release, config={"chat_template": held}).answer == "not applicable"
