"""Serving a model over HTTP: OpenAI's and Anthropic's forms, a page, metrics."""
