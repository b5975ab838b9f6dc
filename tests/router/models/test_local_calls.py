"""Calls that break off, read back out of the text."""

import pytest

from smallfirst.router.models.local.calls import CALL_OPEN, ParsedCall, call_opening, read_cut_call

BEGUN = f"{CALL_OPEN}\n{call_opening('look')}"


@pytest.mark.parametrize(
    ("written", "arguments"),
    [
        (BEGUN + '{"at": "the ', '{"at": "the '),
        (BEGUN + "{", "{"),
        (BEGUN + '{"at": "it"}', '{"at": "it"}'),
        (BEGUN + '{"at": "it"}}\n</tool_', '{"at": "it"}'),
    ],
)
def test_a_cut_call_is_told_as_far_as_it_was_written(written: str, arguments: str) -> None:
    assert read_cut_call(written) == ParsedCall("look", arguments)


@pytest.mark.parametrize("length", range(len(BEGUN) + 1))
def test_before_the_first_argument_there_is_no_call(length: int) -> None:
    assert read_cut_call(BEGUN[:length]) is None
