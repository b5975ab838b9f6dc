"""The garbage collector of a server."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import pytest

from smallfirst.router.server.memory import NEW_OBJECTS, settle


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    before = gc.get_threshold()
    yield
    gc.unfreeze()
    gc.set_threshold(*before)


class Node:
    def __init__(self) -> None:
        self.itself = self


def test_what_is_loaded_is_left_out_of_later_looks() -> None:
    settle()
    assert gc.get_freeze_count() > 10_000
    assert gc.get_threshold()[0] == NEW_OBJECTS


def test_what_was_replaced_is_freed_the_next_time() -> None:
    """A gateway that was left out of the looks and is not reachable any more would stay for good."""
    node = Node()
    settle()
    seen = weakref.ref(node)
    del node
    gc.collect()
    assert seen() is not None
    settle()
    assert seen() is None
