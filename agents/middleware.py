"""A middleware for LangChain's `create_agent` that picks the tier of each model call from the agent's state."""

from __future__ import annotations

import operator
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Annotated, Any, NotRequired

from langchain.agents.middleware.types import (
    AgentMiddleware,
    AgentState,
    ContextT,
    ExtendedModelResponse,
    ModelRequest,
    ModelResponse,
    OmitFromSchema,
    ResponseT,
)
from langchain_core.messages import AIMessage
from langgraph.types import Command
from typing_extensions import TypedDict

from .langchain import ChatSmallFirst
from .steps import DEFAULT_RULES, TierChoice, TierRules, choose_tier


class TierDecision(TypedDict):
    """One decision, as the agent's state has it: what was asked for and why, and what became of it.

    `kind`, `depth`, `tools`, `failures` and `repeats` are those of `AgentStep`; `asked`, `why` and `escalated` those of
    `TierChoice`. `route`, `model`, `reason`, `cost_usd` and `request_id` are the receipt's; None where the chat model
    gives none.
    """

    kind: str
    depth: int
    tools: int
    failures: int
    repeats: int
    asked: str
    why: str
    escalated: bool
    route: str | None
    model: str | None
    reason: str | None
    cost_usd: float | None
    request_id: str | None


class SmallFirstState(AgentState[ResponseT]):
    """An agent's state with the decisions, oldest first, in `smallfirst`."""

    # LangGraph takes the last of the annotations for the reducer.
    smallfirst: NotRequired[
        Annotated[list[TierDecision], OmitFromSchema(input=True, output=False), operator.add]
    ]


class SmallFirstMiddleware(AgentMiddleware[SmallFirstState[ResponseT], ContextT, ResponseT]):
    """Picks the tier of each model call: what sort of step it is, how deep, and what failed before.

    It sets `model` of calls whose chat model says `auto`, by `rules`. Whoever named a policy or a model keeps it, and
    so does whoever asked for `privacy="local"`, or whose gateway in this process has a default policy that keeps
    requests in the house or looks for personal data. Every decision is in the state's `smallfirst`, and in
    `response_metadata["smallfirst"]` of the message it led to. The chat model is a `ChatSmallFirst`; another one whose
    `model` is `auto` (say, `ChatOpenAI` pointing at a proxy) works as well, but its receipts are not seen.

    The session of requests is LangGraph's thread.

    Args:
        rules: What to ask for, by step.
    """

    state_schema = SmallFirstState  # type: ignore[assignment]

    def __init__(self, rules: TierRules = DEFAULT_RULES) -> None:
        super().__init__()
        self.rules = rules
        self.tools = []

    def wrap_model_call(
        self,
        request: ModelRequest[ContextT],
        handler: Callable[[ModelRequest[ContextT]], ModelResponse[ResponseT]],
    ) -> ExtendedModelResponse[ResponseT]:
        """Choose, call, and report."""
        choice = self._choose(request)
        return _reported(handler(_asking(request, choice)), choice)

    async def awrap_model_call(
        self,
        request: ModelRequest[ContextT],
        handler: Callable[[ModelRequest[ContextT]], Awaitable[ModelResponse[ResponseT]]],
    ) -> ExtendedModelResponse[ResponseT]:
        """Choose, call, and report."""
        choice = self._choose(request)
        return _reported(await handler(_asking(request, choice)), choice)

    def _choose(self, request: ModelRequest[ContextT]) -> TierChoice:
        choice = choose_tier(
            request.state["messages"],
            tools=0 if request.tool_choice == "none" else len(request.tools),
            rules=self.rules,
        )
        named = request.model_settings.get("model") or getattr(request.model, "model", None)
        if named != "auto":
            return replace(
                choice, model=str(named), why="the chat model was told whom to ask", escalated=False
            )
        if isinstance(request.model, ChatSmallFirst) and request.model.stays_local:
            return replace(choice, model="auto", why="requests stay in the house", escalated=False)
        if isinstance(request.model, ChatSmallFirst) and request.model.screens:
            why = "the policy looks for personal data"
            return replace(choice, model="auto", why=why, escalated=False)
        return choice


def _asking(request: ModelRequest[ContextT], choice: TierChoice) -> ModelRequest[ContextT]:
    """Return the request with what was chosen; only our own chat model understands hints."""
    settings: dict[str, Any] = {**request.model_settings, "model": choice.model}
    if isinstance(request.model, ChatSmallFirst):
        hints = choice.call_kwargs["hints"]
        settings["hints"] = {**hints, **(request.model_settings.get("hints") or {})}
    return request.override(model_settings=settings)


def _reported(response: ModelResponse[ResponseT], choice: TierChoice) -> ExtendedModelResponse[ResponseT]:
    messages = list(response.result)
    at = next((at for at, one in enumerate(messages) if isinstance(one, AIMessage)), None)
    metadata = messages[at].response_metadata if at is not None else {}
    step = choice.step
    decision = TierDecision(
        kind=step.kind,
        depth=step.depth,
        tools=step.tools,
        failures=step.failures,
        repeats=step.repeats,
        asked=choice.model,
        why=choice.why,
        escalated=choice.escalated,
        route=metadata.get("route"),
        model=metadata.get("model_name"),
        reason=metadata.get("reason"),
        cost_usd=metadata.get("cost_usd"),
        request_id=metadata.get("request_id"),
    )
    if at is not None:
        update = {"response_metadata": {**metadata, "smallfirst": decision}}
        messages[at] = messages[at].model_copy(update=update)
    reported = ModelResponse(result=messages, structured_response=response.structured_response)
    return ExtendedModelResponse(reported, Command(update={"smallfirst": [decision]}))
