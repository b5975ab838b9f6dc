"""Puts a conversation of another wire together as chat messages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .parts import Part

# A content part as chat completions have it.
ChatPart = dict[str, Any]


def text_part(text: str) -> ChatPart:
    """Return a text as a content part."""
    return {"type": "text", "text": text}


def content_of(parts: Sequence[ChatPart]) -> str | list[ChatPart]:
    """Return parts as a message's `content`: one text as plain text, which every server understands."""
    if not parts:
        return ""
    if len(parts) == 1 and parts[0]["type"] == "text":
        text: str = parts[0]["text"]
        return text
    return list(parts)


class Conversation:
    """Chat messages that grow.

    Other wires have calls, texts and reasoning of one turn apart; here they become one assistant message, because
    chat completions want the results of calls right after the message that made them. Pictures in results, which chat
    completions do not know, come in a message of the user that follows the results.

    Args:
        messages: What the conversation begins with.
    """

    def __init__(self, messages: Sequence[dict[str, Any]] = ()) -> None:
        self._messages: list[dict[str, Any]] = []
        self._open: set[str] = set()
        self._waiting: list[tuple[str, Sequence[ChatPart]]] = []
        for message in messages:
            self._append(message)
        self._turn: dict[str, Any] | None = None
        self._said: list[ChatPart] = []
        self._pictures: list[ChatPart] = []

    def say(self, role: str, parts: Sequence[ChatPart]) -> None:
        """Add a message of anyone but the assistant; it waits where calls have no results yet."""
        self.end_turn()
        if self._open:
            self._waiting.append((role, parts))
            return
        if role == "user":
            parts, self._pictures = [*self._pictures, *parts], []
        self._show()
        self._append({"role": role, "content": content_of(parts)})

    def think(self, text: str) -> None:
        """Add the assistant's reasoning: it comes before what it led to."""
        turn = self._turn_for(new=bool(self._said) and "tool_calls" not in (self._turn or {}))
        turn["reasoning_content"] = turn.get("reasoning_content", "") + text

    def answer(self, parts: Sequence[ChatPart], *, more: bool = False) -> None:
        """Add what the assistant says.

        Args:
            parts: Of text.
            more: It belongs to what it said just before.
        """
        self._turn_for(new=bool(self._said) and not more and "tool_calls" not in (self._turn or {}))
        self._said += parts

    def call(self, call_id: str, name: str, arguments: str) -> None:
        """Add a call that the assistant makes."""
        function = {"name": name, "arguments": arguments}
        calls: list[Any] = self._turn_for().setdefault("tool_calls", [])
        calls.append({"id": call_id, "type": "function", "function": function})

    def result(self, call_id: str, parts: Sequence[ChatPart], *, failed: bool = False) -> None:
        """Add what a call returned, or how it failed: chat completions have no field for that, so the text says it."""
        self.end_turn()
        texts = [part for part in parts if part["type"] == "text"]
        if failed:
            texts = [text_part("Error: " + "\n".join(part["text"] for part in texts))]
        self._append({"role": "tool", "tool_call_id": call_id, "content": content_of(texts)})
        pictures = [part for part in parts if part["type"] != "text"]
        if pictures:
            self._pictures += [text_part(f"The result of call {call_id}:"), *pictures]
        if not self._open:
            self._catch_up()

    def end_turn(self) -> None:
        """Say that what the assistant says next is another message."""
        if self._turn is None:
            return
        content = content_of(self._said)
        self._turn["content"] = content if content or "tool_calls" not in self._turn else None
        self._append(self._turn)
        self._turn, self._said = None, []

    def messages(self) -> list[dict[str, Any]]:
        """Return the messages."""
        self.end_turn()
        self._catch_up()
        self._show()
        return self._messages

    def _append(self, message: dict[str, Any]) -> None:
        self._messages.append(message)
        if message["role"] == "tool":
            self._open.discard(message["tool_call_id"])
        else:
            self._open = {call["id"] for call in message.get("tool_calls") or ()}

    def _catch_up(self) -> None:
        """Say what waited for results; where some never came, it must not wait any longer."""
        self._open = set()
        waiting, self._waiting = self._waiting, []
        for role, parts in waiting:
            self.say(role, parts)

    def _show(self) -> None:
        if self._pictures:
            self._messages.append({"role": "user", "content": self._pictures})
            self._pictures = []

    def _turn_for(self, *, new: bool = False) -> dict[str, Any]:
        if new:
            self.end_turn()
        if self._turn is None:
            self._catch_up()
            self._show()
            self._turn = {"role": "assistant"}
        return self._turn


def add_answer(conversation: Conversation, parts: Sequence[Part]) -> None:
    """Add an answer of the gateway's own to a conversation."""
    conversation.end_turn()
    for part in parts:
        if part.kind == "reasoning":
            conversation.think(part.text)
        elif part.kind == "call":
            conversation.call(part.id, part.name, part.text)
        else:
            conversation.answer([text_part(part.text)], more=True)
