"""Continuous batching: many replies in one batch, joining and leaving at every step."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from ....errors import ModelError, ModelUnavailable
from .label_scores import LABEL_SEQUENCES, LabelScorer
from .native import BATCH, SEQUENCES, DecodeFailed, NativeModel
from .prefix import Hold, PrefixTree
from .sampling import FloatArray, Sampler, SamplingParams
from .sequence import End, Job, LabelsJob, Sequence, Sink
from .waiting import WaitingRoom
from .writing import Writer

# Prompt tokens that ride on a step in which others generate: more would make these wait longer for their next token.
_CHUNK = 64
# Free cells that each active sequence should find when one more is admitted.
_HEADROOM = 16
# Waiting for another sequence to compute a common beginning pays from so many tokens on.
_WORTH_WAITING = 32

# Processor seconds that a job takes before its sink is told of them while it goes on.
_TOLD_EVERY = 0.02

_SHUT_DOWN = "The local model was shut down."


@dataclass(frozen=True, slots=True)
class Occupancy:
    """What an engine has taken.

    Attributes:
        active, waiting: Jobs.
        free_ids: Sequence ids for more active jobs.
        own_cells: Cells that active jobs have for themselves.
        kept_cells: Cells of beginnings that are kept for reuse.
    """

    active: int
    waiting: int
    free_ids: int
    own_cells: int
    kept_cells: int


class Engine:
    """One model in memory, and the one thread that computes with it.

    Args:
        model: Belongs to the engine from now on.
        parallel: The most replies in one batch.
    """

    def __init__(self, model: NativeModel, *, parallel: int = 16) -> None:
        self.model = model
        self._ids = list(range(parallel))
        label_ids = range(parallel, parallel + LABEL_SEQUENCES)
        self._tree = PrefixTree(model, range(label_ids.stop, SEQUENCES))
        self._writer = Writer(model)
        self._labels = LabelScorer(model, label_ids, self._make_room)
        self._inbox: queue.SimpleQueue[Sequence | Callable[[], None] | None] = queue.SimpleQueue()
        self._waiting = WaitingRoom()
        self._active: list[Sequence] = []
        self._adapter: str | None = None
        # Tokens of prompts since the start, as far as they were computed.
        self.read = 0
        self._shared_out = 0.0  # up to when the process's processor time belongs to jobs
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._main, name="smallfirst-engine", daemon=True)

    def start(self) -> None:
        """Begin to work."""
        self._thread.start()

    def submit(self, job: Job | LabelsJob, sink: Sink) -> Sequence:
        """Hand a job in; set `cancelled` of what is returned to give it up. Safe from any thread."""
        params = job.params if isinstance(job, Job) else SamplingParams()
        sequence = Sequence(job, sink, Sampler(params, self.model.n_vocab), list(job.prompt))
        sequence.matcher = job.matcher if isinstance(job, Job) else None
        self._inbox.put(sequence)
        return sequence

    def call(self, work: Callable[[], None]) -> None:
        """Run something short in the engine's thread, between two steps. It must not raise. Safe from any thread."""
        self._inbox.put(work)

    @property
    def made(self) -> int:
        """Tokens of replies since the start."""
        return self._writer.made

    @property
    def occupancy(self) -> Occupancy:
        """What is taken right now; only exact in the engine's thread (see `call`), or while nothing is under way."""
        own = sum(sequence.own_cells for sequence in self._active)
        return Occupancy(len(self._active), len(self._waiting), len(self._ids), own, self._tree.cells)

    def close(self) -> None:
        """Fail what is not done, stop after the current step, and free the model. Blocks until that is done."""
        self._closing.set()
        self._inbox.put(None)
        if self._thread.ident is not None:
            self._thread.join()

    # --- the engine's thread ----------------------------------------------------------------------------------

    def _main(self) -> None:
        while not self._closing.is_set():
            self._collect(block=not self._active and not len(self._waiting))
            try:
                self._step()
            except Exception as exc:
                # A fault of ours or of llama.cpp: who is in work fails, the engine goes on.
                self._start_over(exc)
        self._collect(block=False)
        for sequence in [*self._active, *self._waiting.in_turn()]:
            sequence.sink.failed(ModelUnavailable(_SHUT_DOWN))
        self.model.close()

    def _collect(self, *, block: bool) -> None:
        """Take in what was submitted."""
        # As many as are there now: what comes of them waits for the next step.
        for _ in range(max(self._inbox.qsize(), 1)):
            with contextlib.suppress(queue.Empty):
                item = self._inbox.get(block=block)
                if isinstance(item, Sequence):
                    self._waiting.add(item)
                elif item is not None:
                    item()
                if block or not isinstance(item, Sequence):
                    # What the process did while the engine rested or did something else is no job's.
                    self._shared_out = time.process_time()
            block = False

    def _step(self) -> None:
        self._drop_cancelled()
        self._admit()
        if not self._active:
            return
        self._adapter = self._next_adapter()
        self._advance()
        self._score_some_labels()

    def _advance(self) -> None:
        """Compute one batch, and go on with whose tokens are all computed."""
        fed = self._fill()
        if not fed:
            return
        try:
            self.model.decode(self._adapter)
        except DecodeFailed as exc:
            if exc.args != (1,) or not self._tree.evict(self.model.cells):
                raise
            return  # no cells for it after all: there are some now
        finally:
            self._share_out(fed)
        for sequence, count in fed:
            sequence.computed += count
            sequence.tell(_TOLD_EVERY)
        ready = [sequence for sequence, _ in fed if not sequence.pending]
        if ready:
            for sequence, row in zip(ready, self.model.logits(len(ready)), strict=True):
                self._guarded(sequence, row)

    def _share_out(self, fed: list[tuple[Sequence, int]]) -> None:
        """Share the processor time since the last time among the jobs of a batch, by their tokens in it.

        It is that of all threads; what choosing tokens took after the last batch is in it.
        """
        now = time.process_time()
        a_token = (now - self._shared_out) / sum(count for _, count in fed)
        self._shared_out = now
        for sequence, count in fed:
            sequence.cpu_seconds += a_token * count

    def _guarded(self, sequence: Sequence, logits: FloatArray) -> None:
        """Go on with a sequence; its failure is its alone."""
        try:
            self._keep_prompt(sequence)
            if isinstance(sequence.job, LabelsJob):
                end = self._labels.begin(sequence, sequence.job, logits)
            else:
                end = self._writer.go_on(sequence, sequence.job, logits)
            if end is not None:
                self._finish(sequence, end)
        except Exception as exc:
            self._fail(sequence, exc)

    def _score_some_labels(self) -> None:
        """Score one batch of someone's labels: in between, others go on."""
        turn = (s for s in self._active if s.labels_left and s.job.adapter == self._adapter)
        sequence = next(turn, None)
        if sequence is None or not isinstance(sequence.job, LabelsJob):
            return
        try:
            end = self._labels.score_batch(sequence, sequence.job)
        except Exception as exc:
            self._fail(sequence, exc)
            return
        finally:
            self._share_out([(sequence, 1)])
        if end is not None:
            self._finish(sequence, end)

    # --- who is in work ---------------------------------------------------------------------------------------

    def _drop_cancelled(self) -> None:
        for sequence in [s for s in self._active if s.cancelled.is_set()]:
            self._leave(sequence)
        for sequence in [s for s in self._waiting.in_turn() if s.cancelled.is_set()]:
            self._waiting.take(sequence)

    def _admit(self) -> None:
        """Let in who waits, while there are sequence ids and cells."""
        while self._ids and len(self._waiting):
            sequence = next((s for s in self._waiting.in_turn() if not self._better_wait(s)), None)
            if sequence is None or not self._enter(sequence):
                return

    def _enter(self, sequence: Sequence) -> bool:
        """Make a waiting sequence active; returns whether there was room."""
        own = self._ids[-1]
        # The last token is always computed: what it predicts is not kept.
        known = sequence.tokens[:-1] if self._may_reuse(sequence) else []
        hold = self._tree.take(sequence.job.adapter, known, own)
        wanted = len(sequence.tokens) - hold.shared + _HEADROOM * (len(self._active) + 1)
        if not self._make_room(min(wanted, self.model.cells - hold.shared)) and self._active:
            self._tree.release(hold)
            self.model.remove(own)
            return False
        self._waiting.take(sequence)
        self._ids.pop()
        sequence.id, sequence.hold, sequence.computed = own, hold, hold.shared
        if not sequence.made:
            sequence.cached = hold.shared
        self._active.append(sequence)
        if not sequence.made and isinstance(sequence.job, Job):
            end = self._writer.go_forced(sequence, sequence.job)
            if end is not None:
                self._finish(sequence, end)
        return True

    def _may_reuse(self, sequence: Sequence) -> bool:
        # A prompt that is partly in memory is computed in other batches, which moves its last digits: the same seed
        # would then give another reply. Who asks for a seed wants the same one.
        seeded = isinstance(sequence.job, Job) and sequence.job.params.seed is not None
        return self.model.reuses_prefixes and not seeded

    def _better_wait(self, sequence: Sequence) -> bool:
        """Whether someone computes the same beginning right now, which can be copied once it is there."""
        if not self._may_reuse(sequence):
            return False
        root = sequence.job.adapter
        for other in self._active:
            if not other.prefilling or other.job.adapter != root:
                continue
            common = _common(other.tokens, sequence.tokens)
            if common - self._tree.match(root, sequence.tokens) < _WORTH_WAITING:
                continue
            if other.computed < common:
                return True
            self._tree.grow(other.hold, other.tokens[: other.computed], other.id)
        return False

    def _leave(self, sequence: Sequence) -> None:
        """Free what an active sequence has; what it computed stays for reuse while there is room."""
        if sequence.id < 0:
            return
        if self.model.reuses_prefixes:
            self._tree.grow(sequence.hold, sequence.tokens[: sequence.computed], sequence.id)
        self._retire(sequence)

    def _retire(self, sequence: Sequence) -> None:
        self._tree.release(sequence.hold)
        self.model.remove(sequence.id)
        self._ids.append(sequence.id)
        self._active.remove(sequence)
        sequence.id, sequence.computed, sequence.hold, sequence.kept = -1, 0, Hold(None), False
        sequence.labels_left = []

    def _finish(self, sequence: Sequence, end: End) -> None:
        self._leave(sequence)
        sequence.tell()
        sequence.sink.end(end)

    def _fail(self, sequence: Sequence, exc: Exception) -> None:
        self._leave(sequence)
        sequence.tell()
        sequence.sink.failed(_as_model_error(exc))

    def _start_over(self, exc: Exception) -> None:
        """Fail all that is in work, and forget everything: after a failed decode the memory cannot be trusted."""
        failed = self._active[:]
        for sequence in failed:
            self._retire(sequence)
        self._tree.clear()
        self.model.clear()
        for sequence in failed:
            sequence.tell()
            sequence.sink.failed(_as_model_error(exc))

    # --- room -------------------------------------------------------------------------------------------------

    @property
    def _free_cells(self) -> int:
        return self.model.cells - self._tree.cells - sum(s.own_cells for s in self._active)

    def _make_room(self, cells: int) -> bool:
        """Evict prefixes until so many cells are free; returns whether they are."""
        missing = cells - self._free_cells
        return missing <= 0 or self._tree.evict(missing) >= missing

    def _room_for_step(self, cells: int) -> None:
        """Free cells for a step, if need be by sending back who came last: it is computed again later."""
        while not self._make_room(cells) and len(self._active) > 1:
            last = self._active[-1]
            self._retire(last)
            self._waiting.add(last, first=True)

    # --- a step -----------------------------------------------------------------------------------------------

    def _next_adapter(self) -> str | None:
        """Choose whose turn it is: an adapter counts for a whole batch."""
        adapters = list(dict.fromkeys(s.job.adapter for s in self._active))
        at = adapters.index(self._adapter) + 1 if self._adapter in adapters else 0
        return adapters[at % len(adapters)]

    def _fill(self) -> list[tuple[Sequence, int]]:
        """Fill the batch; returns who is in it with how many tokens. Who generates comes first."""
        self._room_for_step(self._wanted())
        turn = [s for s in self._active if s.pending and s.job.adapter == self._adapter]
        generating = [s for s in turn if not s.prefilling]
        prefilling = [s for s in turn if s.prefilling]
        batch = self.model.batch
        batch.clear()
        fed = [(s, self._feed(s, batch.room)) for s in generating if batch.room]
        left = min(batch.room, _CHUNK if generating else BATCH)
        for sequence in prefilling:
            if left <= 0:
                break
            count = self._feed(sequence, left)
            self.read += count
            left -= count
            fed.append((sequence, count))
        return fed

    def _wanted(self) -> int:
        return min(BATCH, sum(s.pending for s in self._active))

    def _feed(self, sequence: Sequence, most: int) -> int:
        """Add a sequence's next tokens to the batch; returns how many."""
        tokens = sequence.tokens[sequence.computed : sequence.computed + most]
        last = len(tokens) == sequence.pending
        self.model.batch.extend(tokens, sequence.computed, sequence.id, output=last)
        return len(tokens)

    def _keep_prompt(self, sequence: Sequence) -> None:
        """Keep the prompt's memory for others as soon as it is there."""
        if not sequence.kept and self.model.reuses_prefixes:
            sequence.kept = True
            self._tree.grow(sequence.hold, sequence.tokens[: sequence.computed], sequence.id)


def _common(a: list[int], b: list[int]) -> int:
    """Return how many first tokens two lists have in common."""
    most = min(len(a), len(b))
    if a[:most] == b[:most]:
        return most
    low, high = 0, most  # a[:low] agrees, a[:high] does not
    while high - low > 1:
        middle = (low + high) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle
    return low


def _as_model_error(exc: Exception) -> Exception:
    if isinstance(exc, ModelError):
        return exc
    failure = ModelError(f"The local model failed ({type(exc).__name__}).", code="local_model_failed")
    failure.__cause__ = exc
    return failure
