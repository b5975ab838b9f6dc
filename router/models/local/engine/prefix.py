"""Which beginnings of prompts are still in the model's memory: a radix tree over token ids.

Agents send the same system prompt, tools and earlier turns again and again. Each node of the tree stands for a run of
tokens whose keys and values are in memory under a sequence id of the node's own; a new sequence gets a copy (by
bookkeeping, nothing is computed) of every node on its path and computes only what follows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

# A shorter run is not worth a node: computing it again costs less than the step that it rides on.
SHORTEST = 8


class Memory(Protocol):
    """What the tree needs of the model's memory."""

    def copy(self, source: int, target: int, begin: int, end: int) -> None:
        """Let `target` have what `source` holds at positions begin..end."""
        ...

    def remove(self, sequence: int, begin: int = 0, end: int = -1) -> None:
        """Forget a sequence's positions begin..end."""
        ...


@dataclass(eq=False, slots=True)
class Node:
    """A run of tokens, from position `begin` on, held by `sequence`.

    Attributes:
        pins: How many running sequences got cells from here; it stays while there are any.
        used: When it was last used, in uses of the tree.
    """

    tokens: tuple[int, ...]
    begin: int
    sequence: int
    parent: Node | None
    children: dict[int, Node] = field(default_factory=dict)
    pins: int = 0
    used: int = 0

    @property
    def end(self) -> int:
        """The position after its last token."""
        return self.begin + len(self.tokens)


@dataclass(slots=True)
class Hold:
    """What a running sequence has of the tree.

    Attributes:
        node: The deepest node that it got cells from, pinned; None where it got none.
        shared: How many of its tokens lie in cells that the tree accounts for.
    """

    root: str | None
    node: Node | None = None
    shared: int = 0


class PrefixTree:
    """Holds prefixes in memory until their room is needed, least recently used out first.

    Args:
        memory: The model's.
        sequences: Ids that nodes may use, one each.
    """

    def __init__(self, memory: Memory, sequences: Iterable[int]) -> None:
        self._memory = memory
        self._free = list(sequences)
        # By adapter: the same tokens have other keys and values under another one.
        self._roots: dict[str | None, Node] = {}
        self._clock = 0
        self.cells = 0

    def match(self, root: str | None, tokens: Sequence[int]) -> int:
        """Return how many of the first tokens are in memory."""
        length = 0
        for node, common in self._path(root, tokens):
            length = node.begin + common
        return length

    def take(self, root: str | None, tokens: Sequence[int], sequence: int) -> Hold:
        """Give a new sequence all that is known of its first tokens, and pin that until `release`."""
        hold = Hold(root)
        for found, common in list(self._path(root, tokens)):
            self._touch(found)
            # Cut where it is used only in part: its tail must be free to go.
            used = None if common == len(found.tokens) else self._split(found, common)
            node = used or found
            self._memory.copy(node.sequence, sequence, node.begin, node.begin + common)
            hold.node, hold.shared = node, node.begin + common
        if hold.node is not None:
            hold.node.pins += 1
        return hold

    def grow(self, hold: Hold, tokens: Sequence[int], sequence: int) -> None:
        """Keep what a running sequence has computed; what is known already is not kept twice."""
        parent = self._root(hold.root)
        known = 0
        for node, common in self._path(hold.root, tokens):
            known = node.begin + common
            self._touch(node)
            if common < len(node.tokens):
                if len(tokens) - known < SHORTEST:
                    return
                upper = self._split(node, common)
                if upper is None:
                    return
                parent = upper
                break
            parent = node
        if len(tokens) - known < SHORTEST:
            return
        own = self._new_sequence(keep=parent)
        if own is None:
            return
        leaf = Node(tuple(tokens[known:]), known, own, parent)
        self._memory.copy(sequence, own, known, len(tokens))
        parent.children[leaf.tokens[0]] = leaf
        self.cells += len(leaf.tokens)
        self._touch(leaf)
        leaf.pins += 1
        if hold.node is not None:
            hold.node.pins -= 1
        hold.node = leaf
        hold.shared += len(leaf.tokens)

    def release(self, hold: Hold) -> None:
        """Say that a sequence is gone."""
        if hold.node is not None:
            hold.node.pins -= 1
            hold.node = None
        hold.shared = 0

    def evict(self, cells: int) -> int:
        """Free at least so many cells if unpinned nodes have them; returns how many were freed."""
        freed = 0
        while freed < cells and (leaf := self._oldest_leaf()) is not None:
            freed += len(leaf.tokens)
            self._drop(leaf)
        return freed

    def clear(self) -> None:
        """Forget everything; the memory was cleared. No holds may be used afterwards."""
        for root in self._roots.values():
            self._free += [node.sequence for node in _below(root)]
        self._roots.clear()
        self.cells = 0

    def __len__(self) -> int:
        return sum(1 for root in self._roots.values() for _ in _below(root))

    # --- inside -----------------------------------------------------------------------------------------------

    def _root(self, root: str | None) -> Node:
        return self._roots.setdefault(root, Node((), 0, -1, None))

    def _path(self, root: str | None, tokens: Sequence[int]) -> Iterator[tuple[Node, int]]:
        """Yield the nodes that begin as the tokens go on, each with how many of its tokens agree (at least one)."""
        node, at = self._root(root), 0
        while at < len(tokens) and (child := node.children.get(tokens[at])) is not None:
            common = _common(child.tokens, tokens, at)
            yield child, common
            if common < len(child.tokens):
                return
            node, at = child, at + common

    def _split(self, node: Node, at: int) -> Node | None:
        """Cut a node in two; returns the upper one. The lower one stays the same object, which holds may point to."""
        own = self._new_sequence(keep=node)
        if own is None:
            return None
        parent = node.parent
        assert parent is not None, "a root is never split"
        upper = Node(node.tokens[:at], node.begin, own, parent, used=node.used)
        self._memory.copy(node.sequence, own, node.begin, node.begin + at)
        self._memory.remove(node.sequence, node.begin, node.begin + at)
        parent.children[upper.tokens[0]] = upper
        node.tokens, node.begin, node.parent = node.tokens[at:], node.begin + at, upper
        upper.children[node.tokens[0]] = node
        return upper

    def _new_sequence(self, *, keep: Node) -> int | None:
        """Return an id for a node, taken from the least used one where all are in use; `keep` is not that one."""
        keep.pins += 1
        if not self._free and (leaf := self._oldest_leaf()) is not None:
            self._drop(leaf)
        keep.pins -= 1
        return self._free.pop() if self._free else None

    def _oldest_leaf(self) -> Node | None:
        leaves = (n for root in self._roots.values() for n in _below(root) if not n.children and not n.pins)
        return min(leaves, key=lambda node: node.used, default=None)

    def _drop(self, leaf: Node) -> None:
        assert leaf.parent is not None, "a root is never dropped"
        self._memory.remove(leaf.sequence)
        self._free.append(leaf.sequence)
        self.cells -= len(leaf.tokens)
        del leaf.parent.children[leaf.tokens[0]]
        leaf.parent = None

    def _touch(self, node: Node) -> None:
        self._clock += 1
        node.used = self._clock


def _below(root: Node) -> Iterator[Node]:
    stack = list(root.children.values())
    while stack:
        node = stack.pop()
        yield node
        stack += node.children.values()


def _common(run: Sequence[int], tokens: Sequence[int], at: int) -> int:
    """Return how many tokens of `run` agree with `tokens` from `at` on."""
    most = min(len(run), len(tokens) - at)
    if tuple(tokens[at : at + most]) == tuple(run[:most]):
        return most
    return next(n for n in range(most) if run[n] != tokens[at + n])
