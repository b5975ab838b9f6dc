"""Which tier an agent's next model call deserves: a pure function of the conversation so far.

The middleware for `create_agent` uses it; a node of one's own in LangGraph can as well:

>>> choice = choose_tier(state["messages"], tools=len(tools))                     # doctest: +SKIP
>>> model.bind_tools(tools).invoke(state["messages"], **choice.call_kwargs)       # doctest: +SKIP
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage

StepKind = Literal["plan", "tool_result", "retry", "answer"]


@dataclass(frozen=True, slots=True)
class AgentStep:
    """Where an agent stands before a model call. All counts are since the last message of the user.

    Attributes:
        kind: `plan`: the first call, with tools; `tool_result`: after results; `retry`: after a call that failed;
            `answer`: no tools are bound, so that only an answer can come.
        depth: Model calls made so far.
        tools: Tools that are bound.
        failures: The longest run of rounds in which a tool call failed or could not be read.
        repeats: How often the call that was made most often was made, with the same arguments.
    """

    kind: StepKind
    depth: int
    tools: int
    failures: int
    repeats: int


@dataclass(frozen=True, slots=True)
class TierRules:
    """What to ask for, by step. Values are what `model` may be: `auto`, `auto/<policy>` or a model's name.

    Attributes:
        plan, tool_result, retry, answer: By the kind of step.
        deep: Once `deep_after` model calls were made for one message of the user.
        escalated: Once `max_failures` rounds in a row failed, or the same call was made `max_repeats` times; until the
            user's next message. A model's name here makes sure that it is asked.
    """

    plan: str = "auto/quality"
    tool_result: str = "auto"
    retry: str = "auto"
    answer: str = "auto"
    deep: str = "auto/quality"
    escalated: str = "auto/quality"
    deep_after: int = 8
    max_failures: int = 2
    max_repeats: int = 2


@dataclass(frozen=True, slots=True)
class TierChoice:
    """What the next call asks for.

    Attributes:
        step: What it was chosen for.
        model: What `model` shall say.
        why: In words; free of prompt text.
        escalated: Whether failures or repetitions led to it.
    """

    step: AgentStep
    model: str
    why: str
    escalated: bool = False

    @property
    def call_kwargs(self) -> dict[str, Any]:
        """What a call of `ChatSmallFirst` takes: the model, and the step for reports."""
        return {"model": self.model, "hints": {"step": self.step.kind}}


DEFAULT_RULES = TierRules()


def read_step(messages: Sequence[BaseMessage], *, tools: int) -> AgentStep:
    """Say where an agent stands.

    Args:
        messages: The conversation so far.
        tools: How many tools the next call has.
    """
    begin = max((at for at, one in enumerate(messages) if isinstance(one, HumanMessage)), default=-1) + 1
    run = messages[begin:]
    rounds = [_failed(run, at) for at, one in enumerate(run) if isinstance(one, AIMessage)]
    calls = Counter(
        (call["name"], json.dumps(call["args"], sort_keys=True, default=str))
        for one in run
        if isinstance(one, AIMessage)
        for call in one.tool_calls
    )
    return AgentStep(
        kind=_kind(rounds, tools),
        depth=len(rounds),
        tools=tools,
        failures=_longest_run(rounds),
        repeats=max(calls.values(), default=0),
    )


def _failed(run: Sequence[BaseMessage], at: int) -> bool:
    """Whether a round went wrong: the model's calls at `at` with the results that follow."""
    one = run[at]
    if isinstance(one, AIMessage) and one.invalid_tool_calls:
        return True
    for result in run[at + 1 :]:
        if not isinstance(result, ToolMessage):
            return False
        if result.status == "error":
            return True
    return False


def _kind(rounds: Sequence[bool], tools: int) -> StepKind:
    if not tools:
        return "answer"
    if not rounds:
        return "plan"
    return "retry" if rounds[-1] else "tool_result"


def _longest_run(rounds: Sequence[bool]) -> int:
    longest = current = 0
    for failed in rounds:
        current = current + 1 if failed else 0
        longest = max(longest, current)
    return longest


def choose_tier(
    messages: Sequence[BaseMessage], *, tools: int, rules: TierRules = DEFAULT_RULES
) -> TierChoice:
    """Choose what the next model call asks for.

    Args:
        messages: The conversation so far.
        tools: How many tools the call has.
        rules: What to ask for, by step.
    """
    step = read_step(messages, tools=tools)
    if step.failures >= rules.max_failures:
        why = f"{step.failures} rounds of tool calls in a row failed"
        return TierChoice(step, rules.escalated, why, escalated=True)
    if step.repeats >= rules.max_repeats:
        why = f"the same tool call was made {step.repeats} times"
        return TierChoice(step, rules.escalated, why, escalated=True)
    if step.depth >= rules.deep_after:
        return TierChoice(step, rules.deep, f"{step.depth} model calls were made for one message")
    model, why = {
        "plan": (rules.plan, "the first plan"),
        "tool_result": (rules.tool_result, "after a tool's result"),
        "retry": (rules.retry, "after a tool call that failed"),
        "answer": (rules.answer, "no tools: an answer"),
    }[step.kind]
    return TierChoice(step, model, why)
