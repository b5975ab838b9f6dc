"""LangChain embeddings by the gateway's local models."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

from langchain_core.embeddings import Embeddings
from langchain_core.utils import from_env, secret_from_env
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, SecretStr

from smallfirst.router.settings import Settings
from smallfirst.router.sync import SyncGateway

from .backend import Backend, open_gateway


class SmallFirstEmbeddings(BaseModel, Embeddings):
    """Embeddings over smallfirst, in this process or against a running proxy; vectors have length 1.

    Args:
        model: A local model that is configured with `embeddings: true`.
        base_url: A running proxy, with `/v1`. Default: `SMALLFIRST_BASE_URL`, else in this process.
        api_key: The proxy's key, where it asks for one. Default: `SMALLFIRST_API_KEY`.
        settings: For the gateway in this process. Default: as `smallfirst serve` reads them.
        gateway: A gateway that you made; it is closed with this object. A `SyncGateway` may be shared, and stays open.
        batch_size: Texts in one call.

    Raises, when called:
        ModelNotFound: The model is not configured for embeddings.
        RequestError: A text is empty or longer than the model's context, or the model is not available.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    model: str
    base_url: str | None = Field(default_factory=from_env("SMALLFIRST_BASE_URL", default=None))
    api_key: SecretStr | None = Field(default_factory=secret_from_env("SMALLFIRST_API_KEY", default=None))
    settings: Settings | None = Field(default=None, exclude=True)
    gateway: Backend | SyncGateway | None = Field(default=None, exclude=True)
    batch_size: int = Field(default=128, ge=1, le=2048)

    _sync: SyncGateway | None = PrivateAttr(default=None)
    _lock: threading.Lock = PrivateAttr(default_factory=threading.Lock)

    def _runner(self) -> SyncGateway:
        if isinstance(self.gateway, SyncGateway):
            return self.gateway
        with self._lock:
            if self._sync is None:
                named = self.settings is None or "base_url" in self.model_fields_set
                url = self.base_url if named else None
                self._sync = open_gateway(self.gateway, url, self.api_key, self.settings)
            return self._sync

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Return a vector for each text."""
        runner = self._runner()
        return runner.run(self._embed(runner, texts))

    def embed_query(self, text: str) -> list[float]:
        """Return a text's vector."""
        return self.embed_documents([text])[0]

    async def aembed_documents(self, texts: list[str]) -> list[list[float]]:
        """Return a vector for each text."""
        runner = self._runner()
        return await runner.arun(self._embed(runner, texts))

    async def aembed_query(self, text: str) -> list[float]:
        """Return a text's vector."""
        return (await self.aembed_documents([text]))[0]

    async def _embed(self, runner: SyncGateway, texts: Sequence[str]) -> list[list[float]]:
        found: list[list[float]] = []
        for at in range(0, len(texts), self.batch_size):
            vectors, _ = await runner.gateway.embed(self.model, texts[at : at + self.batch_size])
            found += vectors
        return found

    def close(self) -> None:
        """Free the model; safe to call twice. A `SyncGateway` that was given stays open."""
        with self._lock:
            sync, self._sync = self._sync, None
        if sync is not None:
            sync.close()

    def __enter__(self) -> SmallFirstEmbeddings:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()
