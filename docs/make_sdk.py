"""Writes docs/sdk.md from the docstrings: `python docs/make_sdk.py`. A test says when it is out of date."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec
from pydantic import BaseModel

from smallfirst import agents, router
from smallfirst.agents import bill as agents_bill
from smallfirst.agents import steps
from smallfirst.router import errors
from smallfirst.router.ledger.report import Report, Summary
from smallfirst.router.money import bill
from smallfirst.router.sync import SyncStream

TARGET = Path(__file__).parent / "sdk.md"
HEAD = """# The Python SDK

Made from the docstrings by `python docs/make_sdk.py`. Money is in US dollars; times are in milliseconds where a name
has `ms` in it, else in seconds; shares and probabilities are in 0..1. [agents.md](agents.md) shows how the parts go
together.
"""
CONTENTS: tuple[tuple[str, str, tuple[Any, ...]], ...] = (
    (
        "The gateway",
        "`from smallfirst.router import Gateway, …`",
        (router.Gateway, router.SyncGateway, SyncStream, router.RemoteGateway),
    ),
    (
        "What comes back",
        "`from smallfirst.router import Answer, AnswerStream, Receipt, Bill`",
        (router.Answer, router.AnswerStream, router.Receipt, router.Bill, bill.BillLine, Report, Summary),
    ),
    (
        "LangChain and LangGraph",
        "`from smallfirst.agents import ChatSmallFirst, …` (needs the extra `langchain`)",
        (
            agents.ChatSmallFirst,
            agents.SmallFirstMiddleware,
            agents.TierRules,
            agents.choose_tier,
            steps.TierChoice,
            steps.AgentStep,
            agents.SmallFirstEmbeddings,
            agents.SmallFirstCache,
            agents.BillCallback,
            agents_bill.receipt_of,
        ),
    ),
)
# Public to other modules of the gateway, and of no use to its callers.
INTERNAL = frozenset({"Gateway.store", "Gateway.finish_stream"})
# "name: what it is", also for several names.
_ITEM = re.compile(r"^(?P<name>[\w*, ]+): (?P<text>.*)$")


def page() -> str:
    """Return the whole page."""
    parts = [HEAD]
    for title, how, things in CONTENTS:
        parts.append(f"## {title}\n\n{how}\n")
        parts += [part for thing in things for part in _thing(thing)]
    parts.append(f"## Errors\n\n`smallfirst.router.errors`\n\n```text\n{inspect.getdoc(errors)}\n```\n")
    return "\n".join(parts)


def _thing(thing: Any) -> Iterator[str]:
    if inspect.isfunction(thing):
        yield f"### {thing.__name__}\n\n{_code(_signature(thing.__name__, thing))}\n\n{_markdown(thing)}\n"
        return
    # What a Pydantic class takes is in its docstring; its own signature has the frameworks' fields as well.
    init = thing if issubclass(thing, msgspec.Struct) else thing.__init__
    made = "" if issubclass(thing, BaseModel) else _code(_signature(thing.__name__, init)) + "\n\n"
    yield f"### {thing.__name__}\n\n{made}{_markdown(thing)}\n"
    for name, member in _members(thing).items():
        found = _member(thing.__name__, name, member)
        if found is not None and not name.startswith("_") and f"{thing.__name__}.{name}" not in INTERNAL:
            yield found


def _members(thing: type) -> dict[str, Any]:
    """Return a class's own members, then those of bases of ours."""
    ours = [base for base in reversed(thing.__mro__[1:]) if base.__module__.startswith("smallfirst.")]
    inherited = {name: member for base in ours for name, member in vars(base).items()}
    return {**vars(thing), **{name: member for name, member in inherited.items() if name not in vars(thing)}}


def _member(owner: str, name: str, member: Any) -> str | None:
    if isinstance(member, (property, cached_property)):
        return f"#### {owner}.{name}\n\n{_markdown(member)}\n"
    function = member.__func__ if isinstance(member, (classmethod, staticmethod)) else member
    # What Pydantic adds to its classes is not ours to explain.
    if not inspect.isfunction(function) or not function.__module__.startswith("smallfirst."):
        return None
    return f"#### {owner}.{name}\n\n{_code(_signature(name, function))}\n\n{_markdown(function)}\n"


def _signature(name: str, function: Any) -> str:
    signature = inspect.signature(function)
    given = [p for p in signature.parameters.values() if p.name not in ("self", "cls")]
    if isinstance(function, type):
        # As they stand in the source: msgspec tells what they stand for.
        given = [one.replace(annotation=function.__annotations__[one.name]) for one in given]
    shown: list[str] = []
    for at, one in enumerate(given):
        if one.kind is one.KEYWORD_ONLY and (at == 0 or given[at - 1].kind is one.POSITIONAL_OR_KEYWORD):
            shown.append("*")
        shown.append(_parameter(one))
    start = f"{'async def ' if inspect.iscoroutinefunction(function) else ''}{name}"
    returned = signature.return_annotation
    end = f" -> {returned}" if returned not in ("None", None, signature.empty) else ""
    text = f"{start}({', '.join(shown)}){end}"
    if len(text) <= 100:
        return text
    return "\n".join([f"{start}(", *(f"    {one}," for one in shown), f"){end}"])


def _parameter(one: inspect.Parameter) -> str:
    stars = "*" if one.kind is one.VAR_POSITIONAL else "**" if one.kind is one.VAR_KEYWORD else ""
    value = repr(one.default)
    # A value of ours that says nothing new: all its defaults.
    value = value if len(value) <= 40 else f"{type(one.default).__name__}()"
    default = "" if one.default is one.empty else f" = {value}"
    return f"{stars}{one.name}: {one.annotation}{default}"


def _code(text: str) -> str:
    return f"```python\n{text}\n```"


def _markdown(thing: Any) -> str:
    """Return a docstring in Markdown: sections as lists, examples as code."""
    out: list[str] = []
    section = False
    for line in (inspect.getdoc(thing) or "").splitlines():
        if re.fullmatch(r"[A-Z][A-Za-z, ]+:", line):
            section = True
            out += [f"**{line[:-1]}**", ""]
        elif line.startswith(">>>") or line.startswith("... "):
            code = re.sub(r"\s*# doctest: .*$", "", line[4:])
            out[-1:] = (
                [*out[-1:-1], code, "```"]
                if out and out[-1] == "```"
                else [*out[-1:], "```python", code, "```"]
            )
        elif section and line.startswith("    ") and not line.startswith("     "):
            item = _ITEM.match(line.strip())
            names = ", ".join(f"`{one.strip()}`" for one in item["name"].split(",")) if item else ""
            out.append(f"- {names}: {item['text']}" if item else line.strip())
        elif section and line.strip():
            out.append(f"  {line.strip()}")
        else:
            out.append(line)
    return "\n".join(out).strip()


if __name__ == "__main__":
    TARGET.write_text(page(), encoding="utf-8")
