"""Stop strings, wherever the text is cut."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smallfirst.router.models.local.stops import StopFilter


def shown(stops: list[str], *pieces: str) -> tuple[list[str], bool]:
    """What is shown at each piece, the last one being final, and whether a stop string was found."""
    stop_filter = StopFilter(stops)
    *some, last = pieces
    parts = [*(stop_filter.feed(piece) for piece in some), stop_filter.feed(last, final=True)]
    return parts, stop_filter.stopped


def cut_off(text: str, stops: list[str]) -> tuple[str, bool]:
    """The definition: text ends before the stop string that is complete first, of several the longest."""
    for end in range(1, len(text) + 1):
        found = [len(stop) for stop in stops if stop and text[:end].endswith(stop)]
        if found:
            return text[: end - max(found)], True
    return text, False


@pytest.mark.parametrize(
    ("stops", "pieces", "parts", "stopped"),
    [
        (["END"], ["one EN", "D two"], ["one ", ""], True),
        (["END"], ["one EN", "ough"], ["one ", "ENough"], False),
        (["END"], ["one ", "EN"], ["one ", "EN"], False),
        (["END"], ["one END", " two", ""], ["one ", "", ""], True),
        (["\n\n"], ["a\n", "b\n", "\n", "c"], ["a", "\nb", "", ""], True),
        (["aab"], ["a", "a", "a", "b"], ["", "", "a", ""], True),
        (["abcd", "bc"], ["a", "b", "c", "d"], ["", "", "a", ""], True),
        (["bc", "abc"], ["xabc"], ["x"], True),
        (["later", "now"], ["now or later"], [""], True),
        (["é🎉"], ["é", "🎉!"], ["", ""], True),
        ([], ["a", "b"], ["a", "b"], False),
        ([""], ["a", "b"], ["a", "b"], False),
        (["x"], [""], [""], False),
    ],
)
def test_text_is_shown_as_soon_as_no_stop_string_can_begin_in_it(
    stops: list[str], pieces: list[str], parts: list[str], stopped: bool
) -> None:
    assert shown(stops, *pieces) == (parts, stopped)


stop_lists = st.lists(st.text("ab", max_size=4), max_size=3)
texts = st.text("ab ", max_size=20)


@given(stops=stop_lists, text=texts, cuts=st.lists(st.integers(0, 20), max_size=20))
def test_it_does_not_matter_where_the_text_is_cut(stops: list[str], text: str, cuts: list[int]) -> None:
    bounds = sorted({0, len(text), *(cut for cut in cuts if cut < len(text))})
    parts, stopped = shown(stops, *(text[a:b] for a, b in pairwise(bounds)), "")
    assert ("".join(parts), stopped) == cut_off(text, stops)


@given(stops=stop_lists, text=texts)
def test_no_more_is_held_back_than_a_stop_string_may_begin_with(stops: list[str], text: str) -> None:
    stop_filter = StopFilter(stops)
    parts = stop_filter.feed(text)
    if not stop_filter.stopped:
        beginnings = {stop[:length] for stop in stops for length in range(1, len(stop))}
        held = text[len(parts) :]
        assert text == parts + held
        assert held in beginnings | {""}
        assert not any(text.endswith(begun) for begun in beginnings if len(begun) > len(held))
