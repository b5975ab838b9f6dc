"""Prompts and answers are kept by a real gateway only where the operator asks for it."""

from pathlib import Path
from typing import Any

import pytest
from fixtures.scripted_model import Scripted
from fixtures.serving import LOCAL, MakeSettings

from smallfirst.router.gateway import Gateway
from smallfirst.router.ledger import Text, store_at
from smallfirst.router.ledger.texts import MOST_CHARACTERS, text_of
from smallfirst.router.settings import LedgerSettings
from smallfirst.router.wire import ChatRequest

KEY = "sk-proj-a1B2c3D4e5F6g7H8i9J0k1L2"
SECRET = f"Write to jane@example.org about {KEY}."


async def asked(make_settings: MakeSettings, path: Path, **ledger: Any) -> list[tuple[str, str]]:
    """Ask whole, in a stream, and the same again; returns the words that were kept, oldest first."""
    settings = make_settings(ledger=LedgerSettings(path=path, **ledger))
    async with Gateway(settings, models={LOCAL: Scripted(LOCAL, ("to", "jane@example.org"))}) as gateway:
        for _ in range(2):
            await gateway.complete(SECRET, model=LOCAL, temperature=0)
        stream = await gateway.stream(f"Again: {SECRET}", model=LOCAL)
        async for _ in stream:
            pass
    with store_at(path).read() as connection:
        return connection.execute("SELECT prompt, reply FROM texts ORDER BY recorded_at").fetchall()


async def test_by_default_no_word_is_kept(make_settings: MakeSettings, tmp_path: Path) -> None:
    assert await asked(make_settings, tmp_path / "ledger.db") == []
    assert b"jane" not in b"".join(file.read_bytes() for file in tmp_path.glob("ledger.db*"))


async def test_in_full_where_it_is_asked_for(make_settings: MakeSettings, tmp_path: Path) -> None:
    answer = "to jane@example.org"
    assert await asked(make_settings, tmp_path / "ledger.db", texts="full") == [
        (f"user: {SECRET}", answer),
        (f"user: {SECRET}", answer),
        (f"user: Again: {SECRET}", answer),
    ]


async def test_or_without_what_its_form_gives_away(make_settings: MakeSettings, tmp_path: Path) -> None:
    kept = await asked(make_settings, tmp_path / "ledger.db", texts="redacted")
    assert [prompt.startswith("user: ") and "Write to [" in prompt for prompt, _ in kept] == [True] * 3
    assert [reply.startswith("to [") for _, reply in kept] == [True] * 3
    files = b"".join(file.read_bytes() for file in tmp_path.glob("ledger.db*"))
    assert b"jane" not in files
    assert KEY.encode() not in files


def words(content: Any, reply: dict[str, Any]) -> Text:
    request = ChatRequest.parse(
        {"model": "auto", "messages": [{"role": "user", "content": content}]}, tenant="t"
    )
    return text_of("r1", request, {"choices": [{"index": 0, "message": reply}]}, recorded_at=5.0)


def test_calls_are_words_and_images_are_not() -> None:
    call = {"id": "c", "type": "function", "function": {"name": "send", "arguments": '{"to": "x"}'}}
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    found = words([{"type": "text", "text": "See"}, image], {"content": None, "tool_calls": [call]})
    assert found == Text(
        request_id="r1", tenant="t", recorded_at=5.0, prompt="user: See", reply='send({"to": "x"})'
    )


@pytest.mark.parametrize("secret", ["jane.doe@example.com", "4111 1111 1111 1111", "sk-proj-" + "Ab1" * 60])
@pytest.mark.parametrize("kept", [5, 12, 18])
def test_what_a_cut_went_through_is_left_out_where_words_are_redacted(secret: str, kept: int) -> None:
    before = "word " * (MOST_CHARACTERS // 5)
    content = f"{before[: MOST_CHARACTERS - kept - len('user: ')]} {secret} and more"[1:]
    found = words(content, {"content": "y"})
    stored = found.stored("redacted")
    assert secret[: kept - 1] in found.prompt
    assert secret[: kept - 1] not in stored.prompt
    assert stored.prompt.endswith("[cut]")
    assert len(stored.prompt) > MOST_CHARACTERS - 1000


@pytest.mark.parametrize("length", [MOST_CHARACTERS - 6, MOST_CHARACTERS * 2])
def test_what_is_very_long_is_cut_and_says_so(length: int) -> None:
    found = words("x" * length, {"content": "y"})
    assert found.prompt.endswith("[cut]") == (length > MOST_CHARACTERS)
    assert len(found.prompt) <= MOST_CHARACTERS + 6
