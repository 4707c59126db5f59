# Two commands: `make demo` trains a small DeepSeek-V3 here; `make test` runs the tests. Both make their own .venv.
# Without make:  python3 -m venv .venv && .venv/bin/pip install -e . && .venv/bin/clearseek quickstart
PYTHON ?= python3
BIN := .venv/bin

demo: .venv/installed
	$(BIN)/clearseek quickstart

test: .venv/installed-dev
	$(BIN)/python -m pytest --all

test-quick: .venv/installed-dev
	$(BIN)/python -m pytest

lint: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

browser: .venv/installed-dev
	$(BIN)/python -m pip install --quiet --disable-pip-version-check playwright
	command -v chromium >/dev/null || $(BIN)/python -m playwright install --only-shell chromium
	$(BIN)/python .ci/starts_chromium.py

browser-test: browser
	$(BIN)/python -m pytest tests/serve/test_page.py tests/test_site.py::test_in_a_browser

docs: .venv/installed-dev
	$(BIN)/python -m docs.make

wheel: .venv/installed-dev
	.ci/wheel $(BIN)/python

.venv/installed: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "ClearSeek needs Python 3.11 or newer: set PYTHON=")'
	$(PYTHON) -m venv .venv
	@echo "Installing ClearSeek into .venv; most of it is PyTorch: a minute or two"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	touch $@

.venv/installed-dev: .venv/installed
	@echo "Installing what the tests need into .venv"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $@

clean:
	rm -rf .venv .cache build dist site *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

.PHONY: demo test test-quick lint browser browser-test docs wheel clean
