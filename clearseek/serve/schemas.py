"""What clients send: OpenAI's chat and completions, as far as they are understood."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Number = Annotated[float, Field(allow_inf_nan=False)]
Text = Annotated[str, Field(max_length=512)]
Objects = Annotated[list[dict[str, Any]], Field(fail_fast=True)]
"""Objects, of which the first wrong one is told: a request can hold a million of them."""


class Asked(BaseModel):
    """Settings that chat and completions share."""

    model_config = ConfigDict(extra="ignore", use_attribute_docstrings=True, protected_namespaces=())

    model: str = ""
    """Name of the served model, or empty."""
    temperature: Annotated[Number, Field(ge=0, le=100)] | None = None
    top_p: Annotated[Number, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1, lt=2**31)] | None = None
    min_p: Annotated[Number, Field(ge=0, le=1)] | None = None
    n: Annotated[int, Field(ge=1, le=16)] | None = None
    """Answers."""
    stop: Text | Annotated[list[Text], Field(max_length=16, fail_fast=True)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    """Seed of the draws; drawn, and told in the answer, where none is given."""
    stream: bool | None = None
    stream_options: dict[str, Any] | None = None
    presence_penalty: Annotated[Number, Field(ge=-10, le=10)] | None = None
    frequency_penalty: Annotated[Number, Field(ge=-10, le=10)] | None = None
    repetition_penalty: Annotated[Number, Field(ge=0.01, le=10)] | None = None
    logit_bias: Annotated[dict[str, Any], Field(max_length=1024)] | None = None
    """Numbers from -100 to 100 by tokens' ids."""
    record: bool = False
    """Whether the answer carries the record by which it can be derived again."""
    details: bool = False
    """Whether tokens carry the experts that they visited and what had been drafted in their places."""


class Chat(Asked):
    """``/v1/chat/completions``."""

    messages: Annotated[Objects, Field(min_length=1, max_length=4096)]
    max_tokens: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    tools: Annotated[Objects, Field(max_length=128)] | None = None
    tool_choice: str | dict[str, Any] | None = None
    """`none`, `auto`, `required`, or a function by its name."""
    parallel_tool_calls: bool | None = None
    """False ends an answer with its first call."""
    response_format: dict[str, Any] | None = None
    thinking: bool | dict[str, Any] | None = None
    enable_thinking: bool | None = None
    reasoning_effort: str | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    continue_final_message: bool = False
    """Whether the answer goes on with the last message, an assistant's, rather than follow it."""

    def thinks(self) -> bool:
        """Whether the model is to think first, by whichever name the client says it."""
        inner = self.chat_template_kwargs or {}
        for value in (self.thinking, self.enable_thinking, inner.get("thinking"), inner.get("enable_thinking")):
            if isinstance(value, dict):
                return value.get("type") == "enabled"
            if isinstance(value, bool):
                return value
        return self.reasoning_effort not in (None, "none", "minimal")


Prompts = Annotated[list[str], Field(min_length=1, max_length=64, fail_fast=True)]
Ids = Annotated[list[Annotated[int, Field(strict=True)]], Field(min_length=1, max_length=2**20, fail_fast=True)]
IdsOfEach = Annotated[list[Ids], Field(min_length=1, max_length=64, fail_fast=True)]


class Completion(Asked):
    """``/v1/completions``."""

    prompt: str | Prompts | Ids | IdsOfEach
    max_tokens: Annotated[int, Field(ge=0, lt=2**31)] | None = 16
    echo: bool | None = None
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    suffix: Literal[""] | None = None


class Tokenize(BaseModel):
    """``/tokenize``: a text, or a conversation."""

    model: str = ""
    prompt: str | None = None
    content: str | None = None
    messages: Objects | None = None
    tools: Objects | None = None
    add_special_tokens: bool = True
