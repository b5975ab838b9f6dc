"""Vectors in this process by key, and those nearest to another: exactly for few of them, by a graph for many.

A graph (HNSW, the usearch library) is fast but ages: a slot that is used again keeps the links of the vector that was
there, and with every slot used twice the nearest of 100,000 was among eight found in 85 % of searches instead of 99 %,
at five times the cost of adding. So nothing is taken out of a graph: removed vectors stay in it as dead ones until they
are a quarter, then a new graph begins, and with every vector that is added one of the old graph moves over. No call
ever builds a whole graph.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..scoring.embedding import FloatArray

if TYPE_CHECKING:
    from usearch.index import Index

# Up to here comparing with every vector is as fast as a graph (70 µs), exact, and takes no memory but the vectors.
FLAT = 2048

# Measured with 100,000 texts' vectors: the nearest is among eight found in 99.8 % of searches.
_CONNECTIVITY, _EXPANSION = 32, 128

_WORN = 0.25
_LARGEST_SEARCH = 1024

# Ids of the old part that are looked at for one that is still there, at every addition.
_LOOKS = 8

Hits = list[tuple[int, float]]


def load() -> None:
    """Load the graph library, which takes 0.1 s; else that happens when the first graph begins."""
    import usearch.index  # noqa: F401


class VectorIndex:
    """Vectors of length 1 by key.

    Memory is that of the most vectors there were since it was last small (an eighth of `FLAT`), times 4/3.
    """

    def __init__(self) -> None:
        # Ids grow; what begins below `_boundary` is in the old part, down to `_cursor` it has moved over.
        self._ids: dict[str, int] = {}
        self._keys: dict[int, str] = {}
        self._old: _Flat | _Graph | None = None
        self._young: _Flat | _Graph = _Flat()
        self._next = self._boundary = self._floor = self._cursor = 0

    def __len__(self) -> int:
        return len(self._ids)

    def put(self, key: str, vector: FloatArray) -> None:
        """Add or replace a vector of shape (n,); n is the same for all.

        Raises:
            ValueError: It has another length than those here.
        """
        self.remove(key)
        self._add(key, vector)
        if self._old is not None:
            self._move_one()
        elif self._young.is_worn:
            self._old = self._young
            self._young = _Graph() if len(self) > FLAT // 2 else _Flat()
            self._floor, self._boundary, self._cursor = self._boundary, self._next, self._next

    def remove(self, key: str) -> None:
        """Forget a vector; nothing happens where there is none."""
        at = self._ids.pop(key, None)
        if at is None:
            return
        del self._keys[at]
        self._part(at).remove(at)
        if len(self) <= FLAT // 8 and (self._old is not None or isinstance(self._young, _Graph)):
            self._start_again()

    def search(self, vector: FloatArray, count: int) -> list[tuple[str, float]]:
        """Return the keys of the nearest vectors with their cosines, the most similar first."""
        parts = [part for part in (self._old, self._young) if part is not None]
        wanted = max([count, *(part.find_at_least for part in parts)])
        while True:
            found = [part.search(vector, wanted) for part in parts]
            alive = sorted((hit for hits in found for hit in hits if hit[0] in self._keys), key=_by_cosine)
            # Where nearly all that is near is dead, what is alive lies farther away.
            if len(alive) >= count or max(map(len, found)) < wanted or wanted >= _LARGEST_SEARCH:
                break
            wanted *= 4
        return [(self._keys[at], min(1.0, max(-1.0, cosine))) for at, cosine in alive[:count]]

    def _add(self, key: str, vector: npt.NDArray[Any]) -> None:
        self._young.add(self._next, vector)
        self._ids[key], self._keys[self._next] = self._next, key
        self._next += 1

    def _part(self, at: int) -> _Flat | _Graph:
        return self._old if self._old is not None and at < self._boundary else self._young

    def _move_one(self) -> None:
        """Move one vector of the old part over: the latest first, as the earliest are the next to go anyway."""
        assert self._old is not None
        for _ in range(_LOOKS):
            self._cursor -= 1
            if self._cursor < self._floor:
                self._old = None
                return
            key = self._keys.pop(self._cursor, None)
            if key is not None:
                vector = self._old.get(self._cursor)
                self._old.remove(self._cursor)
                self._add(key, vector)
                return

    def _start_again(self) -> None:
        """Put the few that are left into a small part."""
        kept = [(key, self._part(at).get(at)) for at, key in self._keys.items()]
        VectorIndex.__init__(self)
        for key, vector in kept:
            self._add(key, vector)


class _Flat:
    """A matrix; every vector is compared."""

    find_at_least = 0

    def __init__(self) -> None:
        self._rows: FloatArray = np.zeros((0, 0), np.float32)
        self._at: npt.NDArray[np.int64] = np.zeros(0, np.int64)
        self._places: dict[int, int] = {}

    @property
    def is_worn(self) -> bool:
        return len(self._places) > FLAT

    def add(self, at: int, vector: npt.NDArray[Any]) -> None:
        used = len(self._places)
        if not used:
            self._rows = np.zeros((0, len(vector)), np.float32)
        if len(vector) != self._rows.shape[1]:
            raise ValueError(f"a vector of length {len(vector)} among those of length {self._rows.shape[1]}")
        if used == len(self._rows):
            self._resize(used + used // 4 + 1)
        self._rows[used], self._at[used] = vector, at
        self._places[at] = used

    def get(self, at: int) -> FloatArray:
        row: FloatArray = self._rows[self._places[at]].copy()
        return row

    def remove(self, at: int) -> None:
        """Fill the hole with the last one."""
        hole = self._places.pop(at)
        last = len(self._places)
        if hole != last:
            self._rows[hole], self._at[hole] = self._rows[last], self._at[last]
            self._places[int(self._at[hole])] = hole
        if last < len(self._rows) // 2:
            self._resize(last + last // 4)

    def search(self, vector: FloatArray, count: int) -> Hits:
        used = len(self._places)
        if not used:
            return []
        cosines = self._rows[:used] @ vector
        best = np.argpartition(cosines, -count)[-count:] if count < used else np.arange(used)
        hits = zip(self._at[best].tolist(), cosines[best].tolist(), strict=True)
        return sorted(hits, key=_by_cosine)

    def _resize(self, size: int) -> None:
        used = min(size, len(self._rows))
        rows, at = np.zeros((size, self._rows.shape[1]), np.float32), np.zeros(size, np.int64)
        rows[:used], at[:used] = self._rows[:used], self._at[:used]
        self._rows, self._at = rows, at


class _Graph:
    """An HNSW graph in half precision. Removed vectors stay in it as dead ones, and are found."""

    def __init__(self) -> None:
        self._index: Index | None = None
        self._dead = 0

    @property
    def is_worn(self) -> bool:
        return self._index is not None and self._dead > len(self._index) * _WORN

    @property
    def find_at_least(self) -> int:
        """As many as a search looks at anyway, where some of them may be dead."""
        return _EXPANSION if self._dead else 0

    def add(self, at: int, vector: npt.NDArray[Any]) -> None:
        if self._index is None:
            from usearch.index import Index

            self._index = Index(
                ndim=len(vector),
                metric="ip",
                dtype="f16",
                connectivity=_CONNECTIVITY,
                expansion_add=_EXPANSION,
                expansion_search=_EXPANSION,
            )
        # `threads=1`: the library would else ask for all cores at every call.
        self._index.add(at, vector, threads=1)

    def get(self, at: int) -> npt.NDArray[Any]:
        assert self._index is not None
        vector = self._index.get(at)
        assert isinstance(vector, np.ndarray)
        return vector

    def remove(self, at: int) -> None:
        """Count one more dead."""
        self._dead += 1

    def search(self, vector: FloatArray, count: int) -> Hits:
        if self._index is None or not len(self._index):
            return []
        found = self._index.search(vector, count, threads=1)
        return list(zip(found.keys.tolist(), (1 - found.distances).tolist(), strict=True))


def _by_cosine(hit: tuple[int, float]) -> float:
    return -hit[1]
