"""ClearSeek: DeepSeek-style language models with nothing held back."""

__version__ = "0.2.0"
