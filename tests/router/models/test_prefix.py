"""The tree of known prefixes, over cells that behave as llama.cpp's do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from smallfirst.router.models.local.engine.prefix import SHORTEST, Hold, PrefixTree

ACTIVE_IDS = range(3)
TREE_IDS = range(10, 14)

# What a token's keys and values depend on: the adapter, and all tokens up to it.
Computed = tuple[str | None, tuple[int, ...]]


class Cells:
    """Unified cells: each stands at a position, and is free once no sequence has it."""

    def __init__(self) -> None:
        self._cells: list[tuple[Computed, set[int]]] = []

    def compute(self, sequence: int, root: str | None, tokens: Sequence[int], begin: int) -> None:
        """Compute a sequence's tokens from `begin` on, each in a cell of its own."""
        for end in range(begin + 1, len(tokens) + 1):
            self._cells.append(((root, tuple(tokens[:end])), {sequence}))

    def copy(self, source: int, target: int, begin: int, end: int) -> None:
        for (_, tokens), sequences in self._cells:
            if source in sequences and begin < len(tokens) <= end:
                sequences.add(target)

    def remove(self, sequence: int, begin: int = 0, end: int = -1) -> None:
        for (_, tokens), sequences in self._cells:
            if begin < len(tokens) and (end < 0 or len(tokens) <= end):
                sequences.discard(sequence)
        self._cells = [cell for cell in self._cells if cell[1]]

    def clear(self) -> None:
        self._cells.clear()

    @property
    def used(self) -> int:
        return len(self._cells)

    def held(self, sequence: int) -> list[Computed]:
        """What a sequence has, by position."""
        return sorted((what for what, who in self._cells if sequence in who), key=lambda what: len(what[1]))

    def shared(self, sequence: int) -> int:
        """How many of a sequence's cells the tree has, too."""
        return sum(1 for _, who in self._cells if sequence in who and who & set(TREE_IDS))

    def known(self, root: str | None, tokens: Sequence[int]) -> int:
        """The longest beginning of `tokens` that the tree's sequences have."""
        there = {what for what, who in self._cells if who & set(TREE_IDS)}
        return next(
            n
            for n in range(len(tokens) + 1)
            if n == len(tokens) or (root, tuple(tokens[: n + 1])) not in there
        )

    def kept_by_tree(self) -> list[Computed]:
        """What the tree's sequences have, once for each that has it."""
        return [what for own in TREE_IDS for what in self.held(own)]


@dataclass(eq=False)
class Running:
    """A sequence as the engine has it."""

    id: int
    root: str | None
    tokens: list[int]
    hold: Hold
    computed: int

    @property
    def own_cells(self) -> int:
        return self.computed - self.hold.shared

    @property
    def expected(self) -> list[Computed]:
        return [(self.root, tuple(self.tokens[:end])) for end in range(1, self.computed + 1)]


# Few different runs, so that sequences begin alike, and part in the middle of them.
runs = st.sampled_from([(0,) * 9, (0,) * 13, (0, 0, 0, 1) * 4, (1,) * 5, (1,)])
token_lists = st.lists(runs, min_size=1, max_size=4).map(
    lambda parts: [token for part in parts for token in part]
)
roots = st.sampled_from([None, None, None, "adapter"])
picks = st.integers(0, len(ACTIVE_IDS) - 1)
most_often = st.sampled_from([True, True, True, False])


class EngineOverTree(RuleBasedStateMachine):
    """What the engine does to the tree, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.cells = Cells()
        self.tree = PrefixTree(self.cells, TREE_IDS)
        self.ids = list(ACTIVE_IDS)
        self.active: list[Running] = []

    @precondition(lambda self: self.ids)
    @rule(root=roots, tokens=token_lists, admitted=most_often, computed=st.booleans())
    def enter(self, root: str | None, tokens: list[int], admitted: bool, computed: bool) -> None:
        own, known, used = self.ids[-1], self.cells.known(root, tokens[:-1]), self.cells.used
        hold = self.tree.take(root, tokens[:-1], own)
        sequence = Running(own, root, tokens, hold, hold.shared)
        assert hold.shared == known
        assert self.cells.used <= used
        assert self.cells.held(own) == sequence.expected
        if admitted:
            self.ids.pop()
            self.active.append(sequence)
            if computed:
                self.compute(-1, len(tokens))
                self.grow(-1)
        else:
            self.tree.release(hold)
            self.cells.remove(own)

    @precondition(lambda self: self.active)
    @rule(which=picks, count=st.sampled_from([1, 8, 50]))
    def compute(self, which: int, count: int) -> None:
        sequence = self.pick(which)
        end = min(sequence.computed + count, len(sequence.tokens))
        self.cells.compute(sequence.id, sequence.root, sequence.tokens[:end], sequence.computed)
        sequence.computed = end

    @precondition(lambda self: self.active)
    @rule(which=picks, tokens=token_lists)
    def generate(self, which: int, tokens: list[int]) -> None:
        self.pick(which).tokens += tokens

    @precondition(lambda self: self.active)
    @rule(which=picks)
    def grow(self, which: int) -> None:
        sequence, used = self.pick(which), self.cells.used
        self.tree.grow(sequence.hold, sequence.tokens[: sequence.computed], sequence.id)
        assert self.cells.used <= used

    @precondition(lambda self: self.active)
    @rule(which=picks, keep=st.booleans())
    def leave(self, which: int, keep: bool) -> None:
        if keep:
            self.grow(which)
        sequence = self.pick(which)
        self.tree.release(sequence.hold)
        self.cells.remove(sequence.id)
        self.ids.append(sequence.id)
        self.active.remove(sequence)

    @rule(cells=st.integers(0, 60))
    def evict(self, cells: int) -> None:
        used = self.cells.used
        freed = self.tree.evict(cells)
        assert freed == used - self.cells.used
        assert freed >= cells or self.tree.evict(1) == 0

    @rule()
    def start_over(self) -> None:
        while self.active:
            self.leave(0, keep=False)
        self.tree.clear()
        self.cells.clear()

    @rule(root=roots, tokens=token_lists)
    def match(self, root: str | None, tokens: list[int]) -> None:
        assert self.tree.match(root, tokens) == self.cells.known(root, tokens)

    @invariant()
    def active_sequences_have_their_own_tokens_once(self) -> None:
        for sequence in self.active:
            assert self.cells.held(sequence.id) == sequence.expected

    @invariant()
    def active_sequences_know_what_they_share(self) -> None:
        for sequence in self.active:
            assert sequence.hold.shared == self.cells.shared(sequence.id)

    @invariant()
    def all_cells_are_accounted_for(self) -> None:
        assert self.tree.cells + sum(sequence.own_cells for sequence in self.active) == self.cells.used

    @invariant()
    def each_node_has_an_id_of_its_own(self) -> None:
        kept = self.cells.kept_by_tree()
        assert (len(kept), len(set(kept))) == (self.tree.cells, self.tree.cells)
        assert len(self.tree) == sum(1 for own in TREE_IDS if self.cells.held(own))

    def teardown(self) -> None:
        """Whatever was done, nothing is pinned in the end, and no id is lost."""
        while self.active:
            self.leave(0, keep=False)
        self.tree.evict(10**6)
        assert (self.tree.cells, len(self.tree), self.cells.used) == (0, 0, 0)
        for first in TREE_IDS:
            keep(self.tree, self.cells, [first] * SHORTEST)
        assert len(self.tree) == len(TREE_IDS)

    def pick(self, which: int) -> Running:
        return self.active[which % len(self.active)]


def keep(tree: PrefixTree, cells: Cells, tokens: list[int], *, root: str | None = None, own: int = 0) -> None:
    """Let a sequence come, compute its tokens, and go."""
    hold = tree.take(root, tokens[:-1], own)
    cells.compute(own, root, tokens, hold.shared)
    tree.grow(hold, tokens, own)
    tree.release(hold)
    cells.remove(own)


@pytest.fixture
def cells() -> Cells:
    return Cells()


@pytest.fixture
def tree(cells: Cells) -> PrefixTree:
    return PrefixTree(cells, TREE_IDS)


def test_whatever_the_engine_does_cells_are_right_and_accounted_for() -> None:
    run_state_machine_as_test(
        EngineOverTree, settings=settings(max_examples=150, stateful_step_count=40, deadline=None)
    )


@given(prompts=st.lists(token_lists, max_size=8))
def test_with_ids_enough_all_but_a_short_rest_is_kept(prompts: list[list[int]]) -> None:
    cells = Cells()
    tree = PrefixTree(cells, range(1, 17))
    for tokens in prompts:
        keep(tree, cells, tokens)
    assert [len(tokens) - tree.match(None, tokens) < SHORTEST for tokens in prompts] == [True] * len(prompts)
    assert tree.cells == cells.used


@pytest.mark.parametrize(("length", "kept"), [(SHORTEST - 1, 0), (SHORTEST, SHORTEST)])
def test_a_short_run_is_not_worth_keeping(tree: PrefixTree, cells: Cells, length: int, kept: int) -> None:
    keep(tree, cells, [7] * length)
    assert (tree.match(None, [7] * 50), tree.cells, cells.used) == (kept, kept, kept)


def test_prompts_that_part_in_the_middle_share_what_they_have_in_common(
    tree: PrefixTree, cells: Cells
) -> None:
    common, first, second = [1] * 10, [2] * 10, [3] * 10
    keep(tree, cells, common + first)
    keep(tree, cells, common + second)
    assert [tree.match(None, [*common, *rest]) for rest in (first, second, [4])] == [20, 20, 10]
    assert (len(tree), tree.cells, cells.used) == (3, 30, 30)


def test_each_adapter_has_prefixes_of_its_own(tree: PrefixTree, cells: Cells) -> None:
    keep(tree, cells, [1] * 10, root="adapter")
    assert [tree.match(root, [1] * 10) for root in ("adapter", "other", None)] == [10, 0, 0]


def test_who_was_not_used_for_longest_gives_way(tree: PrefixTree, cells: Cells) -> None:
    for first in (1, 2, 3):
        keep(tree, cells, [first] * 10)
    tree.release(tree.take(None, [1] * 10, 0))
    cells.remove(0)
    assert tree.evict(1) == 10
    assert [tree.match(None, [first] * 10) for first in (1, 2, 3)] == [10, 0, 10]


def test_to_be_looked_for_is_not_to_be_used(tree: PrefixTree, cells: Cells) -> None:
    for first in (1, 2):
        keep(tree, cells, [first] * 10)
    assert tree.match(None, [1] * 10) == 10
    tree.evict(1)
    assert [tree.match(None, [first] * 10) for first in (1, 2)] == [0, 10]


def test_the_end_of_a_prefix_gives_way_before_its_beginning(tree: PrefixTree, cells: Cells) -> None:
    keep(tree, cells, [1] * 10)
    keep(tree, cells, [1] * 10 + [2] * 10)
    assert [(tree.evict(1), tree.match(None, [1] * 10 + [2] * 10)) for _ in range(3)] == [
        (10, 10),
        (10, 0),
        (0, 0),
    ]


def test_what_a_running_sequence_shares_stays(tree: PrefixTree, cells: Cells) -> None:
    keep(tree, cells, [1] * 10)
    hold = tree.take(None, [1] * 10, 0)
    assert (tree.evict(100), cells.used) == (0, 10)
    tree.release(hold)
    cells.remove(0)
    assert (tree.evict(100), cells.used) == (10, 0)


def test_ids_that_run_out_are_taken_from_who_was_not_used_for_longest(tree: PrefixTree, cells: Cells) -> None:
    prompts = [[first] * 10 for first in range(len(TREE_IDS) + 1)]
    for tokens in prompts:
        keep(tree, cells, tokens)
    assert [tree.match(None, tokens) for tokens in prompts] == [0] + [10] * len(TREE_IDS)


def test_a_prefix_does_not_give_way_to_its_own_continuation(cells: Cells) -> None:
    tree = PrefixTree(cells, [1])
    hold = tree.take(None, [7] * 19, 0)
    keep(tree, cells, [7] * 10, own=2)
    cells.compute(0, None, [7] * 20, 0)
    tree.grow(hold, [7] * 20, 0)
    assert (tree.match(None, [7] * 20), tree.cells, hold.shared) == (10, 10, 0)


def test_what_two_computed_side_by_side_is_kept_once(tree: PrefixTree, cells: Cells) -> None:
    holds = [tree.take(None, [7] * 19, own) for own in (0, 1)]
    for own in (0, 1):
        cells.compute(own, None, [7] * 10 + [own] * 10, 0)
    for own, hold in enumerate(holds):
        tree.grow(hold, [7] * 10 + [own] * 10, own)
    # The second has the common beginning in cells of its own: ten that nobody shares.
    assert (tree.cells, [hold.shared for hold in holds], cells.used) == (30, [20, 10], 40)


def test_all_is_forgotten_at_once(tree: PrefixTree, cells: Cells) -> None:
    for first in TREE_IDS:
        keep(tree, cells, [first] * 10)
    tree.clear()
    cells.clear()
    assert (len(tree), tree.cells, tree.match(None, [TREE_IDS[0]] * 10)) == (0, 0, 0)
    for first in TREE_IDS:
        keep(tree, cells, [first] * 10)
    assert (len(tree), cells.used) == (len(TREE_IDS), 10 * len(TREE_IDS))
