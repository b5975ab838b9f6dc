"""Which local models give way where memory is short."""

from __future__ import annotations

import pytest

from smallfirst.router.errors import ModelUnavailable
from smallfirst.router.models.local.memory import MemoryBudget


class Sized:
    """A model that takes memory, and none when it is unloaded."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.loaded = False
        self.busy = False

    def unload(self) -> None:
        self.loaded = False


class Room:
    """A budget, and the models in it."""

    def __init__(self, limit: int | None) -> None:
        self.budget = MemoryBudget(limit)
        self.models = {name: Sized(name) for name in "abcd"}

    def load(self, name: str, size: int) -> None:
        model = self.models[name]
        self.budget.make_room(model, size)
        model.loaded = True

    def use(self, names: str) -> None:
        for name in names:
            self.budget.used(self.models[name])

    def busy(self, names: str) -> None:
        for name, model in self.models.items():
            model.busy = name in names

    @property
    def loaded(self) -> str:
        return "".join(name for name, model in self.models.items() if model.loaded)


@pytest.fixture
def room() -> Room:
    """Room for 10, all of it taken."""
    room = Room(10)
    for name, size in (("a", 2), ("b", 3), ("c", 5)):
        room.load(name, size)
    return room


@pytest.mark.parametrize(
    ("used", "size", "left"),
    [
        ("", 1, "bcd"),
        ("", 2, "bcd"),
        ("", 3, "cd"),
        ("", 6, "d"),
        ("", 10, "d"),
        ("a", 1, "acd"),
        ("ab", 1, "abd"),
        ("ab", 6, "bd"),
        ("cab", 3, "abd"),
        ("aba", 7, "ad"),
    ],
)
def test_who_was_not_used_for_longest_gives_way_until_there_is_room(
    room: Room, used: str, size: int, left: str
) -> None:
    room.use(used)
    room.load("d", size)
    assert room.loaded == left


@pytest.mark.parametrize(("busy", "size", "left"), [("a", 1, "acd"), ("ab", 5, "abd"), ("ac", 3, "acd")])
def test_who_is_busy_does_not_give_way(room: Room, busy: str, size: int, left: str) -> None:
    room.busy(busy)
    room.load("d", size)
    assert room.loaded == left


@pytest.mark.parametrize(("busy", "size"), [("abc", 1), ("c", 6), ("bc", 3), ("a", 9)])
def test_where_only_busy_ones_could_give_way_it_is_an_error(room: Room, busy: str, size: int) -> None:
    room.busy(busy)
    with pytest.raises(ModelUnavailable, match="no memory for model 'd'") as caught:
        room.load("d", size)
    assert (caught.value.code, caught.value.retry_after) == ("no_memory", 1.0)
    assert set(busy) <= set(room.loaded)
    assert "d" not in room.loaded


def test_who_could_not_be_loaded_takes_no_room(room: Room) -> None:
    room.busy("abc")
    with pytest.raises(ModelUnavailable):
        room.load("d", 5)
    room.busy("")
    room.load("d", 2)
    assert room.loaded == "bcd"


def test_a_model_that_is_larger_than_the_limit_is_loaded_alone(room: Room) -> None:
    room.load("d", 99)
    assert room.loaded == "d"


def test_who_loads_again_counts_once(room: Room) -> None:
    room.models["c"].unload()
    room.load("c", 5)
    assert room.loaded == "abc"


def test_who_was_loaded_last_is_used_last(room: Room) -> None:
    room.models["a"].unload()
    room.load("a", 2)
    room.load("d", 1)
    assert room.loaded == "acd"


def test_who_ended_takes_no_room(room: Room) -> None:
    room.models["c"].loaded = False
    room.load("d", 5)
    assert room.loaded == "abd"


def test_using_who_was_never_loaded_means_nothing(room: Room) -> None:
    room.use("d")
    room.load("d", 1)
    assert room.loaded == "bcd"


def test_without_a_limit_all_stay() -> None:
    room = Room(None)
    for name in "abcd":
        room.load(name, 10**15)
    assert room.loaded == "abcd"
