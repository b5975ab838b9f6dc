"""Steps of an agent: given BFCL's multi-turn conversation as it should have gone so far, is the next call right?

A step's gold is what is left of the calls of its turn. A model that makes several calls at once is right if they are
the next ones in their order. Another way to the same end counts as wrong: the figures are a lower bound.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from smallfirst.router.training.files import decoded, read_rows

from ..checkers import Answer, Check, checker
from .base import Example, Task, data_file

FILE = "agent_bfcl_dev.parquet"
COLUMNS = ("id", "subset", "request", "meta")


def _load(task: str, data: Path) -> list[Example]:
    path = data_file(data, FILE)
    found = []
    for row in read_rows(path, COLUMNS):
        where = f"{path}: row {row['id']}"
        request, meta = decoded(row, "request", where), decoded(row, "meta", where)
        for at, (body, gold) in enumerate(steps(request, meta)):
            check = next_calls(body["tools"], gold)
            found.append(Example(task, f"{row['id']}/{at}", row["subset"], body, check))
    return found


def steps(
    request: Mapping[str, Any], meta: Mapping[str, Any]
) -> Iterator[tuple[dict[str, Any], list[dict[str, Any]]]]:
    """Yield each step of a trajectory: the body that the agent would send, and the calls left in the turn.

    Args:
        request: The first turn's body.
        meta: With `gold_trajectory` (messages) and `tools_added_at_turn` (tools by the number of a user's message).
    """
    trajectory: Sequence[Mapping[str, Any]] = meta["gold_trajectory"]
    added: Mapping[str, Any] = meta.get("tools_added_at_turn") or {}
    tools, turn = list(request["tools"]), -1
    for at, message in enumerate(trajectory):
        if message["role"] == "user":
            turn += 1
            tools = tools + list(added.get(str(turn), ()))
        elif message.get("tool_calls"):
            yield {**request, "messages": list(trajectory[:at]), "tools": tools}, _left(trajectory[at:])


def _left(rest: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the calls before the user speaks again."""
    calls: list[dict[str, Any]] = []
    for message in rest:
        if message["role"] == "user":
            break
        calls += [call["function"] for call in message.get("tool_calls") or ()]
    return calls


def next_calls(tools: Sequence[Mapping[str, Any]], gold: Sequence[Mapping[str, Any]]) -> Check:
    """Return the check whether an answer's calls are the next ones of `gold`, in order.

    Values are compared as BFCL does. An argument may be left out, or given, where its value is the schema's default.
    """
    calls = Answer.of({"tool_calls": [{"function": call} for call in gold]}).calls
    checks = [_one_call(tools, name, arguments) for name, arguments in calls]

    def check(answer: Answer) -> bool:
        made = answer.calls
        return 0 < len(made) <= len(checks) and all(
            right(Answer("", (call,))) for right, call in zip(checks, made, strict=False)
        )

    return check


def _one_call(tools: Sequence[Mapping[str, Any]], name: str, arguments: Mapping[str, Any]) -> Check:
    functions = [tool["function"] for tool in tools]
    schema = next((f.get("parameters") or {} for f in functions if f["name"] == name), {})
    accepted: dict[str, list[Any]] = {key: [value] for key, value in arguments.items()}
    for key, field in schema.get("properties", {}).items():
        if "default" not in field:
            continue
        if key not in accepted:
            accepted[key] = [field["default"], ""]
        elif accepted[key] == [field["default"]]:
            accepted[key].append("")
    spec = {"type": "bfcl_ast", "language": "python", "func_doc": functions}
    check = checker(spec, [{name: accepted}])
    assert check is not None  # Python's calls can always be checked
    return check


TASK = Task("agent_bfcl", "BFCL: the next call of an agent, step by step", _load, max_tokens=256)
