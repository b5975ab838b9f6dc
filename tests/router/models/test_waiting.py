"""Who waits for the engine, and whose turn it is."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smallfirst.router.models.local.engine.sampling import Sampler, SamplingParams, Token
from smallfirst.router.models.local.engine.sequence import End, Job, Sequence
from smallfirst.router.models.local.engine.waiting import WaitingRoom


class Deaf:
    """A sink for jobs of which nothing comes."""

    alternatives = 0
    watched = None
    forcing = True

    def spent(self, cpu_seconds: float, cached_tokens: int) -> None:
        raise NotImplementedError

    def token(self, token: Token) -> bool:
        raise NotImplementedError

    def may_end(self, token: Token) -> bool:
        raise NotImplementedError

    def end(self, end: End) -> None:
        raise NotImplementedError

    def failed(self, error: Exception) -> None:
        raise NotImplementedError


def waiting(name: str) -> Sequence:
    """One who waits; the name's letter is the group's."""
    params = SamplingParams()
    return Sequence(Job((1,), 1, params, adapter=name, group=name[0]), Deaf(), Sampler(params, 4), [1])


def room_of(*names: str) -> WaitingRoom:
    room = WaitingRoom()
    for name in names:
        room.add(waiting(name))
    return room


def order(room: WaitingRoom) -> str:
    return " ".join(str(sequence.job.adapter) for sequence in room.in_turn())


def take(room: WaitingRoom, name: str) -> Sequence:
    sequence = next(sequence for sequence in room.in_turn() if sequence.job.adapter == name)
    room.take(sequence)
    return sequence


def admitted(room: WaitingRoom) -> str:
    """Take all out as the engine does, the next in turn each time."""
    names = []
    while len(room):
        sequence = next(room.in_turn())
        room.take(sequence)
        names.append(str(sequence.job.adapter))
    return " ".join(names)


@pytest.mark.parametrize(
    ("names", "turns"),
    [
        ("", ""),
        ("a1 a2 a3", "a1 a2 a3"),
        ("a1 a2 a3 b1", "a1 b1 a2 a3"),
        ("a1 a2 b1 b2 c1", "a1 b1 c1 a2 b2"),
        ("b1 a1 a2 b2", "b1 a1 b2 a2"),
    ],
)
def test_groups_take_turns(names: str, turns: str) -> None:
    assert order(room_of(*names.split())) == turns
    assert admitted(room_of(*names.split())) == turns


def test_a_group_that_had_its_turn_waits_for_the_others() -> None:
    room = room_of("a1", "a2", "a3", "b1", "b2")
    take(room, "a1")
    assert order(room) == "b1 a2 b2 a3"


def test_who_comes_late_is_not_kept_out_by_a_group_with_many_jobs() -> None:
    room = room_of("a1", "a2", "a3", "a4")
    take(room, "a1")
    room.add(waiting("b1"))
    take(room, "a2")
    assert order(room) == "b1 a3 a4"


def test_a_group_that_comes_back_comes_last() -> None:
    room = room_of("a1", "b1", "c1")
    take(room, "a1")
    room.add(waiting("a2"))
    assert order(room) == "b1 c1 a2"


def test_one_may_be_taken_out_of_turn() -> None:
    room = room_of("a1", "a2", "b1", "c1")
    take(room, "a2")
    assert order(room) == "b1 c1 a1"


def test_who_was_sent_back_is_next() -> None:
    room = room_of("a1", "b1", "b2")
    room.add(waiting("b0"), first=True)
    assert order(room) == "b0 a1 b1 b2"


def test_a_group_of_its_own_that_was_sent_back_is_next() -> None:
    room = room_of("a1", "b1")
    room.add(waiting("c1"), first=True)
    assert order(room) == "c1 a1 b1"


def test_several_that_were_sent_back_go_on_in_the_order_they_came_in() -> None:
    room = room_of("a3")
    for name in ("c1", "b1", "a2", "a1"):  # who came last is sent back first
        room.add(waiting(name), first=True)
    assert order(room) == "a1 b1 c1 a2 a3"


def test_it_knows_how_many_wait() -> None:
    room = room_of("a1", "a2", "b1")
    counts = [len(room)]
    for name in ("a1", "b1", "a2"):
        take(room, name)
        counts.append(len(room))
    assert counts == [3, 2, 1, 0]


def test_looking_who_waits_changes_nothing() -> None:
    room = room_of("a1", "a2", "b1")
    next(room.in_turn())
    assert (order(room), order(room), len(room)) == ("a1 b1 a2", "a1 b1 a2", 3)


@given(groups=st.lists(st.sampled_from("abc"), max_size=20))
def test_all_are_let_in_each_group_in_its_order_and_none_waits_for_more_than_one_of_each_other(
    groups: list[str],
) -> None:
    names = [f"{group}{number}" for number, group in enumerate(groups)]
    found = admitted(room_of(*names)).split()
    assert {group: [name for name in found if name[0] == group] for group in "abc"} == {
        group: [name for name in names if name[0] == group] for group in "abc"
    }
    left = Counter(groups)
    since: dict[str, list[str]] = {group: [] for group in "abc"}
    for name in found:
        group = name[0]
        assert len(since[group]) == len(set(since[group]))
        left[group] -= 1
        for other in "abc":
            since[other] = [] if other == group else since[other] + [group] * (left[other] > 0)
