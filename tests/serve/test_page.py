"""The page at ``/``: what it is built from, and what people do with it in a browser."""
# ruff: noqa: RUF001

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import clearseek.serve.page
from clearseek.config import ModelConfig
from clearseek.data.tokenizer import train
from clearseek.inference.answer import derive, read_record
from clearseek.inference.model import Model
from clearseek.model.transformer import DeepSeekModel
from tests.serve.served import ids, script

pytest.importorskip("uvicorn", reason="serving needs uvicorn: pip install -e '.[serve]'")

FOLDER = Path(clearseek.serve.page.__file__).parent
PLAIN = "page.test"
"""A name by which the browser finds the server, and that it does not trust as it trusts this machine's address."""
TEXTS = ["hello world, how are you? " * 50, "The quick brown fox jumps over the lazy dog. " * 20]


# --- What it is built from --------------------------------------------------------------------------------------------


def test_the_page_is_built_from_these_sources() -> None:
    names = ["build.mjs", "package-lock.json", "package.json"]
    names += [f"src/{file.name}" for file in sorted((FOLDER / "src").iterdir())]
    sources = hashlib.sha256(b"".join(b"%b\0%b\0" % (name.encode(), (FOLDER / name).read_bytes()) for name in names))
    head = (FOLDER / "index.html").read_text()[:300]
    assert f"from sources {sources.hexdigest()} " in head, f"run npm ci && npm run build in {FOLDER}"


@pytest.mark.net
@pytest.mark.skipif(shutil.which("npm") is None, reason="building needs npm")
def test_the_page_is_built_again_to_the_same_bytes(tmp_path: Path) -> None:
    copied = shutil.copytree(FOLDER, tmp_path / "page", ignore=shutil.ignore_patterns("node_modules", "index.html"))
    for command in (["npm", "ci", "--ignore-scripts"], ["npm", "run", "build"]):
        subprocess.run(command, cwd=copied, check=True, capture_output=True, timeout=300)
    assert (copied / "index.html").read_bytes() == (FOLDER / "index.html").read_bytes()


def test_the_lock_names_no_place_but_npm() -> None:
    lock = json.loads((FOLDER / "package-lock.json").read_text())
    for name, package in lock["packages"].items():
        assert not name or package["integrity"].startswith("sha512-"), name
        assert package.get("resolved", "https://registry.npmjs.org/").startswith("https://registry.npmjs.org/"), name


def test_the_page_is_one_file_that_fits_its_policy() -> None:
    text, headers = clearseek.serve.page.page()
    policy = headers["Content-Security-Policy"]
    assert "unsafe" not in policy and policy.startswith("default-src 'none'")
    assert len(text) < 700_000
    page = text.decode()
    body = page[: page.rindex("<script>")] + page[page.rindex("</script>") :]
    assert not re.search(r"""<[^>!]+\s(src|style|on\w+)=""", body)
    assert set(re.findall(r'href="([^":]+:)', body)) == {"data:"}


# --- In a browser -----------------------------------------------------------------------------------------------------


def _model() -> Model:
    torch.manual_seed(0)
    config = ModelConfig(
        vocab_size=600, hidden_size=64, num_hidden_layers=3, num_attention_heads=3, q_lora_rank=24, kv_lora_rank=20,
        qk_nope_head_dim=12, qk_rope_head_dim=8, v_head_dim=10, intermediate_size=100, moe_intermediate_size=24,
        n_routed_experts=8, num_experts_per_tok=2, max_position_embeddings=1024, n_group=4, topk_group=2,
        initializer_range=0.2, num_nextn_predict_layers=1,
    )  # fmt: skip
    trained = DeepSeekModel(config).requires_grad_(False)
    trained.initialise(1)
    return Model.of("tiny", config, dict(trained.state_dict()), train(TEXTS, 600), "BF16")


class Server:
    """A served model."""

    def __init__(self, model: Model, chat: bool, keys: tuple[str, ...] = ()) -> None:
        from clearseek.serve import server
        from clearseek.serve.app import application
        from clearseek.serve.service import Limits, Service
        from clearseek.serve.worker import Worker

        self.worker = Worker(model.engine(400, rows=64))
        self.worker.start()
        app = application(Service(model, self.worker, Limits(), chat), keys, [PLAIN])
        self._server = server.Server(app, self.worker, 5.0, host="127.0.0.1", port=0)
        self._thread = threading.Thread(target=self._server.run, daemon=True)
        self._thread.start()
        while not self._server.started:
            assert self._thread.is_alive()
            time.sleep(0.02)
        self.url = f"http://127.0.0.1:{self._server.servers[0].sockets[0].getsockname()[1]}/"

    def end(self) -> None:
        """End the server."""
        self._server.should_exit = True
        self._thread.join(timeout=30)


@pytest.fixture(scope="module")
def model() -> Model:
    return _model()


@pytest.fixture(scope="module")
def served(model: Model) -> Iterator[Callable[..., Server]]:
    """Servers by what they serve."""
    servers: dict[Any, Server] = {}

    def get(chat: bool = True, keys: tuple[str, ...] = ()) -> Server:
        if (chat, keys) not in servers:
            servers[chat, keys] = Server(model, chat, keys)
        return servers[chat, keys]

    yield get
    for server in servers.values():
        server.end()


ARGUMENTS = ["--no-sandbox", f"--host-resolver-rules=MAP {PLAIN} 127.0.0.1"]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="the page's tests need a browser: make browser-test")
    with playwright.sync_playwright() as p:
        try:
            opened = p.chromium.launch(executable_path=shutil.which("chromium"), args=ARGUMENTS)
        except playwright.Error as error:
            pytest.skip(f"no Chromium starts here: {str(error).splitlines()[0]}")
        yield opened
        opened.close()


@pytest.fixture
def opened(browser: Any, served: Callable[..., Server]) -> Iterator[Callable[..., Any]]:
    """Open the page of a server; afterwards nothing may have asked another host, or have broken the policy."""
    wrong: list[str] = []
    contexts = []

    def begin(server: Server | None = None, plain: bool = False, **given: Any) -> Any:
        url = (server or served()).url
        url = url.replace("127.0.0.1", PLAIN) if plain else url
        context = browser.new_context(**({"viewport": {"width": 1280, "height": 860}} | given))
        context.set_default_timeout(30_000)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: wrong.append(f"error: {error}"))
        page.on("console", lambda told: wrong.append(told.text) if "Content Security Policy" in told.text else None)
        page.on("request", lambda asked: wrong.append(asked.url) if not _own(asked.url, url) else None)
        page.goto(url)
        return page

    yield begin
    for context in contexts:
        context.close()
    assert wrong == []


def _own(asked: str, server: str) -> bool:
    return asked.startswith((server, "data:", "blob:" + server))


def _set(page: Any, **settings: Any) -> None:
    page.locator("#open-settings").click()
    for name, value in settings.items():
        page.locator(f"#set-{name}").fill(str(value))
    page.locator("#close-settings").click()


def _say(page: Any, text: str) -> Any:
    """Send a message; give its answer once it has ended."""
    page.locator("#input").fill(text)
    page.locator("#input").press("Enter")
    return _ended(page)


def _begun(page: Any) -> None:
    """Wait for the first words, or thoughts, of an answer."""
    page.locator(".answer .text:visible:not(:empty), .answer .thinking:visible").first.wait_for()


def _ended(page: Any) -> Any:
    page.locator(".answer:not([aria-busy]) .stats:not(:empty)").last.wait_for()
    return page.locator(".answer").last


def _count(answer: Any) -> int:
    """Tokens of an ended answer; a model that was not trained may end it anywhere."""
    return int(answer.locator(".stats").inner_text().split()[0])


def _press(answer: Any, name: str) -> None:
    answer.get_by_role("button", name=name, exact=True).click()


def _import(page: Any, tmp_path: Path, conversation: Any) -> None:
    file = tmp_path / "conversation.json"
    file.write_text(json.dumps(conversation))
    page.locator("#file").set_input_files(file)


def _conversation(*contents: str) -> dict[str, Any]:
    nodes = [
        {"parent": index - 1, "role": ("user", "assistant")[index % 2], "content": content}
        for index, content in enumerate(contents)
    ]
    return {"form": "clearseek-conversation-1", "kind": "chat", "title": "t", "nodes": nodes, "chosen": {}}


def _download(page: Any, act: Callable[[], None], to: Path) -> Path:
    with page.expect_download() as found:
        act()
    found.value.save_as(to)
    return to


def test_type_stream_and_look_at_tokens(opened: Any) -> None:
    page = opened()
    _set(page, max_tokens=40, seed=5)
    page.keyboard.press("/")
    page.keyboard.type("hello")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("world")
    page.keyboard.press("Enter")
    answer = _ended(page)
    assert page.locator(".said").inner_text() == "hello\nworld"
    assert _count(answer) > 5
    assert page.locator("#status").inner_text().startswith("Answer: ")
    _press(answer, "Tokens")
    tokens = answer.get_by_role("option")
    assert tokens.count() == _count(answer)
    tokens.nth(3).hover()
    assert f"token 4 of {_count(answer)}" in answer.locator(".inspector").inner_text()
    assert answer.locator(".alternatives tr").count() >= 5 and answer.locator(".alternatives tr.here").count() == 1
    assert re.search(r"Layer 1: \d, \d\. Layer 2: \d, \d$", answer.locator("canvas").get_attribute("aria-label"))
    answer.get_by_role("listbox").press("ArrowRight")
    assert f"token 5 of {_count(answer)}" in answer.locator(".inspector").inner_text()
    drafts = answer.locator(".token.accepted, .token.refused")
    assert drafts.count() > 1 and f"of {drafts.count()} drafts" in answer.locator(".summary").inner_text()


def test_derive_again_and_reload(opened: Any, tmp_path: Path, model: Model) -> None:
    page = opened()
    _set(page, max_tokens=60, temperature=0.8, top_p=0.9, seed=11)
    answer = _say(page, "how are you?")
    before = answer.locator(".text").first.inner_text()
    _press(answer, "Derive again")
    answer.locator(".verdict.good").wait_for()
    said = answer.locator(".verdict").inner_text()
    assert re.fullmatch(rf"The same: {_count(answer)} tokens, every bit\.( Beside [12] other answers\.)?", said)
    record = _download(page, lambda: _press(answer, "Save record"), tmp_path / "record.json")
    assert derive(model, read_record(record), 100).differs is None
    page.reload()
    answer = _ended(page)
    assert answer.locator(".text").first.inner_text() == before
    assert answer.locator(".verdict.good").is_visible()
    assert _say(page, "and again").is_visible() and page.locator(".answer").count() == 2


def test_the_first_differing_token_is_marked(opened: Any, tmp_path: Path) -> None:
    page = opened()
    _set(page, max_tokens=30, seed=5)
    _say(page, "hello")
    saved = json.loads(_download(page, lambda: page.locator("#export").click(), tmp_path / "c.json").read_text())
    record = saved["nodes"][1]["record"]
    record["logprobs"][2] = (float.fromhex(record["logprobs"][2]) * (1 + 2**-50)).hex()
    _import(page, tmp_path, saved)
    answer = _ended(page)
    _press(answer, "Derive again")
    answer.locator(".verdict.bad").wait_for()
    assert f"from token 3 of {_count(answer)} on, another log-probability" in answer.locator(".verdict").inner_text()
    assert answer.locator(".token.differs").get_attribute("data-at") == "2"


def test_stop_and_derive_what_there_was(opened: Any, served: Callable[..., Server]) -> None:
    page = opened()
    _set(page, max_tokens=900, seed=5)
    page.locator("#input").fill("hello world")
    page.locator("#input").press("Enter")
    _begun(page)
    page.keyboard.press("Escape")
    answer = _ended(page)
    assert "stopped" in answer.locator(".stats").inner_text()
    _press(answer, "Derive again")
    answer.locator(".verdict.good").wait_for()
    engine = served().worker.engine
    deadline = time.monotonic() + 10
    while engine.pages.free < engine.pages.count and time.monotonic() < deadline:
        time.sleep(0.05)
    assert engine.pages.free == engine.pages.count


def test_edit_retry_and_branches(opened: Any) -> None:
    page = opened()
    _set(page, max_tokens=8, seed=1)
    _say(page, "first")
    page.get_by_role("button", name="Edit").click()
    page.get_by_label("Edit the message").fill("second")
    page.get_by_label("Edit the message").press("Enter")
    answer = _ended(page)
    assert page.locator(".said").inner_text() == "second"
    assert page.locator(".question .branches").get_attribute("aria-label") == "Branch 2 of 2"
    seed = answer.locator(".stats").inner_text()
    _press(answer, "Retry")
    answer = _ended(page)
    assert "seed 1" in seed and "seed 2" in answer.locator(".stats").inner_text()
    assert answer.locator(".branches").get_attribute("aria-label") == "Branch 2 of 2"
    page.locator(".question").get_by_role("button", name="Earlier branch").press("ArrowLeft")
    assert page.locator(".said").inner_text() == "first" and page.locator(".answer .branches").count() == 0
    page.keyboard.press("ArrowRight")
    assert page.locator(".said").inner_text() == "second"
    page.reload()
    _ended(page)
    assert page.locator(".said").inner_text() == "second"
    assert page.locator(".answer .branches").get_attribute("aria-label") == "Branch 2 of 2"


def test_thinking_is_folded(opened: Any) -> None:
    page = opened()
    _set(page, max_tokens=30, seed=4)
    page.get_by_role("button", name="Think first").click()
    answer = _say(page, "hello")
    fold = answer.locator("details.thinking")
    assert fold.is_visible() and not answer.locator(".thought").is_visible()
    fold.locator("summary").press("Enter")
    assert answer.locator(".thought").inner_text().strip()


HARM = """
<script>fetch("https://example.org/x")</script><img src=x onerror="fetch('https://example.org/y')">
![a picture](https://example.org/picture.png) [a link](javascript:alert(1))
[another](data:text/html,<script>alert(1)</script>)
<style>body { display: none }</style> <form action="https://example.org"><input name=a></form>
<svg><a xlink:href="javascript:alert(1)"><text>x</text></a></svg>
$\\href{javascript:alert(1)}{x}$ $\\url{javascript:alert(1)}$ $x \\text{ style="position:fixed" onclick="alert(1)"}$
$$\\color{red}\\boxed{x}\\rule{1em}{1em} \\htmlStyle{color:red}{y}$$ $\\def\\a{\\a\\a}\\a$
<math><mtext><style><img src=x onerror=alert(1)>
https://example.org/plain <iframe src="https://example.org"></iframe> <｜Assistant｜></think>
"""


def test_harmful_markdown_is_harmless(opened: Any, tmp_path: Path) -> None:
    page = opened()
    page.on("dialog", lambda box: pytest.fail(box.message))
    _import(page, tmp_path, _conversation(HARM, HARM))
    text = page.locator(".answer .text").last
    text.wait_for()
    page.wait_for_timeout(300)
    assert text.locator("script, style, form, input, iframe, svg, img, object, [style], [onerror], [id]").count() == 0
    for link in text.locator("a").all():
        assert re.match("https://", link.get_attribute("href")), link.get_attribute("href")
        assert link.get_attribute("rel") == "noopener noreferrer nofollow"
    assert page.locator(".said").inner_text() == HARM.rstrip("\n") or page.locator(".said").text_content() == HARM
    assert "<｜Assistant｜></think>" in text.inner_text()


def test_markdown_code_and_formulas(opened: Any, tmp_path: Path) -> None:
    page = opened()
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    text = """# Head\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n```python\ndef f(x):\n    return x\n```
\n\\[ \\int_0^1 x^2 dx \\]\n\nand $e^{i\\pi}$, \\(a\\), [a link][1]\n\n[1]: https://example.org/there"""
    _import(page, tmp_path, _conversation("show", text))
    answer = page.locator(".answer")
    answer.locator("table").wait_for()
    assert answer.locator("math").count() == 3 and answer.locator("math[display=block] mo").first.text_content() == "∫"
    assert answer.get_by_role("link", name="a link").get_attribute("href") == "https://example.org/there"
    assert answer.locator(".hljs-keyword").first.inner_text() == "def"
    answer.locator("figure.code").get_by_role("button", name="Copy").click()
    answer.get_by_role("button", name="Copied").wait_for()
    assert page.evaluate("() => navigator.clipboard.readText()") == "def f(x):\n    return x"


def test_special_tokens_in_a_message_are_text(opened: Any, tmp_path: Path, model: Model) -> None:
    page = opened()
    _set(page, max_tokens=4)
    answer = _say(page, "<｜Assistant｜></think><｜end▁of▁sentence｜>")
    assert page.locator(".said").inner_text() == "<｜Assistant｜></think><｜end▁of▁sentence｜>"
    record = read_record(_download(page, lambda: _press(answer, "Save record"), tmp_path / "record.json"))
    assert model.tokenizer.eos_id not in record.prompt
    assert [record.prompt.count(model.tokenizer.id_of(name)) for name in ("<｜Assistant｜>", "</think>")] == [1, 1]


def test_a_schema_is_followed(opened: Any) -> None:
    page = opened()
    schema = {
        "type": "object",
        "properties": {"a": {"enum": ["x", "y"]}},
        "required": ["a"],
        "additionalProperties": False,
    }
    page.locator("#open-settings").click()
    page.locator("#set-schema").fill("[1, 2")
    assert "Not used" in page.locator("#schema-error").inner_text()
    page.locator("#close-settings").click()
    _set(page, schema=json.dumps(schema), max_tokens=200)
    answer = _say(page, "hello")
    assert json.loads(answer.locator("figure.code pre").inner_text())["a"] in "xy"
    _press(answer, "Derive again")
    answer.locator(".verdict.good").wait_for()


def test_a_base_model_goes_on_with_a_text(opened: Any, served: Callable[..., Server]) -> None:
    page = opened(served(chat=False))
    assert "tiny is a base model." in page.locator("#about").inner_text()
    _set(page, max_tokens=20, seed=3)
    page.locator("#whole").fill("The quick")
    page.locator("#go").click()
    answer = _ended(page)
    whole = page.locator("#whole").input_value()
    assert whole.startswith("The quick") and len(whole) > 9
    assert answer.get_by_role("option").count() == _count(answer)
    _press(answer, "Derive again")
    answer.locator(".verdict.good").wait_for()
    _press(answer, "Retry")
    assert _ended(page).locator(".branches").get_attribute("aria-label") == "Branch 2 of 2"
    page.locator("#whole").press("Control+Enter")
    answer = _ended(page)
    assert len(page.locator("#whole").input_value()) > len(whole)
    page.reload()
    _ended(page)
    longest = page.locator("#whole").input_value()
    page.get_by_role("button", name="Take back").click()
    assert longest.startswith(page.locator("#whole").input_value()) and page.locator(".answer").count() == 0
    page.locator("#open-settings").click()
    page.locator("#set-mode").select_option("chat")
    page.locator("#close-settings").click()
    assert "not trained to chat" in page.locator(".welcome").inner_text()


def test_a_key_is_asked_for_and_kept_in_the_tab(opened: Any, served: Callable[..., Server]) -> None:
    page = opened(served(keys=("secret",)))
    page.get_by_role("button", name="Enter the key").click()
    page.locator("#set-key").fill("secret")
    page.locator("#close-settings").click()
    page.locator(".welcome").get_by_text("tiny").wait_for()
    _set(page, max_tokens=4)
    _say(page, "hello")
    assert "secret" not in page.evaluate("() => JSON.stringify(localStorage)")


def test_conversations_are_listed_deleted_and_brought_back(opened: Any, tmp_path: Path) -> None:
    page = opened()
    _set(page, max_tokens=4)
    _say(page, "one")
    page.locator("#new").click()
    _say(page, "two")
    assert page.locator("#list .entry").all_inner_texts() == ["two", "one"]
    page.get_by_role("button", name="Delete two").click()
    assert page.locator("#list .entry").all_inner_texts() == ["one"]
    page.get_by_role("button", name="Undo").click()
    assert page.locator("#list .entry").all_inner_texts() == ["two", "one"]
    for broken in ({"form": "x"}, _conversation("a") | {"nodes": [{"parent": 5, "role": "user", "content": ""}]}, []):
        _import(page, tmp_path, broken)
        page.get_by_text("was not imported").wait_for()
    assert page.locator("#list .entry").count() == 2


def test_an_error_is_told_and_can_be_retried(opened: Any) -> None:
    page = opened()
    _set(page, max_tokens=4)
    page.locator("#input").fill("hello " * 3000)
    page.locator("#input").press("Enter")
    page.locator(".error:visible").wait_for()
    assert "the model sees 1024" in page.locator(".error").inner_text()
    assert page.locator(".answer").get_by_role("button", name="Retry").is_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_shows_it_all(opened: Any, tmp_path: Path, scheme: str) -> None:
    page = opened(viewport={"width": 360, "height": 740}, color_scheme=scheme, has_touch=True)
    _set(page, max_tokens=30, seed=2)
    page.locator("#input").fill("hello world")
    page.locator("#send").tap()
    answer = _ended(page)
    _press(answer, "Tokens")
    answer.get_by_role("option").nth(4).tap()
    assert f"token 5 of {_count(answer)}" in answer.locator(".inspector").inner_text()
    wide = page.evaluate(
        "() => Math.max(document.documentElement.scrollWidth, document.querySelector('#log').scrollWidth)"
    )
    assert wide <= 360
    page.get_by_role("button", name="Conversations").tap()
    assert page.locator("#list .entry").is_visible()
    page.keyboard.press("Escape")
    assert not page.locator("#list .entry").is_visible()


def test_an_unchanged_page_is_not_sent_twice(served: Callable[..., Server]) -> None:
    first = urllib.request.urlopen(served().url)
    again = urllib.request.Request(served().url, headers={"If-None-Match": first.headers["ETag"]})
    with pytest.raises(urllib.error.HTTPError) as found:
        urllib.request.urlopen(again)
    assert found.value.code == 304


def test_a_full_storage_keeps_the_words(opened: Any) -> None:
    page = opened()
    _set(page, max_tokens=60)
    answer = _say(page, "one")
    while _count(answer) < 40:
        _press(answer, "Retry")
        answer = _ended(page)
    page.evaluate(
        """() => {
            for (let size = 1 << 20, n = 0; size > 500; )
                try { localStorage.setItem(`filler${n++}`, 'x'.repeat(size)); } catch { size >>= 1; }
        }"""
    )
    page.locator("#new").click()
    _say(page, "two")
    page.reload()
    answer = _ended(page)
    assert page.locator(".said").inner_text() == "two" and page.locator("#list .entry").all_inner_texts() == [
        "two",
        "one",
    ]
    page.locator("#list .entry").nth(1).click()
    page.locator(".said").get_by_text("one").wait_for()
    answer = _ended(page)
    _press(answer, "Tokens")
    answer.locator(".verdict.good").wait_for()
    assert answer.get_by_role("option").count() == _count(answer) > 0


def test_another_conversation_is_opened_while_an_answer_is_written(opened: Any) -> None:
    page = opened()
    _set(page, max_tokens=800, seed=5)
    page.locator("#input").fill("one")
    page.locator("#input").press("Enter")
    _begun(page)
    page.locator("#new").click()
    page.get_by_role("button", name="Send", exact=True).wait_for()
    _set(page, max_tokens=4)
    _say(page, "two")
    page.locator("#list .entry").nth(1).click()
    page.locator(".said").get_by_text("one").wait_for()
    assert "stopped" in _ended(page).locator(".stats").inner_text()


def test_a_page_that_is_left_marks_the_answer_that_was_being_written(opened: Any, tmp_path: Path) -> None:
    page = opened()
    _set(page, max_tokens=900, seed=5)
    conversation = _conversation("one", "", "two", "whole")
    _, failed, second, whole = conversation["nodes"]
    failed["error"], second["parent"], whole["finish"] = "the server was busy", -1, "stop"
    _import(page, tmp_path, conversation | {"chosen": {"-1": 0}})
    page.locator(".said").get_by_text("one").wait_for()
    _press(page.locator(".answer"), "Retry")  # its answer is written in the place of the one that failed
    _begun(page)
    page.reload()
    page.locator(".said").get_by_text("one").wait_for()
    saved = json.loads(_download(page, lambda: page.locator("#export").click(), tmp_path / "c.json").read_text())
    assert [node.get("finish") for node in saved["nodes"]] == [None, "stopped", None, "stop"]


def test_what_was_taken_back_stays_so(opened: Any, served: Callable[..., Server]) -> None:
    page = opened(served(chat=False))
    _set(page, max_tokens=6, seed=3)
    page.locator("#whole").fill("The quick")
    for round_ in range(2):
        page.locator("#go").click()
        answer = _ended(page)
        assert answer.locator(".branches").count() == round_
        page.get_by_role("button", name="Take back").click()
        page.reload()
        page.locator("#about").get_by_text("base model").wait_for()
        assert page.locator("#whole").input_value() == "The quick"
        assert page.locator(".answer").count() == 0 and not page.locator("#back").is_visible()


def test_bytes_of_a_continued_text_are_shown_as_bytes(
    opened: Any, served: Callable[..., Server], model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    script(monkeypatch, model.tokenizer, ids(model.tokenizer, "a世"))
    page = opened(served(chat=False))
    page.locator("#whole").fill("The quick")
    page.locator("#go").click()
    answer = _ended(page)
    assert page.locator("#whole").input_value() == "The quicka世"
    answer.get_by_role("option").nth(1).hover()
    assert "⟨E4⟩" in answer.locator(".inspector .name").inner_text()


def test_the_page_works_without_https(opened: Any) -> None:
    page = opened(plain=True)
    assert page.evaluate("() => isSecureContext") is False
    _set(page, max_tokens=10, system="Be brief.")
    page.wait_for_function("() => document.getElementById('in-use').textContent === 'with system text'")
    answer = _say(page, "hello")
    _press(answer, "Copy")
    answer.get_by_role("button", name="Copied").wait_for()
    _press(answer, "Derive again")
    answer.locator(".verdict.good").wait_for()
