"""A LangChain chat model that routes: small model first, the cloud when it must."""

from __future__ import annotations

import builtins
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Any, Literal

import msgspec
from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import LanguageModelInput
from langchain_core.language_models.base import LangSmithParams
from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.output_parsers import JsonOutputParser, PydanticOutputParser
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable, RunnableMap, RunnablePassthrough
from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_json_schema, convert_to_openai_tool
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, SecretStr

from smallfirst.router.gateway import Gateway
from smallfirst.router.remote import RemoteGateway
from smallfirst.router.settings import Settings
from smallfirst.router.sync import SyncGateway

from .messages import from_chunk, from_reply, last_chunk, to_wire

Backend = Gateway | RemoteGateway


class ChatSmallFirst(BaseChatModel):
    """Chat model over smallfirst, in this process or against a running proxy.

    In-process, all calls of one instance share one gateway, which is made at the first call; `close()` (or `with`)
    frees its model and flushes its ledger.

    Args:
        model: `auto`, `auto/<policy>`, or a configured model's name.
        base_url: A running proxy, e.g. `http://127.0.0.1:4100/v1`. Default: in this process.
        api_key: The proxy's key, where it asks for one.
        settings: For the gateway in this process. Default: as `smallfirst serve` reads them.
        gateway: A gateway that you made, over one of your own settings or models; it is closed with this model.
        agent, session, labels: Shown in cost reports; `labels` are its tags.
        privacy: `local` keeps every request in the house.
        model_kwargs: More fields of the request body.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, populate_by_name=True)

    model: str = "auto"
    base_url: str | None = None
    api_key: SecretStr | None = None
    settings: Settings | None = None
    temperature: float | None = None
    max_tokens: int | None = None
    stop: list[str] | str | None = None
    seed: int | None = None
    agent: str | None = None
    session: str | None = None
    labels: list[str] = Field(default_factory=list)
    privacy: Literal["any", "local"] = "any"
    model_kwargs: dict[str, Any] = Field(default_factory=dict)
    gateway: Backend | None = Field(default=None, exclude=True)

    _sync: SyncGateway | None = PrivateAttr(default=None)
    # Several threads may make the first call at once.
    _lock: threading.Lock = PrivateAttr(default_factory=threading.Lock)

    @property
    def _llm_type(self) -> str:
        return "smallfirst"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        return {"model": self.model, "base_url": self.base_url, "temperature": self.temperature}

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        params = super()._get_ls_params(stop=stop, **kwargs)
        params["ls_provider"] = "smallfirst"
        params["ls_model_name"] = kwargs.get("model", self.model)
        return params

    # --- the gateway ------------------------------------------------------------------------------------------

    def _runner(self) -> SyncGateway:
        """The gateway on a loop of its own; sync and async calls alike run there, so that one model serves both."""
        with self._lock:
            if self._sync is None:
                self._sync = SyncGateway(gateway=self._make_gateway())
            return self._sync

    def _make_gateway(self) -> Backend:
        if self.gateway is not None:
            return self.gateway
        if self.base_url is not None:
            key = self.api_key.get_secret_value() if self.api_key else None
            return RemoteGateway(self.base_url, api_key=key)
        return Gateway(self.settings)

    def close(self) -> None:
        """Free the model and flush the ledger; safe to call twice."""
        with self._lock:
            sync, self._sync = self._sync, None
        if sync is not None:
            sync.close()

    def __enter__(self) -> ChatSmallFirst:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- calls ------------------------------------------------------------------------------------------------

    def _body(self, messages: Sequence[BaseMessage], stop: list[str] | None, **kwargs: Any) -> dict[str, Any]:
        hints = {"agent": self.agent, "session": self.session, "tags": self.labels or None}
        metadata = {key: value for key, value in hints.items() if value is not None}
        if self.privacy == "local":
            metadata["privacy"] = "local"
        own = {
            "temperature": self.temperature,
            "max_tokens": self.max_tokens,
            "stop": stop or self.stop,
            "seed": self.seed,
            "metadata": metadata or None,
        }
        body = {key: value for key, value in own.items() if value is not None}
        return {"model": self.model, **body, **self.model_kwargs, **kwargs, "messages": to_wire(messages)}

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        answer = self._runner().complete(self._body(messages, stop, **kwargs))
        return _result(from_reply(answer.body, answer.receipt))

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        runner = self._runner()
        answer = await runner.arun(runner.gateway.complete(self._body(messages, stop, **kwargs)))
        return _result(from_reply(answer.body, answer.receipt))

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        with self._runner().stream(self._stream_body(messages, stop, **kwargs)) as stream:
            model = ""
            for raw in stream:
                chunk = msgspec.json.decode(raw)
                model = chunk.get("model") or model
                generation = _generation(from_chunk(chunk))
                if generation is not None:
                    if run_manager:
                        run_manager.on_llm_new_token(generation.text, chunk=generation)
                    yield generation
            yield ChatGenerationChunk(message=last_chunk(stream.receipt, model or stream.receipt.model))

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        runner = self._runner()
        stream = await runner.arun(runner.gateway.stream(self._stream_body(messages, stop, **kwargs)))
        chunks = aiter(stream)
        try:
            model = ""
            while (raw := await runner.arun(_next(chunks))) is not None:
                chunk = msgspec.json.decode(raw)
                model = chunk.get("model") or model
                generation = _generation(from_chunk(chunk))
                if generation is not None:
                    if run_manager:
                        await run_manager.on_llm_new_token(generation.text, chunk=generation)
                    yield generation
            yield ChatGenerationChunk(message=last_chunk(stream.receipt, model or stream.receipt.model))
        finally:
            await runner.arun(stream.aclose())

    def _stream_body(
        self, messages: Sequence[BaseMessage], stop: list[str] | None, **kwargs: Any
    ) -> dict[str, Any]:
        kwargs.setdefault("stream_options", {"include_usage": True})
        return self._body(messages, stop, **kwargs)

    # --- tools and structured output --------------------------------------------------------------------------

    def bind_tools(
        self,
        tools: Sequence[builtins.dict[str, Any] | type | Callable[..., Any] | BaseTool],
        *,
        tool_choice: str | None = None,
        strict: bool | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """Give the model tools.

        Args:
            tools: Functions, classes, LangChain tools or OpenAI tool schemas.
            tool_choice: `auto`, `none`, `any` (or `required`), or the name of one tool.
            strict: Passed on to models that check arguments against the schema.
        """
        converted = [convert_to_openai_tool(tool, strict=strict) for tool in tools]
        if tool_choice is not None:
            names = [tool["function"]["name"] for tool in converted]
            kwargs["tool_choice"] = _tool_choice(tool_choice, names)
        return self.bind(tools=converted, **kwargs)

    def with_structured_output(
        self,
        schema: builtins.dict[str, Any] | type,
        *,
        method: Literal["json_schema", "function_calling"] = "json_schema",
        include_raw: bool = False,
        strict: bool | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, builtins.dict[str, Any] | BaseModel]:
        """Return a model whose answers have the given schema.

        Args:
            schema: A Pydantic class, a TypedDict class, a JSON schema or an OpenAI function schema.
            method: `json_schema` constrains the answer; `function_calling` asks for a tool call.
            include_raw: Return `{"raw", "parsed", "parsing_error"}` and do not raise on what cannot be parsed.
            strict: Passed on to models that check it.
        """
        if method == "function_calling":
            return super().with_structured_output(schema, include_raw=include_raw, **kwargs)
        json_schema = convert_to_json_schema(schema)
        named = {"name": json_schema.get("title", "response"), "schema": json_schema}
        if strict is not None:
            named["strict"] = strict
        bound = self.bind(
            response_format={"type": "json_schema", "json_schema": named},
            ls_structured_output_format={
                "kwargs": {"method": method},
                "schema": convert_to_openai_tool(schema),
            },
            **kwargs,
        )
        parser: Any = JsonOutputParser()
        if isinstance(schema, type) and issubclass(schema, BaseModel):
            parser = PydanticOutputParser(pydantic_object=schema)
        if not include_raw:
            parsing: Runnable[LanguageModelInput, builtins.dict[str, Any] | BaseModel] = bound | parser
            return parsing
        parsed = RunnablePassthrough.assign(
            parsed=lambda x: parser.invoke(x["raw"]), parsing_error=lambda _: None
        )
        failed = RunnablePassthrough.assign(parsed=lambda _: None)
        return RunnableMap(raw=bound) | parsed.with_fallbacks([failed], exception_key="parsing_error")


async def _next(chunks: AsyncIterator[bytes]) -> bytes | None:
    return await anext(chunks, None)


def _tool_choice(choice: str, names: list[str]) -> str | dict[str, Any]:
    if choice in ("any", "required"):
        return "required"
    if choice in ("auto", "none"):
        return choice
    if choice not in names:
        raise ValueError(f"tool_choice {choice!r} is not among the tools: {', '.join(names)}")
    return {"type": "function", "function": {"name": choice}}


def _result(message: AIMessage) -> ChatResult:
    return ChatResult(
        generations=[ChatGeneration(message=message)],
        llm_output={"model_name": message.response_metadata["model_name"]},
    )


def _generation(message: AIMessageChunk | None) -> ChatGenerationChunk | None:
    return None if message is None else ChatGenerationChunk(message=message)
