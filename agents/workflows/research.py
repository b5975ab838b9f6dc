"""Research: an agent that looks things up in a handbook before it answers, on LangChain's `create_agent`.

    python -m smallfirst.agents.workflows.research ["a question"] [--base-url URL]

The chat model says `auto`; `SmallFirstMiddleware` asks for a tier by the step: a strong one for the plan and when calls
fail or go in circles, the router's choice for what follows a tool's result. It prints each decision, and the bill.
"""

from __future__ import annotations

import argparse
import re
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from langchain.agents import create_agent
from langchain.agents.middleware import (
    AgentMiddleware,
    ModelCallLimitMiddleware,
    ModelRequest,
    ModelResponse,
)
from langchain_core.messages import HumanMessage
from langchain_core.tools import BaseTool, tool

from smallfirst.agents import BillCallback, ChatSmallFirst, SmallFirstMiddleware
from smallfirst.router.sync import SyncGateway

from .common import DATA, options, run

QUESTION = "Until when can I send back a paddle, and who pays for the parcel?"
PROMPT = (
    "You answer questions about a kayak shop from its handbook alone. Search it first. Answer in one or two sentences "
    "and name the page that says so. If the handbook does not say, say that."
)


def read_handbook() -> Mapping[str, str]:
    """Return the pages by title."""
    pages = sorted((page for page in DATA.iterdir() if page.name.endswith(".md")), key=lambda page: page.name)
    texts = [page.read_text() for page in pages]
    return {text.partition("\n")[0].removeprefix("# "): text.partition("\n")[2].strip() for text in texts}


def words(text: str) -> Counter[str]:
    """Return the words of a text that may tell what it is about, without their endings."""
    return Counter(word.rstrip("s") for word in re.findall(r"[a-z]{4,}", text.lower()))


def make_tools(pages: Mapping[str, str]) -> list[BaseTool]:
    """Return what the agent may do with the pages."""

    @tool
    def search(query: str) -> str:
        """Search the handbook for words; returns the two pages that fit best."""
        wanted = words(query)
        scores = {title: len(wanted & words(f"{title} {text}")) for title, text in pages.items()}
        best = sorted(scores, key=lambda title: -scores[title])[:2]
        found = [f"{title}: {pages[title]}" for title in best if scores[title]]
        return "\n\n".join(found) or f"Nothing found. The pages are: {', '.join(pages)}."

    @tool
    def read_page(title: str) -> str:
        """Read one page of the handbook by its title."""
        return pages.get(title) or f"There is no such page. The pages are: {', '.join(pages)}."

    return [search, read_page]


class LookFirst(AgentMiddleware):
    """The first call is a search: small models would rather answer from memory."""

    def wrap_model_call(
        self, request: ModelRequest, handler: Callable[[ModelRequest], ModelResponse]
    ) -> ModelResponse:
        """Ask for a search."""
        return handler(_searching(request))

    async def awrap_model_call(
        self, request: ModelRequest, handler: Callable[[ModelRequest], Awaitable[ModelResponse]]
    ) -> ModelResponse:
        """Ask for a search."""
        return await handler(_searching(request))


def _searching(request: ModelRequest) -> ModelRequest:
    first = isinstance(request.messages[-1], HumanMessage)
    return request.override(tool_choice="search") if first else request


def make_agent(gateway: SyncGateway) -> Any:
    """Return the agent."""
    middleware: list[Any] = [
        LookFirst(),
        SmallFirstMiddleware(),
        ModelCallLimitMiddleware(run_limit=8, exit_behavior="end"),
    ]
    model = ChatSmallFirst(gateway=gateway, temperature=0, max_tokens=200)
    tools = make_tools(read_handbook())
    return create_agent(model, tools, system_prompt=PROMPT, middleware=middleware, name="research")


def research(args: argparse.Namespace, gateway: SyncGateway) -> None:
    """Answer the question and print each decision, the answer and the bill."""
    bill = BillCallback()
    config = {"callbacks": [bill], "configurable": {"thread_id": "research"}}
    state = make_agent(gateway).invoke({"messages": [HumanMessage(args.question)]}, config)
    for number, step in enumerate(state["smallfirst"], 1):
        print(
            f"{number}. {step['kind']}: {step['why']}, so {step['asked']} -> {step['model']} ({step['reason']})"
        )
    print(f"\n{args.question}\n{state['messages'][-1].text}\n\n{bill.bill}")


def main(argv: Sequence[str] | None = None, *, gateway: SyncGateway | None = None) -> int:
    """Run it; see the module."""
    parser = options(__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("question", nargs="?", default=QUESTION, help="default: one on sending things back")
    return run(research, parser, argv, gateway)


if __name__ == "__main__":
    raise SystemExit(main())
