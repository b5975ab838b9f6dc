"""The in-process index: exact while small, nearly exact when large, and no worse after it was used for long."""

import tracemalloc

import numpy as np
import pytest

from smallfirst.router.cache.index import FLAT, VectorIndex
from smallfirst.router.scoring.embedding import FloatArray


def vectors(count: int, *, seed: int = 0, dimensions: int = 32, topics: int = 40) -> FloatArray:
    """Vectors of length 1 in clusters, as those of texts are."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(topics, dimensions))
    raw = centres[rng.integers(topics, size=count)] + 0.7 * rng.normal(size=(count, dimensions))
    rows: FloatArray = (raw / np.linalg.norm(raw, axis=1, keepdims=True)).astype(np.float32)
    return rows


def near(rows: FloatArray) -> FloatArray:
    noisy = rows + 0.03 * np.random.default_rng(9).normal(size=rows.shape)
    moved: FloatArray = (noisy / np.linalg.norm(noisy, axis=1, keepdims=True)).astype(np.float32)
    return moved


def recall(index: VectorIndex, kept: dict[str, FloatArray], queries: FloatArray) -> float:
    names, matrix = list(kept), np.stack(list(kept.values()))
    best = [names[at] for at in (queries @ matrix.T).argmax(1)]
    found = [[key for key, _ in index.search(query, 8)] for query in queries]
    return float(np.mean([key in keys for key, keys in zip(best, found, strict=True)]))


def test_few_vectors_are_compared_exactly() -> None:
    rows = vectors(50)
    index = VectorIndex()
    for at, row in enumerate(rows):
        index.put(str(at), row)
    cosines = rows @ rows[7]
    order = np.argsort(-cosines)[:5]
    hits = index.search(rows[7], 5)
    assert [key for key, _ in hits] == [str(at) for at in order]
    assert [cosine for _, cosine in hits] == pytest.approx(cosines[order].tolist(), abs=1e-6)


def test_an_empty_index_finds_nothing() -> None:
    index = VectorIndex()
    row = vectors(1)[0]
    assert index.search(row, 3) == []
    index.put("a", row)
    index.remove("a")
    index.remove("a")
    assert index.search(row, 3) == []


def test_a_vector_put_again_replaces_the_first() -> None:
    rows = vectors(2)
    index = VectorIndex()
    index.put("a", rows[0])
    index.put("a", rows[1])
    assert len(index) == 1
    [(key, cosine)] = index.search(rows[1], 3)
    assert key == "a"
    assert cosine == pytest.approx(1.0)


def test_vectors_of_another_length_are_refused() -> None:
    index = VectorIndex()
    index.put("a", vectors(1, dimensions=4)[0])
    with pytest.raises(ValueError, match="length 8 among those of length 4"):
        index.put("b", vectors(1, dimensions=8)[0])
    assert len(index) == 1


def test_many_vectors_are_found_nearly_always() -> None:
    rows = vectors(3 * FLAT)
    index = VectorIndex()
    for at, row in enumerate(rows):
        index.put(str(at), row)
    assert recall(index, {str(at): row for at, row in enumerate(rows)}, near(rows[:300])) >= 0.98


def test_it_finds_as_well_after_every_vector_was_replaced_three_times() -> None:
    size = FLAT + 1000
    rows = vectors(4 * size)
    index = VectorIndex()
    for at, row in enumerate(rows):
        index.put(str(at), row)
        if at >= size:
            index.remove(str(at - size))
    kept = {str(at): rows[at] for at in range(3 * size, 4 * size)}
    assert len(index) == size
    assert recall(index, kept, near(rows[-300:])) >= 0.98


def test_what_was_removed_is_never_found_again() -> None:
    rows = vectors(2 * FLAT)
    rng = np.random.default_rng(1)
    index = VectorIndex()
    kept: set[str] = set()
    for step in range(6 * FLAT):
        key = str(rng.integers(len(rows)))
        if rng.random() < 0.6:
            index.put(key, rows[int(key)])
            kept.add(key)
        else:
            index.remove(key)
            kept.discard(key)
        if step % 50 == 0:
            hits = [key for key, _ in index.search(rows[rng.integers(len(rows))], 8)]
            assert len(hits) == len(set(hits))
            assert set(hits) <= kept
    assert len(index) == len(kept)
    assert recall(index, {key: rows[int(key)] for key in kept}, near(rows[:200])) >= 0.98


def test_the_few_that_are_left_of_many_are_all_found() -> None:
    rows = vectors(2 * FLAT)
    index = VectorIndex()
    for at, row in enumerate(rows):
        index.put(str(at), row)
    for at in range(len(rows) - 5):
        index.remove(str(at))
    assert {key for key, _ in index.search(rows[0], 8)} == {str(len(rows) - 5 + at) for at in range(5)}


def test_a_neighbour_is_found_among_many_that_were_removed() -> None:
    rows = near(np.repeat(vectors(1), 3 * FLAT, axis=0))
    index = VectorIndex()
    for at, row in enumerate(rows):
        index.put(str(at), row)
    for at in range(2 * FLAT, 2 * FLAT + 500):
        index.remove(str(at))
    hits = index.search(rows[2 * FLAT + 250], 8)
    assert len(hits) == 8
    assert not {key for key, _ in hits} & {str(at) for at in range(2 * FLAT, 2 * FLAT + 500)}


def test_memory_does_not_grow_with_use() -> None:
    rows = vectors(500)
    index = VectorIndex()

    def use(rounds: int) -> None:
        for at in range(rounds * len(rows)):
            index.put(str(at), rows[at % len(rows)])
            index.remove(str(at - 200))

    tracemalloc.start()
    use(3)
    before, _ = tracemalloc.get_traced_memory()
    use(20)
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert after - before < 100_000
