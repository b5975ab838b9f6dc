"""LangChain's own standard tests of chat models: every test, with every capability that ChatSmallFirst claims."""

from collections.abc import Iterator
from typing import Any, Literal

import pytest
from fixtures.loopback_cloud import LoopbackCloud
from fixtures.loopback_web import LoopbackWeb
from fixtures.serving import CLOUD, LOCAL, serving
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, HumanMessage
from langchain_tests.integration_tests import ChatModelIntegrationTests
from langchain_tests.unit_tests import ChatModelUnitTests

from smallfirst.agents import ChatSmallFirst
from smallfirst.router.gateway import Gateway
from smallfirst.router.models.local.model import LocalModel
from smallfirst.router.remote.gateway import RemoteGateway
from smallfirst.router.settings import (
    CacheSettings,
    CloudModelSettings,
    LedgerSettings,
    Settings,
    default_local_model,
)
from smallfirst.router.sync import SyncGateway

Detail = Literal[
    "audio_input", "audio_output", "reasoning_output", "cache_read_input", "cache_creation_input"
]


class TestStandardUnit(ChatModelUnitTests):
    """`test_serdes` skips itself: LangChain loads only classes of its own list of packages."""

    @property
    def chat_model_class(self) -> type[ChatSmallFirst]:
        return ChatSmallFirst

    @property
    def init_from_env_params(self) -> tuple[dict[str, str], dict[str, Any], dict[str, Any]]:
        environ = {"SMALLFIRST_BASE_URL": "http://127.0.0.1:9/v1", "SMALLFIRST_API_KEY": "sk-test"}
        return environ, {}, {"base_url": "http://127.0.0.1:9/v1", "api_key": "sk-test"}


@pytest.fixture
def vcr_config() -> dict[str, Any]:
    # Nothing is recorded: the real gateway and the loopback cloud answer each time.
    return {"ignore_localhost": True, "record_mode": "none"}


@pytest.fixture(scope="module")
def settings(_cloud_server: LoopbackCloud, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Without a cache, so that every answer is a model's."""
    big = CloudModelSettings(name=CLOUD, kind="openai", base_url=_cloud_server.base_url)
    ledger = LedgerSettings(path=tmp_path_factory.mktemp("standard") / "ledger.db")
    return Settings(models=(default_local_model(), big), ledger=ledger, cache=CacheSettings(enabled=False))


@pytest.fixture(scope="module")
def in_this_process(settings: Settings, local_model: LocalModel) -> Iterator[SyncGateway]:
    """A gateway that all tests share, as a program's models would."""
    with SyncGateway(gateway=Gateway(settings, models={LOCAL: local_model})) as gateway:
        yield gateway


@pytest.fixture(scope="module")
def over_a_proxy(settings: Settings, local_model: LocalModel) -> Iterator[SyncGateway]:
    """A running proxy's gateway."""
    with (
        serving(Gateway(settings, models={LOCAL: local_model})) as served,
        SyncGateway(gateway=RemoteGateway(served.base_url)) as gateway,
    ):
        yield gateway


@pytest.mark.filterwarnings("ignore:Benchmark fixture was not used")
class _Standard(ChatModelIntegrationTests):
    """What both ways to a gateway claim."""

    gateway: SyncGateway

    @pytest.fixture(autouse=True)
    def _answering(self, sensible_cloud: LoopbackCloud, loopback_web: LoopbackWeb) -> None:
        """The cloud is there, and the web that some tests fetch pictures from."""

    @property
    def chat_model_class(self) -> type[ChatSmallFirst]:
        return ChatSmallFirst

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"model": CLOUD, "gateway": self.gateway}

    @property
    def model_override_value(self) -> str:
        return LOCAL

    supports_json_mode = True
    supports_image_inputs = True
    supports_image_urls = True
    supports_pdf_inputs = True
    supports_audio_inputs = True
    supports_image_tool_message = True
    supports_pdf_tool_message = True
    supports_anthropic_inputs = True
    enable_vcr_tests = True

    @property
    def supported_usage_metadata_details(self) -> dict[Literal["invoke", "stream"], list[Detail]]:
        details: list[Detail] = ["audio_input", "reasoning_output", "cache_read_input"]
        return {"invoke": details, "stream": details}

    def _ask(self, message: HumanMessage, *, stream: bool, **fields: Any) -> AIMessage:
        model = self.chat_model_class(**self.chat_model_params, **fields)
        if not stream:
            return model.invoke([message])
        whole: Any = None
        for chunk in model.stream([message]):
            whole = chunk if whole is None else whole + chunk
        assert isinstance(whole, AIMessage)
        return whole

    def invoke_with_audio_input(self, *, stream: bool = False) -> AIMessage:
        sound = {"type": "audio", "mime_type": "audio/wav", "base64": "UklGRg=="}
        return self._ask(HumanMessage([{"type": "text", "text": "What is it?"}, sound]), stream=stream)

    def invoke_with_reasoning_output(self, *, stream: bool = False) -> AIMessage:
        return self._ask(HumanMessage("Think."), stream=stream, model_kwargs={"reasoning_effort": "low"})

    def invoke_with_cache_read_input(self, *, stream: bool = False) -> AIMessage:
        return self._ask(HumanMessage("Again?"), stream=stream)


class TestStandardInThisProcess(_Standard):
    @pytest.fixture(autouse=True)
    def _gateway(self, in_this_process: SyncGateway) -> None:
        self.gateway = in_this_process


class TestStandardOverAProxy(_Standard):
    @pytest.fixture(autouse=True)
    def _gateway(self, over_a_proxy: SyncGateway) -> None:
        self.gateway = over_a_proxy


class TestStandardOfTheLocalModel(ChatModelIntegrationTests):
    """The real small model. Jokes are beyond it: its structured output is tested in test_langchain.py."""

    has_structured_output = False

    @pytest.fixture(autouse=True)
    def _gateway(self, in_this_process: SyncGateway, sensible_cloud: LoopbackCloud) -> None:
        self.gateway = in_this_process

    @property
    def chat_model_class(self) -> type[ChatSmallFirst]:
        return ChatSmallFirst

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"model": LOCAL, "gateway": self.gateway, "max_tokens": 60, "stop": [".", "!", "?"]}

    @property
    def model_override_value(self) -> str:
        return CLOUD

    @pytest.mark.xfail(
        reason="needs a model that sees by itself that a question asks for a tool", strict=True
    )
    @pytest.mark.parametrize("model", [{}, {"output_version": "v1"}], indirect=True)
    def test_agent_loop(self, model: BaseChatModel) -> None:
        super().test_agent_loop(model)
