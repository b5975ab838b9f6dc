"""LangChain embeddings by the gateway's local models."""

from __future__ import annotations

from collections.abc import Sequence

from langchain_core.embeddings import Embeddings
from pydantic import Field

from smallfirst.router.sync import SyncGateway

from .backend import AsksGateway


class SmallFirstEmbeddings(AsksGateway, Embeddings):
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

    model: str
    batch_size: int = Field(default=128, ge=1, le=2048)

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
