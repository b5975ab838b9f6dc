"""`smallfirst route`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import click
import msgspec

from smallfirst.policies import Attempt, Decision

from ..settings import Settings


@click.command()
@click.argument("prompt", required=False)
@click.option("--body", type=click.File("rb"), help="A chat completion body as JSON; - reads standard input.")
@click.option("--model", help="auto, auto/POLICY or a configured model's name.  [default: auto]")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.pass_obj
def route(
    load: Callable[[], Settings], prompt: str | None, body: Any, model: str | None, as_json: bool
) -> None:
    """Show where PROMPT would go, and why. Runs nothing."""
    from ..gateway import Gateway
    from ..server.chat import decision_body
    from ..wire import ChatRequest

    if (prompt is None) == (body is None):
        raise click.UsageError("Give either a prompt or --body.")
    request = prompt if prompt is not None else ChatRequest.parse(body.read())
    fields = {"model": model} if model else {}
    decision = Gateway(load()).route(request, **fields)
    if as_json:
        sys.stdout.buffer.write(msgspec.json.encode(decision_body(decision)) + b"\n")
        return
    _show(decision)


def _show(decision: Decision) -> None:
    first = decision.attempts[0]
    click.echo(f"{first.tier}: {first.model}")
    click.echo(f"why: {decision.reason} [{decision.code}, policy {decision.policy}]")
    if len(decision.attempts) > 1:
        when = "if its answer is not good enough" if decision.mode == "cascade" else "if it fails"
        click.echo(f"then, {when}: {', '.join(attempt.model for attempt in decision.attempts[1:])}")
    for attempt in decision.attempts:
        if attempt.hedge:
            click.echo(
                f"hedged: {_hedged_with(decision, attempt)}, where {attempt.model} has not begun to answer "
                f"after {attempt.hedge:g} s"
            )
    if decision.score is not None:
        score = decision.score
        chances = ", ".join(f"{name} {chance:.2f}" for name, chance in score.success.items())
        known = "" if score.known else "; unlike anything measured"
        click.echo(f"score: {score.task}, difficulty {score.difficulty:.2f}, P(right): {chances}{known}")


def _hedged_with(decision: Decision, attempt: Attempt) -> str:
    """Say who is asked besides: the next cloud model, else the same one."""
    later = decision.attempts[decision.attempts.index(attempt) + 1 :]
    other = next((one.model for one in later if one.tier == "cloud"), None)
    return f"{attempt.model} again" if other is None else other
