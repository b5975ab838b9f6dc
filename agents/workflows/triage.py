"""Support triage: a ticket is read and acted upon in the house, and the reply is drafted where it is best.

    python -m smallfirst.agents.workflows.triage [--base-url URL] [--limit N]

Three nodes of a LangGraph graph, three ways to ask:

- `classify`: label probabilities of the local model, by `gateway.classify`;
- `act`: one function call, `privacy="local"`: what customers write is read by a model in this house;
- `draft`: `auto/quality`: the router sends what the small model would not write well to the cloud.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import Annotated, Any, TypedDict

from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from langchain_core.tools import BaseTool, tool
from langgraph.graph import END, START, StateGraph
from pydantic import Field

from smallfirst.agents import BillCallback, ChatSmallFirst
from smallfirst.router.sync import SyncGateway

from .common import DATA, count, options, run

ORDERS = {
    "1001": "two kayak paddles, sent on 3 March, at the parcel shop",
    "1002": "a dry bag, delivered on 1 March",
    "1003": "a touring kayak, waiting for the carrier",
}


# Also what keeps a small model to the point: it can write nothing but four digits here.
Order = Annotated[str, Field(pattern="^[0-9]{4}$", description="the order's number, four digits")]


class Ticket(TypedDict, total=False):
    """The graph's state: a ticket, and what each node adds."""

    id: str
    text: str
    intent: str
    found: str
    reply: str


@tool
def look_up_order(order: Order) -> str:
    """Look up where an order is."""
    return f"Order {order}: {ORDERS[order]}." if order in ORDERS else f"There is no order {order}."


@tool
def start_refund(order: Order) -> str:
    """Start a refund of an order."""
    return f"A refund of order {order} was started." if order in ORDERS else f"There is no order {order}."


@tool
def ask_a_person(topic: str) -> str:
    """Hand a ticket over to a person, with its topic in a few words."""
    return f"A person will look into it: {topic}."


ACTIONS: dict[str, BaseTool] = {"delivery": look_up_order, "refund": start_refund, "other": ask_a_person}
WRITE = "You answer customers of a kayak shop. Write two friendly sentences. Say only what the facts below say.\n{}"


def make_graph(gateway: SyncGateway, bill: BillCallback) -> Any:
    """Return the compiled graph; it maps a ticket with `id` and `text` to one with `intent`, `found` and `reply`."""
    caller = ChatSmallFirst(gateway=gateway, agent="triage", privacy="local", temperature=0, max_tokens=60)
    writer = ChatSmallFirst(gateway=gateway, agent="triage", model="auto/quality", max_tokens=120)

    def classify(ticket: Ticket) -> Ticket:
        hints = {"agent": "triage", "step": "classify", "session": ticket["id"]}
        ((result, receipt),) = gateway.classify(ticket["text"], list(ACTIONS), metadata=hints)
        bill.bill.add(receipt)
        return {"intent": result["label"] or "other"}

    def act(ticket: Ticket) -> Ticket:
        action = ACTIONS[ticket["intent"]]
        bound = caller.bind_tools([action], tool_choice=action.name)
        message = bound.invoke([HumanMessage(ticket["text"])])
        # A small model's call has the right form; whether it makes sense, the function says.
        return {"found": action.invoke(message.tool_calls[0]["args"]) if message.tool_calls else "Nothing."}

    def draft(ticket: Ticket) -> Ticket:
        facts = SystemMessage(WRITE.format(ticket["found"]))
        message: AIMessage = writer.invoke([facts, HumanMessage(ticket["text"])])
        return {"reply": message.text}

    graph: Any = StateGraph(Ticket)
    graph.add_node("classify", classify)
    graph.add_node("act", act)
    graph.add_node("draft", draft)
    graph.add_edge(START, "classify")
    graph.add_edge("classify", "act")
    graph.add_edge("act", "draft")
    graph.add_edge("draft", END)
    return graph.compile()


def triage(args: argparse.Namespace, gateway: SyncGateway) -> None:
    """Go through the tickets and print what became of each, and the bill."""
    bill = BillCallback()
    graph = make_graph(gateway, bill)
    lines = (DATA / "tickets.jsonl").read_text().splitlines()
    for line in lines[: args.limit]:
        # The thread is the session: all requests of a ticket belong together in reports.
        ticket = json.loads(line)
        config = {"callbacks": [bill], "configurable": {"thread_id": ticket["id"]}}
        done = graph.invoke(ticket, config)
        print(f"{done['id']}  {done['text']}\n  {done['intent']}: {done['found']}\n  {done['reply']}\n")
    print(bill.bill)


def main(argv: Sequence[str] | None = None, *, gateway: SyncGateway | None = None) -> int:
    """Run it; see the module."""
    parser = options(__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--limit", type=count, help="tickets; default: all")
    return run(triage, parser, argv, gateway)


if __name__ == "__main__":
    raise SystemExit(main())
