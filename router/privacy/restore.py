"""Originals back into an answer: whole, or chunk by chunk.

What a model says in words is put in as it is; what is JSON (arguments of calls, an answer that follows a schema) is put
in escaped. Tokens of `logprobs` that make up a placeholder become one, with the probability of all of them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any

import msgspec

from ..wire import ReplyStream
from .placeholders import Placeholders, Restorer

# Of a message: what says nothing, and what is JSON.
_STRUCTURE = frozenset({"role", "type", "id", "index", "name"})
_JSON_TEXTS = frozenset({"arguments"})
# The lists of tokens that `logprobs` has.
_TOKEN_LISTS = ("content", "refusal")
_LEAST = -9999.0


def restored_body(body: Mapping[str, Any], placeholders: Placeholders, *, json: bool) -> dict[str, Any]:
    """Return a `chat.completion` with the originals.

    Args:
        body: The cloud's.
        placeholders: What stands for what.
        json: Whether its content is JSON.
    """
    return {**body, "choices": [_whole(choice, placeholders, json) for choice in body["choices"]]}


def _whole(choice: Any, placeholders: Placeholders, json: bool) -> Any:
    if not isinstance(choice, dict):
        return choice
    restored = dict(choice)
    if "message" in choice:
        restored["message"] = _message(choice["message"], placeholders, json)
    if isinstance(choice.get("logprobs"), dict):
        restored["logprobs"] = {
            name: _Tokens(placeholders, json=json and name == "content").whole(entries)
            if name in _TOKEN_LISTS and isinstance(entries, list)
            else entries
            for name, entries in choice["logprobs"].items()
        }
    return restored


def _message(value: Any, placeholders: Placeholders, json: bool, key: str = "") -> Any:
    """Restore every text below a value; what a server adds on its own account is text like any other."""
    if isinstance(value, str):
        if key in _STRUCTURE:
            return value
        return placeholders.restored(value, json=key in _JSON_TEXTS or (json and key == "content"))
    if isinstance(value, dict):
        # Parts of a content are texts of it.
        return {
            name: _message(
                inner, placeholders, json, "content" if (key, name) == ("content", "text") else name
            )
            for name, inner in value.items()
        }
    if isinstance(value, list):
        return [_message(inner, placeholders, json, key) for inner in value]
    return value


# --- streams --------------------------------------------------------------------------------------------------------


class RestoredStream(ReplyStream):
    """A stream with the originals. A class and not a generator: closing it unread must close the model's stream too.

    Args:
        stream: The cloud's.
        placeholders: What stands for what.
        json: Whether its content is JSON.
    """

    def __init__(self, stream: ReplyStream, placeholders: Placeholders, *, json: bool) -> None:
        super().__init__(self, retries=stream.retries, billed_tries=stream.billed_tries)
        self.tells_confidence = stream.tells_confidence
        self._stream = stream
        self._source = aiter(stream)
        self._placeholders = placeholders
        self._json = json
        self._choices: dict[int, _Choice] = {}
        self._base: dict[str, Any] = {}
        self._ended = False

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    @property
    def ready(self) -> bool:
        """Whether it is known that the next chunk is there already."""
        return not self._ended and self._stream.ready

    async def __anext__(self) -> bytes:
        if self._ended:
            raise StopAsyncIteration
        try:
            chunk = await anext(self._source)
        except StopAsyncIteration:
            self._ended = True
            rest = self._rest()
            if rest is None:
                raise
            return rest
        self.confidence, self.cut = self._stream.confidence, self._stream.cut
        # Without the beginning of a placeholder or of an escape, there is nothing to do.
        holding = any(choice.holds for choice in self._choices.values())
        if not holding and b"<" not in chunk and b"\\" not in chunk:
            return chunk
        return self._restored(chunk)

    async def aclose(self) -> None:
        """Stop the model."""
        self._ended = True
        await self._stream.aclose()

    def _restored(self, chunk: bytes) -> bytes:
        body = msgspec.json.decode(chunk)
        if not isinstance(body, dict):
            return chunk
        self._base = body
        for choice in body.get("choices") or ():
            if isinstance(choice, dict):
                index = choice.get("index") or 0
                if index not in self._choices:
                    self._choices[index] = _Choice(self._placeholders, self._json)
                self._choices[index].feed(choice)
        return msgspec.json.encode(body)

    def _rest(self) -> bytes | None:
        """Return a chunk with what is still held back, for streams that end without saying so."""
        choices = []
        for index, choice in self._choices.items():
            if choice.holds:
                last: dict[str, Any] = {"index": index, "delta": {}, "finish_reason": None}
                choice.finish(last)
                choices.append(last)
        if not choices:
            return None
        base = {key: value for key, value in self._base.items() if key != "usage"}
        return msgspec.json.encode({**base, "choices": choices})


class _Choice:
    """One choice of a stream: its texts, each with what is held back of it."""

    def __init__(self, placeholders: Placeholders, json: bool) -> None:
        self._placeholders = placeholders
        self._json = json
        self._texts: dict[str, Restorer] = {}
        self._arguments: dict[int | str, Restorer] = {}
        self._tokens: dict[str, _Tokens] = {}

    @property
    def holds(self) -> bool:
        """Whether something is held back."""
        restorers = (*self._texts.values(), *self._arguments.values())
        return any(one.held for one in restorers) or any(tokens.held for tokens in self._tokens.values())

    def feed(self, choice: dict[str, Any]) -> None:
        """Restore a chunk's choice in place."""
        delta = choice.get("delta")
        if isinstance(delta, dict):
            self._delta(delta)
        logprobs = choice.get("logprobs")
        if isinstance(logprobs, dict):
            for name in _TOKEN_LISTS:
                if isinstance(logprobs.get(name), list):
                    logprobs[name] = self._tokens_of(name).feed(logprobs[name])
        if choice.get("finish_reason") is not None:
            self.finish(choice)

    def finish(self, choice: dict[str, Any]) -> None:
        """Put what is held back into the last chunk's choice."""
        delta = choice["delta"] = choice.get("delta") or {}
        for name, restorer in self._texts.items():
            if restorer.held:
                delta[name] = (delta.get(name) or "") + restorer.end()
        for key, restorer in self._arguments.items():
            if restorer.held:
                self._add_arguments(delta, key, restorer.end())
        for name, tokens in self._tokens.items():
            if tokens.held:
                logprobs = choice["logprobs"] = choice.get("logprobs") or {}
                logprobs[name] = [*(logprobs.get(name) or ()), *tokens.end()]

    def _delta(self, delta: dict[str, Any]) -> None:
        said = {name for name, value in delta.items() if value not in (None, "", [])} - {"role"}
        for name, value in list(delta.items()):
            if name == "tool_calls" and isinstance(value, list):
                for call in value:
                    self._call(call)
            elif name == "function_call" and isinstance(value, dict):
                self._call({"index": name, "function": value})
            elif isinstance(value, str) and name not in _STRUCTURE:
                delta[name] = self._text(name).feed(value)
            elif isinstance(value, (dict, list)):
                delta[name] = _message(value, self._placeholders, self._json, name)
        # What something else follows is no placeholder's beginning; it goes out before that.
        for name, restorer in self._texts.items():
            if restorer.held and said and name not in said:
                delta[name] = (delta.get(name) or "") + restorer.end()

    def _call(self, call: Any) -> None:
        if not isinstance(call, dict):
            return
        key = call.get("index", 0)
        for part, name in (("function", "arguments"), ("custom", "input")):
            of = call.get(part)
            if isinstance(of, dict) and isinstance(of.get(name), str):
                if key not in self._arguments:
                    self._arguments[key] = Restorer(self._placeholders, json=name == "arguments")
                of[name] = self._arguments[key].feed(of[name])

    def _add_arguments(self, delta: dict[str, Any], key: int | str, text: str) -> None:
        if key == "function_call":
            of = delta.setdefault("function_call", {})
            of["arguments"] = (of.get("arguments") or "") + text
        else:
            delta["tool_calls"] = [
                *(delta.get("tool_calls") or ()),
                {"index": key, "function": {"arguments": text}},
            ]

    def _text(self, name: str) -> Restorer:
        if name not in self._texts:
            self._texts[name] = Restorer(self._placeholders, json=self._json and name == "content")
        return self._texts[name]

    def _tokens_of(self, name: str) -> _Tokens:
        if name not in self._tokens:
            self._tokens[name] = _Tokens(self._placeholders, json=self._json and name == "content")
        return self._tokens[name]


class _Tokens:
    """The tokens of one text with their probabilities; those that make up a placeholder become one."""

    def __init__(self, placeholders: Placeholders, *, json: bool) -> None:
        self._placeholders = placeholders
        self._json = json
        self.held: list[Any] = []

    def whole(self, entries: list[Any]) -> list[Any]:
        """Return all tokens of a text."""
        return [*self.feed(entries), *self.end()]

    def feed(self, entries: list[Any]) -> list[Any]:
        """Take further tokens; returns those that are sure by now."""
        entries = [*self.held, *entries]
        text = "".join(map(_token, entries))
        cut, length, sure = self._placeholders.beginning(text, json=self._json), 0, 0
        for entry in entries:
            length += len(_token(entry))
            if length > cut:
                break
            sure += 1
        self.held = entries[sure:]
        return list(self._merged(entries[:sure]))

    def end(self) -> list[Any]:
        """Return those that are left."""
        held, self.held = self.held, []
        return list(self._merged(held))

    def _merged(self, entries: list[Any]) -> Iterator[Any]:
        """Yield tokens with those as one that a placeholder is made of, with what is around it in them."""
        group: list[Any] = []
        for entry in entries:
            group.append(entry)
            text = "".join(map(_token, group))
            if self._placeholders.beginning(text, json=self._json) == len(text):
                yield from self._as_one(group, text)
                group = []
        yield from group

    def _as_one(self, group: list[Any], text: str) -> Iterator[Any]:
        restored = self._placeholders.restored(text, json=self._json)
        if restored == text:
            yield from group
            return
        logprob = sum(entry.get("logprob") or 0.0 for entry in group)
        yield {
            "token": restored,
            "logprob": max(logprob, _LEAST),
            "bytes": list(restored.encode(errors="replace")),
            "top_logprobs": [],
        }


def _token(entry: Any) -> str:
    token = entry.get("token") if isinstance(entry, dict) else None
    return token if isinstance(token, str) else ""
