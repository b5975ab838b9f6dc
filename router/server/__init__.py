"""The proxy: OpenAI's wire over the gateway."""

from .app import make_app

__all__ = ["make_app"]
