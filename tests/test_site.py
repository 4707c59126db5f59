"""The pages as a whole, in the repository and on the site: where links lead, how pages are found, who drew a picture.

Two renderers read the same Markdown: GitHub, for which markdown-it stands here, and Zensical. Both must see the same
headings, paragraphs, lists and tables, and both must make the anchors that links name.
"""

from __future__ import annotations

import json
import re
import resource
import shutil
import subprocess
import sys
from collections import Counter
from functools import cache
from html.parser import HTMLParser
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
import yaml
from markdown_it import MarkdownIt

from docs.make import parts, site

ROOT = parts.ROOT
PAGES = parts.pages()
MARKDOWN = MarkdownIt("commonmark", {"html": True}).enable("table")
PICTURES = sorted(path.name for path in (ROOT / "docs" / "pictures").iterdir())
BLOCKS = {"h1", "h2", "h3", "h4", "h5", "h6", "p", "ul", "ol", "li", "pre", "table", "tr", "th", "td", "blockquote",
          "img", "strong", "em", "hr"}  # fmt: skip


class Html(HTMLParser):
    """What a page is built from (below ``article``, if there is one), its anchors, and what it refers to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.blocks: list[str] = []
        self.anchors: set[str] = set()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self._inside = "<article" not in text
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self._inside |= tag == "article"
        if self._inside and tag in BLOCKS:
            self.blocks.append(tag)
        self.anchors |= {given[name] for name in ("id", "name") if name in given}
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        elif "href" in given or "src" in given:
            self.loaded.append(given.get("href") or given["src"])

    def handle_endtag(self, tag: str) -> None:
        self._inside &= tag != "article"


@cache
def targets(page: Path) -> list[str]:
    """Links and pictures of a page."""
    tokens = [inner for token in MARKDOWN.parse(page.read_text(encoding="utf-8")) for inner in token.children or ()]
    return [str(token.attrs[key]) for token in tokens for key in ("href", "src") if key in token.attrs]


@cache
def anchors(page: Path) -> set[str]:
    """Anchors that GitHub gives to a page's headings: the words in lower case, joined; repeated ones are numbered."""
    tokens, seen, found = MARKDOWN.parse(page.read_text(encoding="utf-8")), Counter[str](), set[str]()
    for opening, inline in pairwise(tokens):
        if opening.type == "heading_open":
            words = "".join(each.content for each in inline.children or () if each.type in ("text", "code_inline"))
            slug = re.sub(r"[^\w\- ]", "", words.lower().strip()).replace(" ", "-")
            found.add(f"{slug}-{seen[slug]}" if seen[slug] else slug)
            seen[slug] += 1
    return found


def is_local(target: str) -> bool:
    return not urlsplit(target).scheme and not urlsplit(target).netloc


@pytest.mark.parametrize("page", [*PAGES, "tests/fixtures/README.md"])
def test_links_lead_somewhere(page: str) -> None:
    for target in filter(is_local, targets(ROOT / page)):
        path, _, anchor = target.partition("#")
        file = ((ROOT / page).parent / path).resolve() if path else ROOT / page
        assert file.exists() and file.is_relative_to(ROOT), target
        assert not anchor or anchor in anchors(file), target


def configuration() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    return loaded


def test_every_page_is_in_the_navigation_once() -> None:
    listed = [page for section in configuration()["nav"] for pages in section.values() for each in pages
              for page in each.values()]  # fmt: skip
    assert sorted(listed) == sorted(map(site.place, PAGES.values())), "name each page in the nav of mkdocs.yml"


def test_every_page_is_reached_from_the_readme() -> None:
    """In the repository there is no navigation."""
    reached, ahead = set[str](), ["README.md"]
    while ahead:
        page = ahead.pop()
        if page in PAGES and page not in reached:
            reached.add(page)
            links = (target.partition("#")[0] for target in targets(ROOT / page) if is_local(target))
            found = [((ROOT / page).parent / link).resolve() for link in links if link]
            ahead += [each.relative_to(ROOT).as_posix() for each in found]
    assert set(PAGES) - reached == set()


@pytest.mark.parametrize("page", PAGES)
def test_only_what_the_repository_shows_is_used(page: str) -> None:
    text = re.sub(r"^```.*?^```", "", PAGES[page].read_text(encoding="utf-8"), flags=re.S | re.M)
    for syntax in (r"^ *!!! ", r"^ *\?\?\?\+? ", r"^ *=== \"", r"\]\([^)]*\)\{", r"\{[:#.][^}`]*\} *$", r"\[TOC\]",
                   r"--8<--", r"^\[\^[^\]]+\]:", r"^---\ntitle:"):  # fmt: skip
        found = re.search(syntax, text, re.M)
        assert not found, f"only Zensical reads {found and found[0]!r}"


# --- Pictures ---------------------------------------------------------------------------------------------------------


def test_every_picture_is_shown_and_has_a_script_that_draws_it() -> None:
    shown = {Path(target).name for page in PAGES.values() for target in targets(page) if "pictures/" in target}
    scripts = [*ROOT.glob("benchmarks/*.py"), *ROOT.glob("docs/make/*.py"), *ROOT.glob("clearseek/**/*.py")]
    sources = "\n".join(script.read_text(encoding="utf-8") for script in scripts)
    assert sorted(shown) == PICTURES
    assert [name for name in PICTURES if name not in sources] == []


@pytest.mark.slow
def test_pictures_are_what_their_results_give(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawn again from the result files; another matplotlib or font may move some points."""
    from matplotlib.image import imread

    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    learning, loss_gap = import_module("learning"), import_module("fp8_loss_gap")
    monkeypatch.setattr(loss_gap, "PICTURES", tmp_path)
    learning.draw(json.loads(learning.RESULT.read_text(encoding="utf-8")), tmp_path / "learning.png")
    loss_gap.draw(json.loads(loss_gap.RESULT.read_text(encoding="utf-8"))["runs"])
    ideas = import_module("pictures")
    for name in ideas.DRAWN:
        ideas.draw(name, tmp_path)
    for name in ("learning.png", "fp8-loss-gap.png", *(f"{name}.png" for name in ideas.DRAWN)):
        drawn, kept = imread(tmp_path / name), imread(ROOT / "docs" / "pictures" / name)
        assert drawn.shape == kept.shape and abs(drawn - kept).mean() < 0.02, name


# --- The site ---------------------------------------------------------------------------------------------------------


def test_links_to_sources_lead_to_pages_that_show_them() -> None:
    found: list[Path] = []
    text = """[a](../clearseek/recipe.py) and [b](plan.md#x), `[c](d.py)` [e](https://example.org/f.py)
```text
[g](../README.md) [h](../clearseek/recipe.py)
```
[i](../clearseek/model), [j](../benchmarks/results/load.json)
![k](pictures/loss.png) [`l`](../README.md)
"""
    assert site.relinked(text, ROOT / "docs" / "index.md", found.append).splitlines() == [
        "[a](clearseek/recipe.py.md) and [b](docs/plan.md#x), `[c](d.py)` [e](https://example.org/f.py)",
        "```text",
        "[g](../README.md) [h](../clearseek/recipe.py)",
        "```",
        "[i](clearseek/model/index.md), [j](benchmarks/results/load.json)",
        "![k](docs/pictures/loss.png) [`l`](repository.md)",
    ]
    names = ["clearseek/recipe.py", "clearseek/model", "benchmarks/results/load.json", "docs/pictures/loss.png"]
    assert found == [ROOT / name for name in names]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built without a network where that can be taken away."""
    pytest.importorskip("zensical", reason="the site needs Zensical: pip install -e '.[docs]'")
    place = tmp_path_factory.mktemp("site")
    alone = ["unshare", "--map-root-user", "--net"]
    if not shutil.which("unshare") or subprocess.run([*alone, "true"], capture_output=True).returncode:
        alone = []
    code = f"from pathlib import Path; from docs.make.site import build; print(build(Path({str(place)!r})))"
    begun = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    said = subprocess.run([*alone, sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (said.returncode, said.stdout.strip(), said.stderr) == (0, "", "")
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - begun < 60
    return place / "site"


@pytest.fixture(scope="module")
def shown(built: Path) -> dict[str, Html]:
    """The site's pages, by their paths."""
    files = [file for file in built.rglob("*.html") if file.name != "404.html"]
    return {file.relative_to(built).as_posix(): Html(file.read_text(encoding="utf-8")) for file in files}


def on_the_site(page: str) -> str:
    return site.place(ROOT / page).removesuffix(".md") + ".html"


@pytest.mark.slow
def test_every_link_and_anchor_of_the_site_is_there(shown: dict[str, Html], built: Path) -> None:
    wrong = []
    assert {on_the_site(page) for page in PAGES} <= set(shown)
    for name, page in shown.items():
        for target in filter(is_local, [*page.links, *page.loaded]):
            path, _, anchor = target.partition("#")
            file = ((built / name).parent / unquote(path)).resolve() if path else built / name
            file = file / "index.html" if file.is_dir() else file
            there = shown.get(file.relative_to(built.resolve()).as_posix()) if path else page
            if not file.is_file() or (anchor and there and unquote(anchor) not in there.anchors):
                wrong.append((name, target))
    assert wrong == []


@pytest.mark.slow
def test_the_site_loads_nothing_from_other_hosts(shown: dict[str, Html], built: Path) -> None:
    asked = {target for page in shown.values() for target in page.loaded if not is_local(target)}
    assert asked == set()
    styles = "".join(path.read_text(encoding="utf-8") for path in built.rglob("*.css"))
    assert re.findall(r"(?:url\(|@import)[\"' ]*(?:https?:)?//[^)]*", styles) == []


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_the_site_shows_a_page_as_the_repository_does(page: str, shown: dict[str, Html]) -> None:
    """The same headings, paragraphs, lists, tables and pictures, in the same order."""
    here = Html(MARKDOWN.render(PAGES[page].read_text(encoding="utf-8")))
    assert shown[on_the_site(page)].blocks == here.blocks


@pytest.mark.slow
def test_search_finds_pages_and_no_source(built: Path) -> None:
    items = json.loads((built / "search.json").read_text(encoding="utf-8"))["items"]
    found = {item["location"].partition("#")[0] for item in items}
    assert {on_the_site(page) for page in PAGES} <= found
    assert [name for name in found if re.search(r"\.\w+\.html$", name)] == []


@pytest.mark.slow
@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_in_a_browser(width: int, scheme: str, built: Path) -> None:
    """Opened as files, without server or network: nothing is wider than the window, the search finds a setting."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs a browser: make browser-test")
    wrong: list[str] = []
    with playwright.sync_playwright() as p:
        try:
            browser = p.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        except playwright.Error as error:
            pytest.skip(f"no Chromium starts here: {str(error).splitlines()[0]}")
        page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        page.on("pageerror", lambda error: wrong.append(f"error: {error}"))
        page.on("request", lambda asked: None if asked.url.startswith(("file:", "data:")) else wrong.append(asked.url))
        for name in ("docs/settings.html", "docs/api.html", "clearseek/model/attention.py.html", "index.html"):
            page.goto((built / name).as_uri())
            page.wait_for_load_state()
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), name
        dark = page.evaluate("getComputedStyle(document.body).backgroundColor.match(/[0-9]+/)[0] < 128")
        assert dark == (scheme == "dark")
        if width > 1000:
            field = page.get_by_placeholder("Search")
            field.wait_for(state="attached")
            page.locator(".md-search__button").click()
            field.fill("bias_update_speed")
            page.locator("a", has=page.locator("mark"), has_text="[train]").wait_for()
        browser.close()
    assert wrong == []
