"""A running proxy with the face of a `Gateway`, for the SDK."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any

import httpx
import msgspec

from smallfirst.policies import Decision

from ..answer import Answer, AnswerStream, Receipt
from ..classification.request import parse as parse_classify
from ..errors import ModelTimeout, ModelUnavailable, StreamBroken, UpstreamError
from ..ledger.report import Report
from ..models.sse import SSEParser
from ..wire import ChatRequest, Usage
from .errors import error_of, stream_error


class RemoteGateway:
    """Talks to a running smallfirst proxy.

    Args:
        base_url: Of the proxy, with `/v1`.
        api_key: Its key, where it asks for one.
        timeout: Seconds without a byte until a call fails.
        transport: Replaces the network; meant for tests.

    Raises, when called:
        RequestError: The same kinds as `Gateway`'s, by the proxy's status, type and code. A cloud's own error behind
            the proxy is an `UpstreamError`, or what its type says. `ModelUnavailable`: the proxy cannot be reached;
            `ModelTimeout`: it fell silent.
    """

    def __init__(
        self,
        base_url: str,
        *,
        api_key: str | None = None,
        timeout: float = 600.0,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
        self._base = base_url.rstrip("/")
        self._url = f"{self._base}/chat/completions"
        self._client = httpx.AsyncClient(headers=headers, timeout=timeout, transport=transport)

    async def __aenter__(self) -> RemoteGateway:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def complete(self, request: ChatRequest | Mapping[str, Any] | str, **fields: Any) -> Answer:
        """Answer in one piece; see `Gateway.complete`."""
        response = await self._send(ChatRequest.of(request, fields, stream=False), stream=False)
        body = self._decoded(response)
        return Answer(body, Receipt.from_headers(response.headers), Usage.from_wire(body.get("usage")))

    async def stream(self, request: ChatRequest | Mapping[str, Any] | str, **fields: Any) -> AnswerStream:
        """Answer in pieces; see `Gateway.stream`."""
        parsed = ChatRequest.of(request, fields, stream=True)
        options = parsed.fields.stream_options
        counts = options is not None and options.include_usage
        if not counts:
            # The receipt's cost comes with the usage.
            wanted = {**(parsed.body.get("stream_options") or {}), "include_usage": True}
            parsed = ChatRequest.of(parsed, {"stream_options": wanted}, stream=True)
        return AnswerStream(_RemoteStream(await self._send(parsed, stream=True), counts=counts))

    async def route(self, request: ChatRequest | Mapping[str, Any] | str, **fields: Any) -> Decision:
        """Return the decision alone; see `Gateway.route`."""
        parsed = ChatRequest.of(request, fields, stream=None)
        response = await self._post(f"{self._base}/route", parsed.body, parsed.headers, stream=False)
        body = self._decoded(response)
        return msgspec.convert({**body, "code": body["reason_code"]}, Decision)

    async def classify(
        self,
        text: str | Sequence[str],
        labels: Sequence[str],
        *,
        tenant: str = "default",
        headers: Mapping[str, str] | None = None,
        **fields: Any,
    ) -> list[tuple[dict[str, Any], Receipt]]:
        """Label texts; see `Gateway.classify`. A proxy with keys knows the tenant by the key."""
        texts = text if isinstance(text, str) else list(text)
        wanted = parse_classify({**fields, "text": texts, "labels": list(labels)})
        body = {
            **fields,
            "labels": list(labels),
            "metadata": {**(fields.get("metadata") or {}), "tenant": tenant},
        }

        async def label(one: str) -> tuple[dict[str, Any], Receipt]:
            # A request each: so each has its own receipt.
            url = f"{self._base}/classify"
            response = await self._post(url, {**body, "text": one}, headers or {}, stream=False)
            result = self._decoded(response)
            return {key: value for key, value in result.items() if key != "object"}, Receipt.from_headers(
                response.headers
            )

        return await asyncio.gather(*(label(one) for one in wanted.texts))

    async def embed(self, model: str, texts: Sequence[str]) -> tuple[list[list[float]], int]:
        """Return a vector for each text, and how many tokens they have together; see `Gateway.embed`."""
        body = {"model": model, "input": list(texts)}
        response = await self._post(f"{self._base}/embeddings", body, {}, stream=False)
        found = self._decoded(response)
        return [row["embedding"] for row in found["data"]], found["usage"]["prompt_tokens"]

    async def model_owners(self) -> dict[str, str]:
        """Return what may be put into `model`, and where it runs: `local`, `cloud`, or `smallfirst` decides."""
        response = await self._send_message(self._client.build_request("GET", f"{self._base}/models"))
        return {model["id"]: model["owned_by"] for model in self._decoded(response)["data"]}

    async def feedback(
        self,
        request_id: str,
        score: float | str | bool,
        *,
        tenant: str = "default",
        comment: str | None = None,
    ) -> float:
        """Say what an answer was worth; see `Gateway.feedback`. A proxy with keys knows the tenant by the key."""
        body: dict[str, Any] = {"request_id": request_id, "score": score, "metadata": {"tenant": tenant}}
        if comment is not None:
            body["comment"] = comment
        response = await self._post(f"{self._base}/feedback", body, {}, stream=False)
        return float(self._decoded(response)["score"])

    async def forget(self, *, tenant: str = "default", namespace: str | None = None) -> int:
        """Forget cached answers; see `Gateway.forget`. A proxy with keys knows the tenant by the key."""
        params = {"tenant": tenant} | ({} if namespace is None else {"namespace": namespace})
        message = self._client.build_request("DELETE", f"{self._base}/cache", params=params)
        response = await self._send_message(message)
        return int(self._decoded(response)["deleted"])

    async def report(
        self,
        *,
        since: datetime | str | None = None,
        until: datetime | str | None = None,
        by: Sequence[str] = ("model", "route"),
        tenant: str | None = None,
    ) -> Report:
        """Add the proxy's ledger up; see `Gateway.report`. A proxy with keys knows the tenant by the key.

        `steps` and `routes` are empty: they are for charts, and stay with the ledger.

        Raises:
            RequestError: A time or a group is none (status 400), or the ledger cannot be read (503).
        """
        times = {"since": since, "until": until}
        params = {
            name: time if isinstance(time, str) else time.isoformat()
            for name, time in times.items()
            if time is not None
        }
        params |= {"by": ",".join(by)} | ({} if tenant is None else {"tenant": tenant})
        message = self._client.build_request("GET", f"{self._base}/report", params=params)
        response = await self._send_message(message)
        body = self._decoded(response)
        return msgspec.convert({**body, "steps": [], "routes": []}, Report)

    def _decoded(self, response: httpx.Response) -> dict[str, Any]:
        try:
            body = msgspec.json.decode(response.content)
        except (msgspec.DecodeError, UnicodeDecodeError) as exc:
            raise self._no_proxy() from exc
        if not isinstance(body, dict):
            raise self._no_proxy()
        return body

    def _no_proxy(self) -> UpstreamError:
        message = f"What answers at {self._base} is no smallfirst proxy: is the address right, with /v1?"
        return UpstreamError(message, status=502)

    async def _send(self, request: ChatRequest, *, stream: bool) -> httpx.Response:
        return await self._post(self._url, request.body, request.headers, stream=stream)

    async def _post(
        self, url: str, body: Mapping[str, Any], headers: Mapping[str, str], *, stream: bool
    ) -> httpx.Response:
        message = self._client.build_request(
            "POST",
            url,
            content=msgspec.json.encode(body),
            headers={"content-type": "application/json", **headers},
        )
        return await self._send_message(message, stream=stream)

    async def _send_message(self, message: httpx.Request, *, stream: bool = False) -> httpx.Response:
        try:
            response = await self._client.send(message, stream=stream)
            if response.status_code != httpx.codes.OK:
                await response.aread()
                await response.aclose()
                raise error_of(response)
        except httpx.TimeoutException as exc:
            raise ModelTimeout(f"The proxy at {self._base} did not answer in time.") from exc
        except httpx.TransportError as exc:
            raise ModelUnavailable(f"The proxy at {self._base} cannot be reached: is it running?") from exc
        return response


class _RemoteStream:
    """Chunks of a proxy's event stream; the one with nothing but the usage only where the caller asked for it."""

    def __init__(self, response: httpx.Response, *, counts: bool) -> None:
        self.receipt = Receipt.from_headers(response.headers)
        self.usage: Usage | None = None  # known once a chunk says it
        self.ready = False
        self._counts = counts
        self._response = response
        self._chunks = self._read()

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._chunks

    async def aclose(self) -> None:
        await self._chunks.aclose()
        await self._response.aclose()

    def _takes(self, chunk: dict[str, Any]) -> bool:
        """Read what a chunk says of the answer's usage and cost; returns whether the caller gets to see it."""
        self.usage = Usage.from_wire(chunk.get("usage")) or self.usage
        if "smallfirst" in chunk:
            # A proxy of another version may say other things.
            with suppress(msgspec.ValidationError):
                self.receipt = msgspec.convert(chunk["smallfirst"], Receipt)
        return self._counts or bool(chunk.get("choices")) or chunk.get("usage") is None

    async def _read(self) -> AsyncGenerator[bytes]:
        parser = SSEParser()
        try:
            async for data in self._response.aiter_bytes():
                for event in parser.feed(data):
                    if event == b"[DONE]":
                        return
                    if event.startswith(b'{"error"'):
                        raise stream_error(event)
                    if b'"usage"' not in event or self._takes(msgspec.json.decode(event)):
                        yield event
        except httpx.TimeoutException as exc:
            raise ModelTimeout("The proxy fell silent in the middle of its answer.") from exc
        except httpx.TransportError as exc:
            raise StreamBroken("The connection to the proxy broke in the middle of its answer.") from exc
        raise StreamBroken("The proxy's answer ended before it was complete.")
