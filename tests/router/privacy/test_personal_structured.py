"""What form gives away is taken out, and what only looks like it stays."""

import time

import pytest

from smallfirst.router.privacy import Span, find_spans, redact


@pytest.mark.parametrize(
    ("text", "redacted"),
    [
        ("Write to jane.doe+x@mail.example.co.uk, please.", "Write to [email], please."),
        ("Call +49 (0)30 1234567 today", "Call [phone] today"),
        ("or 030 1234567, or (415) 555-0132.", "or [phone], or [phone]."),
        ("Card 4111 1111 1111 1111 expires", "Card [card] expires"),
        ("Amex 378282246310005", "Amex [card]"),
        ("To DE89 3704 0044 0532 0130 00 by Monday", "To [iban] by Monday"),
        ("to GB82WEST12345698765432.", "to [iban]."),
        ("key sk-proj-abcdefghijklmnop1234 ok", "key [secret] ok"),
        ("Authorization: Bearer abc123def456", "Authorization: Bearer [secret]"),
        ('{"api_key": "k3y-very-private"}', '{"api_key": "[secret]"}'),
        ("postgresql://bob:hunter22@db/x", "postgresql://bob:[secret]@db/x"),
        ("AKIAIOSFODNN7EXAMPLE", "[secret]"),
        ("eyJhbGciOiJIUzI1.eyJzdWIiOiIxMjM0.SflKxwRJSMeKKF2Q", "[secret]"),
        (
            "-----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY-----\nbye",
            "[secret]\nbye",
        ),
    ],
)
def test_what_form_gives_away_is_taken_out(text: str, redacted: str) -> None:
    assert redact(text) == redacted


@pytest.mark.parametrize(
    "text",
    [
        "Card 4111 1111 1111 1112 has a wrong check digit",
        "To DE88370400440532013000: wrong check digits",
        "On 2026-05-02 at 12:30:15 we had 1,234,567 visits",
        "pi is 3.14159265358979, and 2 @ 3 is nothing",
        "version 1.22.333.4444 of 10.0.0.1",
        "0000 0000 0000 0000",
        "the token limit is 4096 tokens; ask for a password",
        "",
    ],
)
def test_what_only_looks_like_it_stays(text: str) -> None:
    assert redact(text) == text


def test_places_are_told_in_order() -> None:
    text = "a@b.de and 4111111111111111"
    assert find_spans(text) == [Span("email", 0, 6), Span("card", 11, 27)]


@pytest.mark.parametrize(
    "unit",
    [
        "a@",
        "1 ",
        "+1-",
        "A1 ",
        "sk-",
        "eyJa",
        "://a:",
        "token=",
        "(0",
        "-----BEGIN PRIVATE KEY-----",
        "4111 1111 1111 1111:",
        "dob=",
        "009",
        "passport no ",
        "\\n1",
        "P<UTO",
        "bc1",
        "2001:",
        "call at 1",
    ],
)
def test_time_grows_with_the_length_and_not_faster(unit: str) -> None:
    def seconds(length: int) -> float:
        text = unit * (length // len(unit))
        begun = time.process_time()
        redact(text)
        return time.process_time() - begun

    # Four times the text; a square would take sixteen times as long.
    short, long = (min(seconds(length) for _ in range(3)) for length in (50_000, 200_000))
    assert long < 12 * short + 0.05
