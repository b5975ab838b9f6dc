"""`smallfirst chat`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import click
import msgspec

from ..errors import RequestError
from ..settings import Settings
from .serve import fetch_models


@click.command()
@click.argument("prompt", required=False)
@click.option(
    "--model", default="auto", show_default=True, help="auto, auto/POLICY or a configured model's name."
)
@click.option("--max-tokens", type=click.IntRange(min=1), help="Limit of the answer.")
@click.pass_obj
def chat(load: Callable[[], Settings], prompt: str | None, model: str, max_tokens: int | None) -> None:
    """Answer PROMPT, or talk turn by turn where none is given (end with Ctrl-D)."""
    settings = load()
    fetch_models(settings)
    asyncio.run(
        _chat(settings, prompt, {"model": model, **({"max_tokens": max_tokens} if max_tokens else {})})
    )


async def _chat(settings: Settings, prompt: str | None, fields: dict[str, Any]) -> None:
    from ..gateway import Gateway

    messages: list[dict[str, str]] = []
    async with Gateway(settings) as gateway:
        while True:
            try:
                said = (
                    prompt if prompt is not None else await asyncio.to_thread(click.prompt, "you", type=str)
                )
            except click.Abort:
                click.echo()
                return
            messages.append({"role": "user", "content": said})
            answered = await _turn(gateway, {**fields, "messages": messages})
            if prompt is not None:
                if answered is None:
                    raise click.exceptions.Exit(1)
                return
            # A turn that failed is taken back, so that the conversation stays well-formed.
            if answered is None:
                messages.pop()
            else:
                messages.append({"role": "assistant", "content": answered})


async def _turn(gateway: Any, body: dict[str, Any]) -> str | None:
    """Print one answer as it comes; returns its text, or None where it failed."""
    said: list[str] = []
    try:
        async with await gateway.stream(body) as stream:
            async for chunk in stream:
                for choice in msgspec.json.decode(chunk).get("choices", ()):
                    text = choice.get("delta", {}).get("content") or ""
                    said.append(text)
                    click.echo(text, nl=False)
    except RequestError as exc:
        click.echo(f"\nerror: {exc.message}", err=True)
        return None
    receipt = stream.receipt
    cost = "unknown" if receipt.cost_usd is None else f"${receipt.cost_usd:.6f}"
    click.secho(f"\n[{receipt.route}: {receipt.model}; {receipt.reason}; cost {cost}]", dim=True, err=True)
    return "".join(said)
