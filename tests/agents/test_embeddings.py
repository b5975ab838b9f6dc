"""SmallFirstEmbeddings: LangChain's standard tests, in this process and over a proxy, with the real local model."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fixtures.serving import serving
from langchain_tests.integration_tests import EmbeddingsIntegrationTests
from langchain_tests.unit_tests import EmbeddingsUnitTests

from smallfirst.agents import SmallFirstEmbeddings
from smallfirst.router.errors import ModelNotFound, RequestError
from smallfirst.router.gateway import Gateway
from smallfirst.router.remote.gateway import RemoteGateway
from smallfirst.router.settings import LedgerSettings, Settings, default_local_model
from smallfirst.router.sync import SyncGateway

MODEL = "embedder"


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, models_dir: Path) -> Iterator[Gateway]:
    """A gateway whose local model serves embeddings; one context is enough for short texts."""
    fields = {"name": MODEL, "embeddings": True, "context_tokens": 256}
    model = default_local_model().model_copy(update=fields)
    ledger = LedgerSettings(path=tmp_path_factory.mktemp("embeddings") / "ledger.db")
    made = Gateway(Settings(models=(model,), ledger=ledger, models_dir=models_dir))
    with SyncGateway(gateway=made):
        yield made


@pytest.fixture(scope="module")
def in_this_process(gateway: Gateway) -> Iterator[SyncGateway]:
    with SyncGateway(gateway=gateway) as sync:
        yield sync


class TestStandardUnit(EmbeddingsUnitTests):
    @property
    def embeddings_class(self) -> type[SmallFirstEmbeddings]:
        return SmallFirstEmbeddings

    @property
    def embedding_model_params(self) -> dict[str, Any]:
        return {"model": MODEL}

    @property
    def init_from_env_params(self) -> tuple[dict[str, str], dict[str, Any], dict[str, Any]]:
        environ = {"SMALLFIRST_BASE_URL": "http://127.0.0.1:9/v1", "SMALLFIRST_API_KEY": "sk-test"}
        return environ, {"model": MODEL}, {"base_url": "http://127.0.0.1:9/v1", "api_key": "sk-test"}


class _Standard(EmbeddingsIntegrationTests):
    gateway: SyncGateway

    @property
    def embeddings_class(self) -> type[SmallFirstEmbeddings]:
        return SmallFirstEmbeddings

    @property
    def embedding_model_params(self) -> dict[str, Any]:
        return {"model": MODEL, "gateway": self.gateway}


class TestStandardInThisProcess(_Standard):
    @pytest.fixture(autouse=True)
    def _gateway(self, in_this_process: SyncGateway) -> None:
        self.gateway = in_this_process


class TestStandardOverAProxy(_Standard):
    @pytest.fixture(autouse=True)
    def _gateway(self, over_a_proxy: SyncGateway) -> None:
        self.gateway = over_a_proxy


@pytest.fixture(scope="module")
def over_a_proxy(gateway: Gateway) -> Iterator[SyncGateway]:
    with (
        serving(gateway) as served,
        SyncGateway(gateway=RemoteGateway(served.base_url)) as sync,
    ):
        yield sync


def test_vectors_have_length_1_and_come_in_order(in_this_process: SyncGateway) -> None:
    made = SmallFirstEmbeddings(model=MODEL, gateway=in_this_process, batch_size=2)
    texts = ["a cat", "the stock market", "a dog"]
    vectors = made.embed_documents(texts)
    assert [math.hypot(*vector) for vector in vectors] == pytest.approx([1, 1, 1], abs=1e-4)
    for text, vector in zip(texts, vectors, strict=True):
        assert made.embed_query(text) == pytest.approx(vector, abs=0.02)


def test_a_model_without_embeddings_is_named(in_this_process: SyncGateway) -> None:
    with pytest.raises(ModelNotFound, match="Available: embedder"):
        SmallFirstEmbeddings(model="gpt-4.1", gateway=in_this_process).embed_query("hi")


def test_a_proxys_error_keeps_its_status(over_a_proxy: SyncGateway) -> None:
    with pytest.raises(RequestError, match="Available: embedder") as caught:
        SmallFirstEmbeddings(model="gpt-4.1", gateway=over_a_proxy).embed_query("hi")
    assert caught.value.status == 404
