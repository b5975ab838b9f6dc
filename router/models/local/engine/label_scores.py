"""From a prompt in memory to how likely the model finds each label after it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np

from .native import NativeModel
from .sampling import FloatArray
from .sequence import End, LabelsJob, Sequence

# Labels in one batch, each in a sequence of its own.
LABEL_SEQUENCES = 32
# Label tokens in one batch: each needs a row of logits, which is 0.6 MB where the vocabulary has 150,000 tokens.
_ROWS = 64


class LabelScorer:
    """Scores the labels of a job batch by batch, so that others can go on in between.

    Args:
        model: The engine's.
        ids: `LABEL_SEQUENCES` sequence ids, which labels have while they are computed.
        make_room: Frees so many cells, as far as it can.
    """

    def __init__(self, model: NativeModel, ids: range, make_room: Callable[[int], object]) -> None:
        self._model = model
        self._ids = ids
        self._make_room = make_room

    def begin(self, sequence: Sequence, job: LabelsJob, logits: FloatArray) -> End | None:
        """Score the labels' first tokens, by the logits at the prompt's end; returns the end if that was all."""
        first = _log_softmax(logits)
        sequence.scores = [[float(first[label[0]])] for label in job.labels]
        sequence.labels_left = list(_batches(job.labels))
        return _end(sequence)

    def score_batch(self, sequence: Sequence, job: LabelsJob) -> End | None:
        """Score the next batch of those that are left; returns the end if it was the last."""
        self._compute(sequence, job, sequence.labels_left.pop(0))
        return _end(sequence)

    def _compute(self, sequence: Sequence, job: LabelsJob, which: list[int]) -> None:
        """Compute some labels, each in a sequence of its own that shares the prompt."""
        model, begin = self._model, len(job.prompt)
        self._make_room(sum(len(job.labels[at]) - 1 for at in which))
        model.batch.clear()
        wanted: list[tuple[int, int]] = []
        for own, at in zip(self._ids, which, strict=False):
            label = job.labels[at]
            model.copy(sequence.id, own, 0, begin)
            for offset, token in enumerate(label[:-1]):
                model.batch.add(token, begin + offset, own, output=True)
                wanted.append((at, label[offset + 1]))
        try:
            model.decode(job.adapter)
            for row, (at, following) in zip(model.logits(len(wanted)), wanted, strict=True):
                sequence.scores[at].append(float(_log_softmax(row)[following]))
        finally:
            for own in self._ids:
                model.remove(own)


def _end(sequence: Sequence) -> End | None:
    if sequence.labels_left:
        return None
    means = tuple(math.fsum(parts) / len(parts) for parts in sequence.scores)
    return End("stop", sequence.cached, means)


def _batches(labels: tuple[tuple[int, ...], ...]) -> Iterator[list[int]]:
    """Yield which labels to compute together; those of one token need no computing."""
    batch: list[int] = []
    rows = 0
    for at, label in enumerate(labels):
        if len(label) == 1:
            continue
        if batch and (rows + len(label) - 1 > _ROWS or len(batch) == LABEL_SEQUENCES):
            yield batch
            batch, rows = [], 0
        batch.append(at)
        rows += len(label) - 1
    if batch:
        yield batch


def _log_softmax(logits: FloatArray) -> FloatArray:
    shifted = logits - logits.max()
    result: FloatArray = shifted - np.log(np.exp(shifted).sum())
    return result
