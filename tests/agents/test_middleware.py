"""SmallFirstMiddleware in real agents: with the real local model, and a cloud on loopback that is told what to say."""

import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fixtures.loopback_cloud import LoopbackCloud
from fixtures.sensible_cloud import calling, saying
from fixtures.serving import CLOUD, EASY, HARD, LOCAL, MakeSettings
from langchain.agents import create_agent
from langchain.agents.structured_output import ProviderStrategy, ToolStrategy
from langchain_core.language_models.fake_chat_models import FakeListChatModel
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.tools import ToolException, tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, MessagesState, StateGraph
from pydantic import BaseModel

from smallfirst.agents import ChatSmallFirst, SmallFirstMiddleware, TierRules, choose_tier
from smallfirst.policies import Policy
from smallfirst.router.gateway import Gateway
from smallfirst.router.models.local.model import LocalModel

MakeChat = Callable[..., ChatSmallFirst]

# The cloud for plans and escalations, so that a test says what is said; results are dealt with here.
RULES = TierRules(plan=CLOUD, tool_result="auto/quality", retry=LOCAL, answer="auto", escalated=CLOUD)
NO_CACHE = {"cache": {"no-cache": True, "no-store": True}}


@tool
def search(query: str) -> str:
    """Search the library."""
    return f"Nothing on {query}."


@tool
def broken(query: str) -> str:
    """Search elsewhere."""
    raise ToolException("out of order")


broken.handle_tool_error = True


@pytest.fixture
def make_chat(make_settings: MakeSettings, local_model: LocalModel) -> Iterator[MakeChat]:
    """Makes chat models over a gateway in this process."""
    made: list[ChatSmallFirst] = []

    def make(policy: str = "balanced", **fields: Any) -> ChatSmallFirst:
        gateway = Gateway(make_settings(policy=policy), models={LOCAL: local_model})
        chat = ChatSmallFirst(gateway=gateway, max_tokens=40, model_kwargs=NO_CACHE, **fields)
        made.append(chat)
        return chat

    yield make
    for chat in made:
        chat.close()


def ask(agent: Any, text: str = "Find the red book.", **config: Any) -> dict[str, Any]:
    found: dict[str, Any] = agent.invoke({"messages": [HumanMessage(text)]}, config or None)
    return found


def test_each_call_gets_the_tier_of_its_step(make_chat: MakeChat, cloud: LoopbackCloud) -> None:
    cloud.enqueue(calling("search", query="red book"), saying("There is none."))
    agent = create_agent(make_chat(), [search], middleware=[SmallFirstMiddleware(RULES)])
    state = ask(agent)
    plan, result = state["smallfirst"]
    assert (plan["kind"], plan["asked"], plan["route"], plan["model"]) == ("plan", CLOUD, "cloud", CLOUD)
    assert (result["kind"], result["asked"], result["depth"]) == ("tool_result", "auto/quality", 1)
    assert plan["why"] == "the first plan"
    assert plan["cost_usd"] > 0


async def test_an_agent_works_the_same_without_blocking(make_chat: MakeChat, cloud: LoopbackCloud) -> None:
    cloud.enqueue(calling("search", query="red book"), saying("There is none."))
    agent = create_agent(make_chat(), [search], middleware=[SmallFirstMiddleware(RULES)])
    state = await agent.ainvoke({"messages": [HumanMessage("Find the red book.")]})
    assert [one["kind"] for one in state["smallfirst"]] == ["plan", "tool_result"]


def test_a_message_carries_the_decision_that_led_to_it(make_chat: MakeChat, cloud: LoopbackCloud) -> None:
    cloud.enqueue(saying("I know it."))
    state = ask(create_agent(make_chat(), [search], middleware=[SmallFirstMiddleware(RULES)]))
    metadata = state["messages"][-1].response_metadata
    assert metadata["smallfirst"] == state["smallfirst"][0]
    assert metadata["smallfirst"]["request_id"] == metadata["request_id"]


def test_failed_calls_escalate(make_chat: MakeChat, cloud: LoopbackCloud) -> None:
    rules = TierRules(plan=CLOUD, retry=CLOUD, escalated=CLOUD)
    cloud.enqueue(calling("broken", query="a"), calling("broken", query="b"), saying("I give up."))
    state = ask(create_agent(make_chat(), [broken], middleware=[SmallFirstMiddleware(rules)]))
    assert [(one["kind"], one["escalated"]) for one in state["smallfirst"]] == [
        ("plan", False),
        ("retry", False),
        ("retry", True),
    ]
    assert state["smallfirst"][-1]["why"] == "2 rounds of tool calls in a row failed"


def test_a_repeated_call_escalates(make_chat: MakeChat, cloud: LoopbackCloud) -> None:
    rules = TierRules(plan=CLOUD, tool_result=CLOUD, escalated=CLOUD)
    same = calling("search", query="red book")
    cloud.enqueue(same, same, saying("There is none."))
    state = ask(create_agent(make_chat(), [search], middleware=[SmallFirstMiddleware(rules)]))
    assert [one["escalated"] for one in state["smallfirst"]] == [False, False, True]


def test_an_agent_without_tools_answers_where_the_router_says(
    make_chat: MakeChat, cloud: LoopbackCloud
) -> None:
    state = ask(create_agent(make_chat(), [], middleware=[SmallFirstMiddleware()]), EASY)
    (decision,) = state["smallfirst"]
    assert (decision["kind"], decision["asked"], decision["route"]) == ("answer", "auto", "local")
    assert "Paris" in state["messages"][-1].text
    assert cloud.requests == []


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"model": LOCAL}, "the chat model was told whom to ask"),
        ({"privacy": "local"}, "requests stay in the house"),
        ({"policy": "private"}, "requests stay in the house"),
    ],
)
def test_a_middleware_widens_nothing(
    make_chat: MakeChat, cloud: LoopbackCloud, fields: dict[str, Any], why: str
) -> None:
    rules = TierRules(answer=CLOUD)
    state = ask(create_agent(make_chat(**fields), [], middleware=[SmallFirstMiddleware(rules)]), EASY)
    assert (state["smallfirst"][0]["why"], state["smallfirst"][0]["route"]) == (why, "local")
    assert cloud.requests == []


def test_a_policy_that_looks_for_personal_data_goes_on_looking(
    make_settings: MakeSettings, local_model: LocalModel, cloud: LoopbackCloud
) -> None:
    settings = make_settings(policies={"careful": Policy(pii="redact-and-restore")}, policy="careful")
    chat = ChatSmallFirst(gateway=Gateway(settings, models={LOCAL: local_model}), model_kwargs=NO_CACHE)
    rules = TierRules(answer="auto/quality")
    state = ask(create_agent(chat, [], middleware=[SmallFirstMiddleware(rules)]), f"{HARD} Ask jane@x.org.")
    chat.close()
    assert state["smallfirst"][0]["why"] == "the policy looks for personal data"
    assert [b"jane@x.org" in received.raw for received in cloud.requests] == [False]


def test_another_chat_model_is_left_alone() -> None:
    agent = create_agent(FakeListChatModel(responses=["Hi."]), [], middleware=[SmallFirstMiddleware()])
    state = ask(agent)
    assert state["messages"][-1].text == "Hi."
    assert state["smallfirst"][0]["route"] is None


def entries(ledger: Path) -> list[tuple[str, str, str]]:
    with sqlite3.connect(ledger) as connection:
        rows = connection.execute("SELECT session, agent, step FROM entries ORDER BY started_at").fetchall()
    connection.close()
    return rows


@pytest.mark.parametrize("streamed", [False, True])
def test_the_thread_is_the_session_and_the_step_the_ledgers(
    make_chat: MakeChat, cloud: LoopbackCloud, tmp_path: Path, streamed: bool
) -> None:
    cloud.enqueue(calling("search", query="red book"), saying("There is none."))
    chat = make_chat()
    rules = TierRules(plan=CLOUD, tool_result=CLOUD)
    agent = create_agent(
        chat,
        [search],
        middleware=[SmallFirstMiddleware(rules)],
        name="librarian",
        checkpointer=InMemorySaver(),
    )
    config: Any = {"configurable": {"thread_id": "thread-7"}}
    if streamed:
        chunks = list(agent.stream({"messages": [HumanMessage("Find it.")]}, config, stream_mode="messages"))
        assert len(chunks) > 3
    else:
        ask(agent, **config)
    chat.close()
    assert entries(tmp_path / "ledger.db") == [
        ("thread-7", "librarian", "plan"),
        ("thread-7", "librarian", "tool_result"),
    ]


def test_decisions_add_up_over_a_thread(make_chat: MakeChat, cloud: LoopbackCloud) -> None:
    cloud.enqueue(saying("One."), saying("Two."))
    agent = create_agent(
        make_chat(), [search], middleware=[SmallFirstMiddleware(RULES)], checkpointer=InMemorySaver()
    )
    config: Any = {"configurable": {"thread_id": "t"}}
    ask(agent, **config)
    assert [one["kind"] for one in ask(agent, **config)["smallfirst"]] == ["plan", "plan"]


@pytest.mark.parametrize("streamed", [False, True])
def test_a_node_of_ones_own_has_session_step_and_tier(
    make_chat: MakeChat, cloud: LoopbackCloud, tmp_path: Path, streamed: bool
) -> None:
    chat = make_chat(agent="writer")

    def draft(state: MessagesState) -> dict[str, Any]:
        choice = choose_tier(state["messages"], tools=0, rules=TierRules(answer=CLOUD))
        if not streamed:
            return {"messages": [chat.invoke(state["messages"], model=choice.model)]}
        pieces = [piece.text for piece in chat.stream(state["messages"], model=choice.model)]
        return {"messages": [AIMessage("".join(pieces))]}

    graph = StateGraph(MessagesState)
    graph.add_node("draft", draft)
    graph.add_edge(START, "draft")
    graph.add_edge("draft", END)
    state = graph.compile().invoke(
        {"messages": [HumanMessage("Hi")]}, {"configurable": {"thread_id": "thread-8"}}
    )
    assert state["messages"][-1].text == "Paris is the answer."
    chat.close()
    assert entries(tmp_path / "ledger.db") == [("thread-8", "writer", "draft")]


class Book(BaseModel):
    """A book."""

    title: str


@pytest.mark.parametrize("way", [ToolStrategy, ProviderStrategy])
def test_an_agents_structured_answer_goes_with_it(
    make_chat: MakeChat, sensible_cloud: LoopbackCloud, way: Any
) -> None:
    middleware = [SmallFirstMiddleware(TierRules(answer=CLOUD))]
    agent = create_agent(make_chat(), [], middleware=middleware, response_format=way(Book))
    state = ask(agent, "Which one is called 'Dune'?")
    assert state["structured_response"] == Book(title="Dune")
    assert [one["asked"] for one in state["smallfirst"]] == [CLOUD]
