"""One tiny model and one server for all tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator

import anthropic
import openai
import pytest

from clearseek.inference.model import Model
from tests.serve.served import Served, serving, tiny_model


@pytest.fixture(scope="session")
def model() -> Model:
    """A tiny random model."""
    return tiny_model()


@pytest.fixture(scope="session")
def served(model: Model) -> Iterator[Served]:
    """A server that all tests may use, and none may break."""
    with serving(model) as running:
        yield running


@pytest.fixture(scope="session")
def client(served: Served) -> openai.OpenAI:
    """OpenAI's own client."""
    return openai.OpenAI(base_url=served.url + "/v1", api_key="none", max_retries=0)


@pytest.fixture(scope="session")
def claude(served: Served) -> anthropic.Anthropic:
    """Anthropic's own client."""
    return anthropic.Anthropic(base_url=served.url, api_key="none", max_retries=0)
