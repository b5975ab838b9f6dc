"""The engine alone, with the real default model: tokens in, tokens out, and nothing left behind."""

import random
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from smallfirst.router.models.local.engine import (
    ContextOptions,
    End,
    Engine,
    Job,
    LabelsJob,
    NativeModel,
    Sequence,
    Token,
)
from smallfirst.router.models.local.engine.engine import Occupancy

PARALLEL = 4


class Heard:
    """Keeps what the engine says of a job."""

    alternatives = 0
    watched = None
    forcing = True

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.ended = threading.Event()
        self.end_seen: End | None = None
        self.error: Exception | None = None
        self.cpu_seconds = 0.0

    def spent(self, cpu_seconds: float, cached_tokens: int) -> None:
        self.cpu_seconds = cpu_seconds

    def token(self, token: Token) -> bool:
        self.tokens.append(token.id)
        return True

    def may_end(self, token: Token) -> bool:
        return True

    def end(self, end: End) -> None:
        self.end_seen = end
        self.ended.set()

    def failed(self, error: Exception) -> None:
        self.error = error
        self.ended.set()


@pytest.fixture(scope="module")
def engine(model_path: Path) -> Iterator[Engine]:
    """An engine with little room; on one thread, because in this process those of OpenMP spin while they wait."""
    made = Engine(NativeModel(model_path, ContextOptions(cells=512, threads=1)), parallel=PARALLEL)
    made.start()
    yield made
    made.close()


def occupancy(engine: Engine) -> Occupancy:
    """What is taken, as the engine's own thread sees it."""
    found: list[Occupancy] = []
    seen = threading.Event()

    def look() -> None:
        found.append(engine.occupancy)
        seen.set()

    engine.call(look)
    assert seen.wait(10)
    return found[0]


def test_after_any_mix_of_jobs_and_cancellations_all_is_free_again(engine: Engine) -> None:
    chance = random.Random(0)
    stems = [engine.model.tokenize("All trains of the line stop at every station. " * n) for n in (1, 3, 6)]
    running: list[tuple[Sequence, Heard]] = []
    for at in range(60):
        prompt = chance.choice(stems) + engine.model.tokenize(f" Number {at % 7}:")
        heard = Heard()
        if chance.random() < 0.3:
            labels = tuple(engine.model.tokenize(text) for text in ("late", "on time", "not running at all"))
            job: Job | LabelsJob = LabelsJob(prompt, labels, group=str(at % 3))
        else:
            job = Job(prompt, chance.randint(1, 12), group=str(at % 3))
        running.append((engine.submit(job, heard), heard))
    for sequence, _ in chance.sample(running, 20):
        sequence.cancelled.set()
    for sequence, heard in running:
        assert sequence.cancelled.is_set() or heard.ended.wait(60)
        assert heard.error is None
    left = occupancy(engine)
    while left.active or left.waiting:
        left = occupancy(engine)
    assert (left.free_ids, left.own_cells) == (PARALLEL, 0)
    assert 0 < left.kept_cells <= engine.model.cells


def test_greedy_answers_do_not_depend_on_what_was_kept(engine: Engine) -> None:
    prompt = engine.model.tokenize("One, two, three, four, five, six, seven,")
    first, again = Heard(), Heard()
    engine.submit(Job(prompt, 8), first)
    assert first.ended.wait(30)
    engine.submit(Job(prompt, 8), again)
    assert again.ended.wait(30)
    assert again.end_seen is not None
    assert again.end_seen.cached_tokens == len(prompt) - 1
    assert first.tokens == again.tokens
