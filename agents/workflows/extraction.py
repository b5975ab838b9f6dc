"""Extraction: many texts to JSON by a schema, several at once; what looks made up is asked again, more carefully.

    python -m smallfirst.agents.workflows.extraction [--input FILE] [--schema FILE] [--base-url URL] > rows.jsonl

Each text goes to `auto` first. Where a word of the answer does not stand in the text, or the answer does not fit the
schema, `auto/quality` is asked. Rows go to standard output as they are done, one JSON object a line; progress and the
bill go to standard error.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from langchain_core.messages import HumanMessage, SystemMessage
from langchain_core.runnables import Runnable
from pydantic import BaseModel, Field
from rich.console import Console
from rich.progress import Progress

from smallfirst.agents import BillCallback, ChatSmallFirst
from smallfirst.router.errors import RequestError
from smallfirst.router.sync import SyncGateway

from .common import DATA, count, options, run

PROMPT = "Copy the fields out of the text. Do not add anything that the text does not say."


class Invoice(BaseModel):
    """What an invoice says."""

    number: str = Field(description="the invoice's number", max_length=20)
    customer: str = Field(description="who is to pay", max_length=60)
    total: float = Field(description="the amount to be paid")
    currency: Literal["EUR", "USD", "NOK"]


def read_texts(path: str | None) -> list[str]:
    """Return the texts: of JSON lines their `text`, else each line.

    Raises:
        ArgumentTypeError: The file cannot be read, or a line of JSON has no `text`; says which.
    """
    lines = (DATA / "invoices.jsonl").read_text().splitlines() if path is None else _read(path).splitlines()
    return [_text_of(line, number) for number, line in enumerate(lines, 1) if line.strip()]


def read_schema(path: str) -> dict[str, Any]:
    """Return a JSON schema.

    Raises:
        ArgumentTypeError: The file cannot be read, or it is no JSON schema with a title.
    """
    try:
        schema = json.loads(_read(path))
    except ValueError as exc:
        raise argparse.ArgumentTypeError(f"{path} is not valid JSON: {exc}") from exc
    if not isinstance(schema, dict) or not isinstance(schema.get("title"), str):
        raise argparse.ArgumentTypeError(f"{path} is no JSON schema with a `title`: that is its name")
    return schema


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except (OSError, UnicodeDecodeError) as exc:
        raise argparse.ArgumentTypeError(f"cannot read {path}: {exc}") from exc


def _text_of(line: str, number: int) -> str:
    if not line.startswith("{"):
        return line
    try:
        text = json.loads(line)["text"]
    except (ValueError, KeyError):
        text = None
    if not isinstance(text, str):
        raise argparse.ArgumentTypeError(f"line {number} is no JSON object with a `text`")
    return text


async def extract(
    texts: Sequence[str],
    schema: dict[str, Any] | type,
    gateway: SyncGateway,
    bill: BillCallback,
    at_once: int,
) -> list[dict[str, Any]]:
    """Return a row for each text, in order, and print each when it is done.

    A row has `text`, and either `fields` (in `doubtful` the names of those that do not stand in the text) or `error`.

    Args:
        texts: One for each row.
        schema: What the fields are: a JSON schema or a Pydantic class.
        gateway: Who is asked.
        bill: Gets the receipts.
        at_once: How many texts are read at the same time.
    """
    own: dict[str, Any] = {"gateway": gateway, "agent": "extraction", "temperature": 0, "max_tokens": 150}
    readers = [
        ChatSmallFirst(model=model, **own).with_structured_output(schema, include_raw=True)
        for model in ("auto", "auto/quality")
    ]
    gate = asyncio.Semaphore(at_once)
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("extracting", total=len(texts))

        async def read(text: str) -> dict[str, Any]:
            row: dict[str, Any] = {}
            async with gate:
                for reader in readers:
                    row = await _ask(text, reader, bill)
                    if not (row.get("doubtful") or "error" in row):
                        break
            print(json.dumps(row, ensure_ascii=False))
            progress.advance(task)
            return row

        return list(await asyncio.gather(*(read(text) for text in texts)))


async def _ask(text: str, reader: Runnable[Any, Any], bill: BillCallback) -> dict[str, Any]:
    try:
        found = await reader.ainvoke([SystemMessage(PROMPT), HumanMessage(text)], {"callbacks": [bill]})
    except RequestError as exc:
        return {"text": text, "error": str(exc)}
    if found["parsing_error"] is not None:
        return {"text": text, "error": "the answer does not fit the schema"}
    parsed = found["parsed"]
    fields: dict[str, Any] = parsed.model_dump() if isinstance(parsed, BaseModel) else parsed
    doubtful = [name for name, value in fields.items() if isinstance(value, str) and value not in text]
    return {"text": text, "fields": fields} | ({"doubtful": doubtful} if doubtful else {})


def extraction(args: argparse.Namespace, gateway: SyncGateway) -> None:
    """Extract, and print rows and the bill."""
    bill = BillCallback()
    texts = read_texts(None) if args.input is None else args.input
    rows = asyncio.run(extract(texts, args.schema or Invoice, gateway, bill, args.at_once))
    failed, doubtful = (sum(name in row for row in rows) for name in ("error", "doubtful"))
    print(f"{len(rows)} texts, {failed} without a result, {doubtful} doubtful.\n{bill.bill}", file=sys.stderr)


def main(argv: Sequence[str] | None = None, *, gateway: SyncGateway | None = None) -> int:
    """Run it; see the module."""
    parser = options(__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument(
        "--input",
        type=read_texts,
        metavar="FILE",
        help="JSON lines with `text`, or plain lines; default: some invoices",
    )
    parser.add_argument(
        "--schema", type=read_schema, metavar="FILE", help="a JSON schema with a title; default: an invoice's"
    )
    parser.add_argument("--at-once", type=count, default=4, help="requests at the same time; default: 4")
    return run(extraction, parser, argv, gateway)


if __name__ == "__main__":
    raise SystemExit(main())
