"""Running tasks against a live OpenAI-compatible server: a line a row, without prompt or reply, to resume from."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx
import msgspec

from smallfirst.router.errors import (
    ModelError,
    ModelTimeout,
    ModelUnavailable,
    SmallfirstError,
    StreamBroken,
    UpstreamError,
)
from smallfirst.router.models.retry import parse_retry_after, retry_delay
from smallfirst.router.settings import Price, Retries
from smallfirst.router.training.files import DataError
from smallfirst.router.wire import Usage

from .calls import each
from .checkers import Answer
from .suites import Example

RIGHT, WRONG, UNSCORED, ERROR = "right", "wrong", "unscored", "error"
# Nothing that a row could change: the key, the model or the address is wrong.
_HOPELESS = frozenset({401, 403, 404})
# The server says nothing about the row; trying again later may help.
_TRANSIENT = frozenset({408, 409, 425, 429})
# How every line begins, so that one that was cut off is known as ours.
_BEGINNING = b'{"key": "'
# How newer models want it said, by the parameter that they refuse.
_RENAMED: Mapping[str, str | None] = {"max_tokens": "max_completion_tokens", "temperature": None}


@dataclass(frozen=True, slots=True)
class Ask:
    """What a run asks for.

    Attributes:
        model: The name that is sent.
        max_tokens: Limit of an answer by task.
        use_cache: Whether a smallfirst gateway may answer from its cache, and keep answers.
        price: What the server's tokens cost, where it does not say so itself.
        concurrency: Requests at a time.
    """

    model: str
    max_tokens: Mapping[str, int]
    use_cache: bool = False
    price: Price | None = None
    concurrency: int = 4

    def body(self, example: Example) -> dict[str, Any]:
        """Return the body that is sent for a row: temperature 0, and an answer of limited length."""
        kept = {key: value for key, value in example.body.items() if key not in ("stream", "stream_options")}
        body = {**kept, "model": self.model, "temperature": 0}
        if not body.keys() & {"max_tokens", "max_completion_tokens"}:
            body["max_tokens"] = self.max_tokens[example.task]
        return body

    def key(self, example: Example) -> str:
        """Return what names this question to this model in a file of results, wherever the server is."""
        asked = [example.task, example.subset, example.id, self.use_cache, self.body(example)]
        text = json.dumps(asked, sort_keys=True, ensure_ascii=False)
        return hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=12).hexdigest()


class Server:
    """An OpenAI-compatible server, as an eval sees it. Use it as a context manager.

    Args:
        base_url: With the path up to `/v1`.
        api_key: Its key, where it asks for one.
        timeout: Seconds that an answer may take.
        retries: Of rate limits, server faults and lost connections.
        transport: Replaces the network; meant for tests.
    """

    def __init__(
        self,
        base_url: str,
        *,
        api_key: str | None = None,
        timeout: float = 600.0,
        retries: Retries = Retries(max=3),  # noqa: B008 - a frozen value
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._url = httpx.URL(base_url.rstrip("/"))
        self._retries = retries
        # Parameters that this server refused, for the rest of the run.
        self._refused: set[str] = set()
        self.is_smallfirst = False
        headers = {"content-type": "application/json", "user-agent": "smallfirst"}
        if api_key:
            headers["authorization"] = f"Bearer {api_key}"
        self._http = httpx.AsyncClient(
            headers=headers,
            timeout=httpx.Timeout(timeout, connect=10.0),
            limits=httpx.Limits(max_connections=None),
            transport=transport,
        )

    async def __aenter__(self) -> Server:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.aclose()

    @property
    def shown(self) -> str:
        """The address without a name or password in it."""
        return f"{self._url.scheme}://{self._url.netloc.decode('ascii')}{self._url.path}"

    async def look(self) -> None:
        """Find out whether it is a smallfirst gateway: its list of models has `auto`, owned by smallfirst.

        Raises:
            SmallfirstError: It cannot be reached, or does not take the key.
        """
        try:
            response = await self._http.get(f"{self._url}/models")
        except httpx.ConnectError as exc:
            raise self._unreachable() from exc
        except httpx.HTTPError:
            return  # a server without a list of models is none of ours
        self._check(response)
        try:
            listed = response.json()["data"]
            self.is_smallfirst = any(m["id"] == "auto" and m["owned_by"] == "smallfirst" for m in listed)
        except (ValueError, LookupError, TypeError):
            self.is_smallfirst = False

    async def ask(self, body: Mapping[str, Any]) -> tuple[httpx.Response, float]:
        """Send a chat completion, with retries; returns the answer and the milliseconds of the try that got it.

        Raises:
            ModelError: It did not answer, or refused this request.
            SmallfirstError: It refuses every request.
        """
        tries = 0
        while True:
            sent = self._adapted(body)
            begun = time.perf_counter()
            try:
                response = await self._send(sent)
                return response, 1000 * (time.perf_counter() - begun)
            except ModelError as exc:
                if (
                    isinstance(exc, UpstreamError)
                    and exc.status == 400
                    and exc.param in sent.keys() & _RENAMED
                ):
                    self._refused.add(exc.param)
                    continue
                delay = retry_delay(exc, tries, self._retries, random.random())
                if delay is None:
                    raise
            await asyncio.sleep(delay)
            tries += 1

    async def _send(self, body: Mapping[str, Any]) -> httpx.Response:
        try:
            response = await self._http.post(
                f"{self._url}/chat/completions", content=msgspec.json.encode(body)
            )
        except httpx.ConnectError as exc:
            raise self._unreachable() from exc
        except httpx.TimeoutException as exc:
            raise ModelTimeout("The server did not answer in time.") from exc
        except httpx.TransportError as exc:
            raise StreamBroken("The connection broke before the answer.", code="connection_lost") from exc
        if response.is_success:
            return response
        self._check(response)
        error = _error_of(response)
        raise UpstreamError(
            str(error.get("message") or f"The server answered {response.status_code}."),
            status=response.status_code,
            error=error,
            retry_after=parse_retry_after(response.headers, datetime.now(UTC)),
        )

    def _check(self, response: httpx.Response) -> None:
        """Raise where no request can succeed. A list of models that is not there is no failure."""
        status = response.status_code
        if status in _HOPELESS and not (status == 404 and response.url.path.endswith("/models")):
            said = _error_of(response).get("message") or "no reason given"
            raise SmallfirstError(f"{self.shown} refuses requests with status {status}: {said}")

    def _unreachable(self) -> ModelUnavailable:
        return ModelUnavailable(f"{self.shown} cannot be reached; is it running?", code="unreachable")

    def _adapted(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Return the body in the words of this server: newer models know other names for two parameters."""
        adapted = dict(body)
        for param in self._refused & adapted.keys():
            value, name = adapted.pop(param), _RENAMED[param]
            if name is not None:
                adapted[name] = value
        return adapted


def _error_of(response: httpx.Response) -> dict[str, Any]:
    try:
        error = response.json()["error"]
    except (ValueError, LookupError, TypeError):
        return {}
    return error if isinstance(error, dict) else {"message": str(error)}


# --- one row --------------------------------------------------------------------------------------------------


async def answered(server: Server, ask: Ask, example: Example) -> dict[str, Any]:
    """Return what came of a row; see `run_suite` for its fields.

    Raises:
        SmallfirstError: No row can be answered: the server is gone, or refuses key, model or address.
    """
    line = {"key": ask.key(example), "task": example.task, "subset": example.subset, "id": example.id}
    line |= {"model": ask.model}
    body = ask.body(example)
    if server.is_smallfirst and not ask.use_cache:
        body["cache"] = {"no-cache": True, "no-store": True}
    try:
        response, latency = await server.ask(body)
    except ModelUnavailable:
        raise
    except UpstreamError as exc:
        code = exc.code or f"http_{exc.status}"
        if exc.status in _TRANSIENT or exc.status >= 500:
            return line | {"outcome": ERROR, "error": code}
        # The server's last word on this row: who asks there gets no answer.
        return line | {"outcome": UNSCORED if example.check is None else WRONG, "error": code}
    except ModelError as exc:
        return line | {"outcome": ERROR, "error": exc.code or exc.type}
    return line | _read(response, latency, ask.price, example)


def _read(response: httpx.Response, latency: float, price: Price | None, example: Example) -> dict[str, Any]:
    try:
        reply = response.json()
        choice = reply["choices"][0]
        answer = Answer.of(choice["message"])
    except (ValueError, LookupError, TypeError, AttributeError):
        return {"outcome": ERROR, "error": "no_chat_completion"}
    usage = Usage.from_wire(reply.get("usage"))
    headers = response.headers
    return {
        "outcome": UNSCORED if example.check is None else RIGHT if example.check(answer) else WRONG,
        "answered_by": headers.get("x-smallfirst-model") or reply.get("model"),
        "route": headers.get("x-smallfirst-route"),
        "reason": headers.get("x-smallfirst-reason"),
        "cost_usd": _cost(headers, usage, price),
        "input_tokens": usage.input_tokens if usage else None,
        "output_tokens": usage.output_tokens if usage else None,
        "latency_ms": round(latency, 3),
        "finish_reason": choice.get("finish_reason"),
    }


def _cost(headers: httpx.Headers, usage: Usage | None, price: Price | None) -> float | None:
    """Return what the gateway says; else usage times price; None where that is unknown, and never 0 by accident."""
    if "x-smallfirst-route" in headers:
        # One stated price cannot be right for all that a gateway may have asked.
        told = headers.get("x-smallfirst-cost-usd")
        return None if told is None else float(told)
    if usage is None or price is None:
        return None
    return (usage.input_tokens * price.input + usage.output_tokens * price.output) * 1e-6


# --- a run ----------------------------------------------------------------------------------------------------


async def run_suite(
    server: Server,
    ask: Ask,
    examples: Sequence[Example],
    out: Path,
    *,
    progress: Callable[[Mapping[str, Any]], None] = lambda line: None,
) -> list[dict[str, Any]]:
    """Ask a server every row that `out` has no answer of, appending a line each, and return the lines of all rows.

    A line has `key, task, subset, id, model, outcome` and, where there was an answer, `answered_by, route, reason,
    cost_usd, input_tokens, output_tokens, latency_ms, finish_reason`, where not, `error`. `outcome` is `right`, `wrong`
    (a refused request as well: 400, 413, 422 and their like), `unscored` (cannot be checked) or `error` (no answer, for
    reasons that have nothing to do with the row; run again the next time).

    Args:
        server: Open.
        ask: What to ask for.
        examples: The rows. They are asked in a mixed order, so that an interrupted run says something of every task.
        out: JSON lines; created where it is not there. Lines of other models or limits are left alone.
        progress: Is called with every line: at once with those that `out` has, then with each new one.

    Raises:
        DataError: `out` cannot be read or written.
        SmallfirstError: The server cannot be reached or refuses every request. What was answered is kept.
    """
    by_key = {ask.key(example): example for example in examples}
    done = {line["key"]: line for line in kept(out) if line["key"] in by_key and line["outcome"] != ERROR}
    todo = [example for key, example in sorted(by_key.items()) if key not in done]
    for line in done.values():
        progress(line)
    if todo:
        await server.look()
        await _append(server, ask, todo, out, done, progress)
    return [done[key] for key in by_key]


async def _append(
    server: Server,
    ask: Ask,
    todo: Sequence[Example],
    out: Path,
    done: dict[str, dict[str, Any]],
    progress: Callable[[Mapping[str, Any]], None],
) -> None:
    try:
        file = out.open("a", encoding="utf-8")
    except OSError as exc:
        raise DataError(f"{out} cannot be written: {exc.strerror}") from exc
    with file:

        async def one(example: Example) -> None:
            line = await answered(server, ask, example)
            done[line["key"]] = line
            file.write(json.dumps(line) + "\n")
            file.flush()
            progress(line)

        await each(todo, one, concurrency=ask.concurrency)


def kept(out: Path) -> list[dict[str, Any]]:
    """Return the lines of a file of results; a last line that an interrupt cut off is taken out of the file.

    Raises:
        DataError: It is no file of results; nothing in it was changed.
    """
    if not out.exists():
        return []
    try:
        whole, _, rest = (b"\n" + out.read_bytes()).rpartition(b"\n")
    except OSError as exc:
        raise DataError(f"{out} cannot be read: {exc.strerror}") from exc
    lines = [_result(line, f"{out}: line {at}") for at, line in enumerate(whole.split(b"\n")[1:], 1)]
    if rest:
        if not rest.startswith(_BEGINNING[: len(rest)]):
            raise DataError(f"{out}: its last line is not one of `eval suite --out`; name another file.")
        os.truncate(out, len(whole))  # the newline before it stands for the one at its end
    return lines


def _result(line: bytes, where: str) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except ValueError:
        found = None
    if not isinstance(found, dict) or not {"key", "outcome", "task", "subset", "id"} <= found.keys():
        raise DataError(f"{where}: not a line of `eval suite --out`; name another file.")
    return found
