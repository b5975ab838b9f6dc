"""A LangChain chat model that routes: small model first, the cloud when it must."""

from __future__ import annotations

import asyncio
import builtins
import hashlib
import itertools
import random
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from typing import Any, Literal, TypeVar

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import LanguageModelInput
from langchain_core.language_models.base import LangSmithParams
from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable, ensure_config
from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_openai_tool
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr

from smallfirst.policies import Policy
from smallfirst.router.answer import Answer
from smallfirst.router.errors import ModelError, ModelTimeout
from smallfirst.router.models.retry import retry_delay
from smallfirst.router.remote.gateway import RemoteGateway
from smallfirst.router.settings import Retries

from .backend import AsksGateway, token_counter
from .messages import StreamReader, from_reply, to_wire
from .structured import Method, asking_for, parser_of, reading

T = TypeVar("T")

# Where a run's metadata names the conversation: LangGraph's thread, and LangSmith's names.
_SESSIONS = ("session_id", "thread_id", "conversation_id")


class ChatSmallFirst(AsksGateway, BaseChatModel):
    """Chat model over smallfirst, in this process or against a running proxy.

    In-process, all calls of one instance share one gateway, which is made at the first call; `close()` (or `with`)
    frees its model and flushes its ledger. Messages say in `response_metadata` who answered (`model_name`, `route`),
    why (`reason`, `score`), and for how much (`cost_usd`, `saved_usd`, both None where a price is unknown); errors are
    smallfirst's own (`smallfirst.router.errors`). Within LangGraph a request's session is the thread, its step the
    node and its agent the agent's name, unless the model says otherwise.

    A call may give more fields of the request's body as keywords, and `hints`: what `metadata` would say of this call
    alone, e.g. `hints={"step": "draft", "session": "s1"}`.

    Args:
        model: `auto`, `auto/<policy>`, or a configured model's name.
        base_url: A running proxy, e.g. `http://127.0.0.1:4100/v1`. Default: `SMALLFIRST_BASE_URL`, else none.
        api_key: The proxy's key, where it asks for one. Default: `SMALLFIRST_API_KEY`.
        settings: For the gateway in this process. Default: as `smallfirst serve` reads them.
        gateway: A gateway that you made; it is closed with this model. A `SyncGateway` may be shared by several models,
            embeddings and code of yours, and stays open.
        temperature, top_p, max_tokens, seed: As in a request's body; None: the model's own.
        stop: Words at which an answer ends.
        n: How many answers; `generate` returns them all.
        streaming: Ask for a stream also where a whole answer is wanted.
        stream_usage: Whether a stream says how many tokens it took.
        timeout: Seconds until an answer, or the next piece of a stream, is given up. Default: the gateway's own limits.
        max_retries: How often a call is made again that failed before its answer began: the gateway retries already.
        agent, session, labels: Shown in cost reports; `labels` are its tags.
        privacy: `local` keeps every request in the house.
        model_kwargs: More fields of the request body.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, populate_by_name=True)

    model: str = "auto"
    temperature: float | None = None
    top_p: float | None = None
    max_tokens: int | None = None
    stop: list[str] | str | None = None
    seed: int | None = None
    n: int | None = Field(default=None, ge=1)
    streaming: bool = False
    stream_usage: bool = True
    timeout: float | None = Field(default=None, gt=0)
    max_retries: int = Field(default=0, ge=0)
    agent: str | None = None
    session: str | None = None
    labels: list[str] = Field(default_factory=list)
    privacy: Literal["any", "local"] = "any"
    model_kwargs: dict[str, Any] = Field(default_factory=dict)

    _count: Callable[[str], int] | None = PrivateAttr(default=None)

    @property
    def _llm_type(self) -> str:
        return "smallfirst"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        """Everything that may change an answer: LangChain's cache keeps apart what differs here."""
        names = ("model", "base_url", "temperature", "top_p", "max_tokens", "stop", "seed", "n", "privacy")
        params = {name: getattr(self, name) for name in names} | {"model_kwargs": self.model_kwargs}
        if self.settings is not None:
            # `auto` means something else under other settings.
            params["settings"] = hashlib.blake2b(
                self.settings.model_dump_json().encode(), digest_size=8
            ).hexdigest()
        return params

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        params = super()._get_ls_params(stop=stop, **kwargs)
        params["ls_provider"] = "smallfirst"
        params["ls_model_name"] = kwargs.get("model", self.model)
        return params

    def get_num_tokens(self, text: str) -> int:
        """Return an estimate of a text's tokens, as the router counts them; no model is asked."""
        if self._count is None:
            self._count = token_counter(self._runner().gateway)
        return self._count(text)

    @property
    def stays_local(self) -> bool:
        """Whether requests may not leave the house: by `privacy`, or by the policy where that is known (in-process)."""
        policy = self._policy()
        return self.privacy == "local" or (policy is not None and policy.privacy == "local")

    @property
    def screens(self) -> bool:
        """Whether the policy, where it is known (in-process), looks for personal data; another one might not."""
        policy = self._policy()
        return policy is not None and policy.pii != "off"

    def _policy(self) -> Policy | None:
        gateway = self._runner().gateway
        if isinstance(gateway, RemoteGateway):
            return None
        name = self.model.removeprefix("auto/") if self.model.startswith("auto/") else gateway.settings.policy
        return gateway.settings.policy_named(name) if name in gateway.settings.policy_names else None

    # --- calls ------------------------------------------------------------------------------------------------

    def _body(
        self,
        messages: Sequence[BaseMessage],
        stop: list[str] | None,
        run: CallbackManagerForLLMRun | AsyncCallbackManagerForLLMRun | None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Return the request's body; what a call says wins over what the model says."""
        kwargs.pop("stream_usage", None)
        given = {**self.model_kwargs, **kwargs}
        own = {
            "temperature": self.temperature,
            "top_p": self.top_p,
            "max_tokens": self.max_tokens,
            "stop": stop or self.stop or None,
            "seed": self.seed,
            "n": self.n,
        }
        metadata = {
            **self._hints(run),
            **(given.pop("metadata", None) or {}),
            **(given.pop("hints", None) or {}),
        }
        if self.privacy == "local":
            metadata["privacy"] = "local"
        body: dict[str, Any] = {key: value for key, value in own.items() if value is not None}
        if metadata:
            body["metadata"] = metadata
        return {"model": self.model, **body, **given, "messages": to_wire(messages)}

    def _hints(self, run: CallbackManagerForLLMRun | AsyncCallbackManagerForLLMRun | None) -> dict[str, Any]:
        """Return what reports show of a request: the model's own labels, else what LangGraph says of its run."""
        # A stream is not told its run: what LangGraph says is in the context as well.
        around = ensure_config()
        about = {
            **around.get("configurable", {}),
            **around.get("metadata", {}),
            **(run.metadata if run else {}),
        }
        session = self.session or next((about[key] for key in _SESSIONS if about.get(key)), None)
        hints = {
            "agent": self.agent or about.get("lc_agent_name"),
            "step": about.get("langgraph_node"),
            "session": None if session is None else str(session),
            "tags": self.labels or None,
        }
        return {key: value for key, value in hints.items() if value is not None}

    def _stream_body(
        self,
        messages: Sequence[BaseMessage],
        stop: list[str] | None,
        run: CallbackManagerForLLMRun | AsyncCallbackManagerForLLMRun | None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        with_usage = kwargs.get("stream_usage")
        body = self._body(messages, stop, run, **kwargs)
        if self.stream_usage if with_usage is None else with_usage:
            body.setdefault("stream_options", {"include_usage": True})
        return body

    async def _ask(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Await a call on the gateway's loop, within the time limit, and again where that may help."""
        retries = Retries(max=min(self.max_retries, 10))
        for attempt in itertools.count():
            try:
                async with asyncio.timeout(self.timeout):
                    return await work()
            except TimeoutError as exc:
                raise ModelTimeout(f"No answer within {self.timeout} seconds.") from exc
            except ModelError as exc:
                delay = retry_delay(exc, attempt, retries, random.random())
                if delay is None:
                    raise
                await asyncio.sleep(delay)
        raise AssertionError("unreachable")

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        runner = self._runner()
        body = self._body(messages, stop, run_manager, **kwargs)
        return _result(runner.run(self._ask(lambda: runner.gateway.complete(body))))

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        runner = self._runner()
        body = self._body(messages, stop, run_manager, **kwargs)
        return _result(await runner.arun(self._ask(lambda: runner.gateway.complete(body))))

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        runner = self._runner()
        body = self._stream_body(messages, stop, run_manager, **kwargs)
        stream = runner.run(self._ask(lambda: runner.gateway.stream(body)))
        chunks, reader = aiter(stream), StreamReader(stream)
        try:
            while (raw := runner.run(self._next(chunks))) is not None:
                message = reader.read(raw)
                if message is not None:
                    yield ChatGenerationChunk(message=message)
            yield ChatGenerationChunk(message=reader.last())
        finally:
            runner.run(stream.aclose())

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        runner = self._runner()
        body = self._stream_body(messages, stop, run_manager, **kwargs)
        stream = await runner.arun(self._ask(lambda: runner.gateway.stream(body)))
        chunks, reader = aiter(stream), StreamReader(stream)
        try:
            while (raw := await runner.arun(self._next(chunks))) is not None:
                message = reader.read(raw)
                if message is not None:
                    yield ChatGenerationChunk(message=message)
            yield ChatGenerationChunk(message=reader.last())
        finally:
            await runner.arun(stream.aclose())

    async def _next(self, chunks: AsyncIterator[bytes]) -> bytes | None:
        try:
            async with asyncio.timeout(self.timeout):
                return await anext(chunks, None)
        except TimeoutError as exc:
            raise ModelTimeout(f"Silent for {self.timeout} seconds in the middle of an answer.") from exc

    # --- tools and structured output --------------------------------------------------------------------------

    def bind_tools(
        self,
        tools: Sequence[builtins.dict[str, Any] | type | Callable[..., Any] | BaseTool],
        *,
        tool_choice: str | bool | builtins.dict[str, Any] | None = None,
        strict: bool | None = None,
        parallel_tool_calls: bool | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """Give the model tools.

        Args:
            tools: Functions, classes, LangChain tools, or tool schemas in OpenAI's or Anthropic's form.
            tool_choice: `auto`, `none`, `any` (or `required`, or True), the name of one tool, or OpenAI's object.
            strict: Passed on to models that check arguments against the schema.
            parallel_tool_calls: Whether an answer may have several calls; default: the model's own.
            kwargs: More fields of the request body.
        """
        converted = [convert_to_openai_tool(tool, strict=strict) for tool in tools]
        if tool_choice is not None:
            # A provider's own tool (such as a web search) is no function and has no name here.
            names = [tool["function"]["name"] for tool in converted if "function" in tool]
            kwargs["tool_choice"] = _tool_choice(tool_choice, names)
        if parallel_tool_calls is not None:
            kwargs["parallel_tool_calls"] = parallel_tool_calls
        return self.bind(tools=converted, **kwargs)

    def with_structured_output(
        self,
        schema: builtins.dict[str, Any] | type,
        *,
        method: Method = "json_schema",
        include_raw: bool = False,
        strict: bool | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, builtins.dict[str, Any] | BaseModel]:
        """Return a model whose answers have the given schema.

        Args:
            schema: A Pydantic class, a TypedDict class, a JSON schema or an OpenAI function schema.
            method: `json_schema` constrains the answer; `function_calling` asks for a tool call; `json_mode` asks for
                any JSON object, the prompt has to say which.
            include_raw: Return `{"raw", "parsed", "parsing_error"}` and do not raise on what cannot be parsed.
            strict: Passed on to models that check it.
            kwargs: More fields of the request body.

        Raises:
            ValueError: There is no such method, or the schema has no name (a JSON schema's is its `title`).
            OutputParserException: When called: the answer is cut off, no JSON, or does not follow a Pydantic class;
                with `function_calling` what does not follow it is Pydantic's `ValidationError`, and an answer in words
                is None.
        """
        bound: Runnable[LanguageModelInput, AIMessage]
        if method == "function_calling":
            traced = {"kwargs": {"method": method}, "schema": schema}
            bound = self.bind_tools(
                [schema], tool_choice="any", strict=strict, ls_structured_output_format=traced, **kwargs
            )
        else:
            bound = self.bind(**asking_for(schema, method, strict), **kwargs)
        return reading(bound, parser_of(schema, method), include_raw=include_raw)


def _tool_choice(choice: str | bool | dict[str, Any], names: list[str]) -> str | dict[str, Any]:
    if isinstance(choice, dict):
        return choice
    if choice is True or choice in ("any", "required"):
        return "required"
    if choice is False or choice in ("auto", "none"):
        return choice or "none"
    if choice not in names:
        raise ValueError(f"tool_choice {choice!r} is not among the tools: {', '.join(names)}")
    return {"type": "function", "function": {"name": choice}}


def _result(answer: Answer) -> ChatResult:
    messages = from_reply(answer.body, answer.receipt)
    return ChatResult(
        generations=[ChatGeneration(message=message) for message in messages],
        llm_output={"model_name": messages[0].response_metadata["model_name"]},
    )
