"""A running proxy with the face of a `Gateway`, for the SDK."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import httpx
import msgspec

from smallfirst.policies import Decision

from .answer import Answer, AnswerStream, Receipt
from .errors import ModelTimeout, ModelUnavailable, RequestError, StreamBroken, UpstreamError
from .models.retry import RETRIED_STATUSES, parse_retry_after
from .models.sse import SSEParser
from .wire import ChatRequest, Usage


class RemoteGateway:
    """Talks to a running smallfirst proxy.

    Args:
        base_url: Of the proxy, with `/v1`.
        api_key: Its key, where it asks for one.
        timeout: Seconds without a byte until a call fails.
        transport: Replaces the network; meant for tests.
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
        body = msgspec.json.decode(response.content)
        return Answer(body, Receipt.from_headers(response.headers))

    async def stream(self, request: ChatRequest | Mapping[str, Any] | str, **fields: Any) -> AnswerStream:
        """Answer in pieces; see `Gateway.stream`."""
        response = await self._send(ChatRequest.of(request, fields, stream=True), stream=True)
        return AnswerStream(_RemoteStream(response))

    async def route(self, request: ChatRequest | Mapping[str, Any] | str, **fields: Any) -> Decision:
        """Return the decision alone; see `Gateway.route`."""
        parsed = ChatRequest.of(request, fields, stream=None)
        response = await self._post(f"{self._base}/route", parsed.body, parsed.headers, stream=False)
        body = msgspec.json.decode(response.content)
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
        body = {
            **fields,
            "labels": list(labels),
            "metadata": {**(fields.get("metadata") or {}), "tenant": tenant},
        }

        async def label(one: str) -> tuple[dict[str, Any], Receipt]:
            # A request each: so each has its own receipt.
            url = f"{self._base}/classify"
            response = await self._post(url, {**body, "text": one}, headers or {}, stream=False)
            result = msgspec.json.decode(response.content)
            del result["object"]
            return result, Receipt.from_headers(response.headers)

        return await asyncio.gather(*(label(one) for one in ([text] if isinstance(text, str) else text)))

    async def embed(self, model: str, texts: Sequence[str]) -> tuple[list[list[float]], int]:
        """Return a vector for each text, and how many tokens they have together; see `Gateway.embed`."""
        body = {"model": model, "input": list(texts)}
        response = await self._post(f"{self._base}/embeddings", body, {}, stream=False)
        found = msgspec.json.decode(response.content)
        return [row["embedding"] for row in found["data"]], found["usage"]["prompt_tokens"]

    async def model_owners(self) -> dict[str, str]:
        """Return what may be put into `model`, and where it runs: `local`, `cloud`, or `smallfirst` decides."""
        response = await self._send_message(self._client.build_request("GET", f"{self._base}/models"))
        return {model["id"]: model["owned_by"] for model in msgspec.json.decode(response.content)["data"]}

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
        return float(msgspec.json.decode(response.content)["score"])

    async def forget(self, *, tenant: str = "default", namespace: str | None = None) -> int:
        """Forget cached answers; see `Gateway.forget`. A proxy with keys knows the tenant by the key."""
        params = {"tenant": tenant} | ({} if namespace is None else {"namespace": namespace})
        message = self._client.build_request("DELETE", f"{self._base}/cache", params=params)
        response = await self._send_message(message)
        return int(msgspec.json.decode(response.content)["deleted"])

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
                raise _error(response)
        except httpx.TimeoutException as exc:
            raise ModelTimeout(f"The proxy at {self._base} did not answer in time.") from exc
        except httpx.TransportError as exc:
            raise ModelUnavailable(f"The proxy at {self._base} cannot be reached: is it running?") from exc
        return response


class _RemoteStream:
    """Chunks of a proxy's event stream."""

    def __init__(self, response: httpx.Response) -> None:
        self.receipt = Receipt.from_headers(response.headers)
        self.usage: Usage | None = None  # it is in the chunks, where the caller asked for it
        self._response = response
        self._chunks = self._read()

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._chunks

    async def aclose(self) -> None:
        await self._chunks.aclose()
        await self._response.aclose()

    async def _read(self) -> AsyncGenerator[bytes]:
        parser = SSEParser()
        try:
            async for data in self._response.aiter_bytes():
                for event in parser.feed(data):
                    if event == b"[DONE]":
                        return
                    if event.startswith(b'{"error"'):
                        raise _stream_error(event)
                    yield event
        except httpx.TimeoutException as exc:
            raise ModelTimeout("The proxy fell silent in the middle of its answer.") from exc
        except httpx.TransportError as exc:
            raise StreamBroken("The connection to the proxy broke in the middle of its answer.") from exc
        raise StreamBroken("The proxy's answer ended before it was complete.")


def _stream_error(event: bytes) -> StreamBroken:
    error = msgspec.json.decode(event)["error"]
    return StreamBroken(error.get("message") or "The proxy reported an error.", code=error.get("code"))


def _error(response: httpx.Response) -> RequestError:
    """Return the proxy's error as one of ours, with its status."""
    try:
        error = msgspec.json.decode(response.content)["error"]
    except (msgspec.DecodeError, KeyError, TypeError):
        error = {"message": f"The proxy answered {response.status_code}."}
    message, status = error.get("message") or "", response.status_code
    failure: RequestError
    if status in RETRIED_STATUSES:
        after = parse_retry_after(response.headers, datetime.now(UTC))
        failure = UpstreamError(message, status=status, error=error, retry_after=after)
    else:
        failure = RequestError(message, param=error.get("param"), code=error.get("code"))
        failure.status = status
    failure.type = error.get("type") or failure.type
    return failure
