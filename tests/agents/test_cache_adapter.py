"""SmallFirstCache: LangChain's standard tests over both stores, and what keeps tenants apart."""

import asyncio
from collections.abc import Iterator

import pytest
from fixtures.redis_server import RedisServer
from langchain_core.caches import BaseCache
from langchain_core.language_models.fake_chat_models import FakeListChatModel
from langchain_core.messages import AIMessage
from langchain_core.outputs import ChatGeneration, Generation
from langchain_tests.integration_tests import AsyncCacheTestSuite, SyncCacheTestSuite
from pydantic import SecretStr

from smallfirst.agents import SmallFirstCache
from smallfirst.router.cache.key import key_prefix
from smallfirst.router.settings import CacheSettings


@pytest.fixture(params=["memory", "redis"])
def settings(request: pytest.FixtureRequest) -> CacheSettings:
    if request.param == "memory":
        return CacheSettings(ttl=60)
    server: RedisServer = request.getfixturevalue("redis_server")
    return CacheSettings(url=SecretStr(server.url), ttl=60, timeout=2.0)


class _WithCache:
    @pytest.fixture
    def cache(self, settings: CacheSettings) -> Iterator[BaseCache]:
        with SmallFirstCache(settings) as made:
            yield made


class TestStandardSync(_WithCache, SyncCacheTestSuite):
    pass


class TestStandardAsync(_WithCache, AsyncCacheTestSuite):
    pass


def test_a_chat_message_comes_back_whole(settings: CacheSettings) -> None:
    call = {"name": "search", "args": {"q": "x"}, "id": "c1", "type": "tool_call"}
    message = AIMessage(
        "hi", tool_calls=[call], response_metadata={"route": "local"}, additional_kwargs={"refusal": "no"}
    )
    with SmallFirstCache(settings) as cache:
        cache.update("p", "m", [ChatGeneration(message=message, generation_info={"a": 1})])
        assert cache.lookup("p", "m") == [ChatGeneration(message=message, generation_info={"a": 1})]


def test_another_model_or_tenant_sees_nothing(settings: CacheSettings) -> None:
    with SmallFirstCache(settings, tenant="a") as one, SmallFirstCache(settings, tenant="b") as other:
        one.update("prompt", "model", [Generation(text="mine")])
        assert one.lookup("prompt", "other model") is None
        assert other.lookup("prompt", "model") is None
        other.clear()
        assert one.lookup("prompt", "model") == [Generation(text="mine")]


def test_an_answer_is_forgotten_in_time() -> None:
    with SmallFirstCache(CacheSettings(ttl=0.05)) as cache:
        cache.update("p", "m", [Generation(text="short-lived")])
        asyncio.run(asyncio.sleep(0.1))
        assert cache.lookup("p", "m") is None


def test_what_cannot_be_read_is_a_miss(redis_server: RedisServer) -> None:
    with SmallFirstCache(CacheSettings(url=SecretStr(redis_server.url), timeout=2.0)) as cache:
        cache.update("p", "m", [Generation(text="x")])
        with redis_server.client() as client:
            (key,) = client.keys(f"{key_prefix('default', 'langchain')}*")
            client.set(key, b'[{"text": "x"}]', ex=60)
        assert cache.lookup("p", "m") is None


def test_an_answer_that_is_no_json_is_not_kept() -> None:
    with SmallFirstCache() as cache:
        cache.update("p", "m", [Generation(text="x", generation_info={"thing": object()})])
        assert cache.lookup("p", "m") is None


def test_a_store_that_is_switched_off_keeps_nothing() -> None:
    with SmallFirstCache(CacheSettings(enabled=False)) as cache:
        cache.update("p", "m", [Generation(text="x")])
        assert cache.lookup("p", "m") is None


def test_a_langchain_model_answers_from_it(settings: CacheSettings) -> None:
    with SmallFirstCache(settings) as cache:
        model = FakeListChatModel(responses=["first", "second"], cache=cache)
        assert [model.invoke("hi").text, model.invoke("hi").text] == ["first", "first"]
        assert model.invoke("ho").text == "second"
