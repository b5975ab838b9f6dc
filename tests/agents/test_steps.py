"""Where an agent stands, and which tier its next call deserves: pure functions of the conversation."""

from collections.abc import Sequence
from typing import Any

import pytest
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage
from langchain_core.messages.tool import invalid_tool_call

from smallfirst.agents.steps import AgentStep, TierRules, choose_tier, read_step

ASK = HumanMessage("What is it?")
RULES = TierRules(
    plan="p", tool_result="t", retry="r", answer="a", deep="d", escalated="e", deep_after=5, max_repeats=3
)


def call(number: int, **args: Any) -> AIMessage:
    made = {"name": "search", "args": args or {"q": number}, "id": f"c{number}", "type": "tool_call"}
    return AIMessage("", tool_calls=[made])


def result(number: int, *, failed: bool = False) -> ToolMessage:
    return ToolMessage("x", tool_call_id=f"c{number}", status="error" if failed else "success")


def rounds(*failed: bool, same: bool = False) -> list[BaseMessage]:
    """Calls with their results; each differs from the others, unless they are the same."""
    found: list[BaseMessage] = [ASK]
    for at, bad in enumerate(failed):
        found += [call(at, q="same") if same else call(at), result(at, failed=bad)]
    return found


UNREADABLE = AIMessage(
    "", invalid_tool_calls=[invalid_tool_call(name="search", args="{", id="c0", error="no")]
)


@pytest.mark.parametrize(
    ("messages", "tools", "expected"),
    [
        ([ASK], 2, AgentStep("plan", depth=0, tools=2, failures=0, repeats=0)),
        ([ASK], 0, AgentStep("answer", depth=0, tools=0, failures=0, repeats=0)),
        (rounds(False), 1, AgentStep("tool_result", depth=1, tools=1, failures=0, repeats=1)),
        (rounds(False, True), 1, AgentStep("retry", depth=2, tools=1, failures=1, repeats=1)),
        (rounds(True, True, False), 1, AgentStep("tool_result", depth=3, tools=1, failures=2, repeats=1)),
        (rounds(True, False, True), 1, AgentStep("retry", depth=3, tools=1, failures=1, repeats=1)),
        (rounds(False, False, same=True), 1, AgentStep("tool_result", 2, 1, failures=0, repeats=2)),
        ([ASK, UNREADABLE], 1, AgentStep("retry", depth=1, tools=1, failures=1, repeats=0)),
        ([*rounds(True, True), ASK], 1, AgentStep("plan", depth=0, tools=1, failures=0, repeats=0)),
        ([], 1, AgentStep("plan", depth=0, tools=1, failures=0, repeats=0)),
    ],
)
def test_a_step_is_read_from_the_conversation(
    messages: Sequence[BaseMessage], tools: int, expected: AgentStep
) -> None:
    assert read_step(messages, tools=tools) == expected


@pytest.mark.parametrize(
    ("messages", "tools", "model", "why", "escalated"),
    [
        ([ASK], 1, "p", "the first plan", False),
        ([ASK], 0, "a", "no tools: an answer", False),
        (rounds(False), 1, "t", "after a tool's result", False),
        (rounds(True), 1, "r", "after a tool call that failed", False),
        (rounds(True, True), 1, "e", "2 rounds of tool calls in a row failed", True),
        (rounds(False, False, False, same=True), 1, "e", "the same tool call was made 3 times", True),
        (rounds(*[False] * 5), 1, "d", "5 model calls were made for one message", False),
        ([*rounds(True, True), ASK], 1, "p", "the first plan", False),
    ],
)
def test_a_tier_is_chosen_by_the_step(
    messages: Sequence[BaseMessage], tools: int, model: str, why: str, escalated: bool
) -> None:
    choice = choose_tier(messages, tools=tools, rules=RULES)
    assert (choice.model, choice.why, choice.escalated) == (model, why, escalated)


def test_an_escalation_lasts_until_the_users_next_message() -> None:
    recovered = rounds(True, True, False, False)
    assert choose_tier(recovered, tools=1, rules=RULES).escalated
    assert not choose_tier([*recovered, AIMessage("Done."), ASK], tools=1, rules=RULES).escalated


def test_several_calls_of_one_round_count_each() -> None:
    twice = AIMessage("", tool_calls=[*call(1, q="x").tool_calls, *call(2, q="x").tool_calls])
    assert read_step([ASK, twice, result(1), result(2, failed=True)], tools=1) == AgentStep(
        "retry", depth=1, tools=1, failures=1, repeats=2
    )


def test_a_choice_is_what_a_call_takes() -> None:
    assert choose_tier([ASK], tools=1, rules=RULES).call_kwargs == {"model": "p", "hints": {"step": "plan"}}
