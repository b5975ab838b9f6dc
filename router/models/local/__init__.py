"""Local models: GGUF files that llama.cpp runs in this process."""

from .model import LocalModel

__all__ = ["LocalModel"]
