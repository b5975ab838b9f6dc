"""Each kind of data is found by its form and its check digits, and what fails them is not."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smallfirst.router.privacy import find_spans, redact


def found(text: str) -> list[tuple[str, str]]:
    return [(span.kind, text[span.start : span.end]) for span in find_spans(text)]


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [
        ("Card 5105-1051-0510-5100.", "card", "5105-1051-0510-5100"),
        ("pay with 2223003122003222", "card", "2223003122003222"),
        ("maestro 6304273733986", "card", ""),
        ("my card 3598899323053410", "card", "3598899323053410"),
        ("iban gb82west12345698765432", "iban", "gb82west12345698765432"),
        ("NO93 8601 1117 947 is mine", "iban", "NO93 8601 1117 947"),
        ("SSN: 853-37-1694", "ssn", "853-37-1694"),
        ("social security 853371694 ok", "ssn", "853371694"),
        ("from 8.8.8.8 came", "ip", "8.8.8.8"),
        ("[2001:4860:4860::8888]:53", "ip", "2001:4860:4860::8888"),
        ("Pay 1A1zP1eP5QGefi2DMPTfTL5SLmv7DivfNa", "crypto", "1A1zP1eP5QGefi2DMPTfTL5SLmv7DivfNa"),
        (
            "or bc1qar0srrr7xfkvy5l643lydnw9re59gtzzwf5mdq",
            "crypto",
            "bc1qar0srrr7xfkvy5l643lydnw9re59gtzzwf5mdq",
        ),
        (
            "or 0x52908400098527886E0F7030069857D2E4169EE7",
            "crypto",
            "0x52908400098527886E0F7030069857D2E4169EE7",
        ),
        ("My passport number is P8765432, and", "passport", "P8765432"),
        (
            "L898902C36UTO7408122F1204159ZE184226B<<<<<10",
            "passport",
            "L898902C36UTO7408122F1204159ZE184226B<<<<<10",
        ),
        ("driver's license no. D1234567", "driver_licence", "D1234567"),
        ("licence MORGA657054SM9IJ", "driver_licence", "MORGA657054SM9IJ"),
        ("I was born on 12 May 1990 in Rome", "birth_date", "12 May 1990"),
        ("DOB: 1990-05-12", "birth_date", "1990-05-12"),
        ("call me at 467 3395", "phone", "467 3395"),
        ("Fax: 345-899-3560x4587", "phone", "345-899-3560x4587"),
        ("ghp_16C7e42F292c6912E7710c838347Ae178B4a", "secret", "ghp_16C7e42F292c6912E7710c838347Ae178B4a"),
        ("use AIzaSyA-0123456789abcdefghijklmnopqrstu", "secret", "AIzaSyA-0123456789abcdefghijklmnopqrstu"),
        ("xoxb-123456789012-abcdefABCDEF", "secret", "xoxb-123456789012-abcdefABCDEF"),
        ("sk-ant-api03-abcDEF123456_x-yz", "secret", "sk-ant-api03-abcDEF123456_x-yz"),
        ("my password is hunter2!", "secret", "hunter2"),
        ("password=correct-horse", "secret", "correct-horse"),
        ("-----BEGIN PRIVATE KEY-----\nMIIEvQ", "secret", "-----BEGIN PRIVATE KEY-----\nMIIEvQ"),
    ],
)
def test_it_is_found_whole(text: str, kind: str, value: str) -> None:
    assert found(text) == ([(kind, value)] if value else [])


@pytest.mark.parametrize(
    "text",
    [
        "order 1234567890123456 of 9876543210",
        "ssn 000-12-3456, 666-12-3456 and 912-34-5678",
        "127.0.0.1, 192.168.1.20, 10.0.0.1, version 1.2.3.4 and std::abs",
        "Pay 1A1zP1eP5QGefi2DMPTfTL5SLmv7DivfNb or bc1qar0srrr7xfkvy5l643lydnw9re59gtzzwf5mdz",
        "L898902C37UTO7408122F1204159ZE184226B<<<<<10",
        "the passport office, a licence for 12 users, born in Rome",
        "The Civil Rights Act of 1964 was signed on 1964-07-02.",
        "01-02-2024 and 3.14159265358979",
        "password: ${DB_PASSWORD}, token = get_token(), api_key=os.environ['KEY'], secret: <your secret>",
        "password: request.body.new_password, max_tokens=1000000, tokens=written_1h",
        "sk-learn-pipeline-of-transformers, the Bearer of this letter",
    ],
)
def test_what_only_looks_like_it_is_not(text: str) -> None:
    assert found(text) == []


def test_escapes_of_json_belong_to_no_value() -> None:
    text = r'{"text": "Hi,\njane@example.com\n4111111111111111\tbye"}'
    assert found(text) == [("email", "jane@example.com"), ("card", "4111111111111111")]
    assert redact(text) == r'{"text": "Hi,\n[email]\n[card]\tbye"}'


ATOMS = st.sampled_from(
    [
        *(
            "a",
            "1",
            " ",
            "-",
            ".",
            "@",
            "+",
            "(",
            ")",
            "/",
            ":",
            "\n",
            "<<",
            "\\n",
            "\\",
            '"',
            "İ",
            "é",
            "=",
            "9",
        ),
        *(
            "sk-",
            "eyJ",
            "token=",
            "password: ",
            "passport ",
            "driver license ",
            "born ",
            "://a:",
            "P<UTO",
            "0x",
        ),
        *(
            "bc1",
            "2001:",
            "-----BEGIN PRIVATE KEY-----",
            "-----END",
            "+49",
            "call at ",
            "card ",
            "ssn ",
            "DE89",
        ),
        *(
            "4111 1111 1111 1111",
            "jane@example.com",
            "1.1.1.1",
            "853-37-1694",
            "AKIA",
            "Bearer ",
            "dob",
            "May ",
        ),
    ]
)


@given(st.lists(ATOMS, max_size=40).map("".join))
def test_finds_lie_in_the_text_in_order_and_apart(text: str) -> None:
    spans = find_spans(text)
    assert all(0 <= span.start < span.end <= len(text) for span in spans)
    assert all(before.end <= after.start for before, after in pairwise(spans))
