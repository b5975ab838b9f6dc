"""Mutated requests on every endpoint: no 500, no hang, no growth, and errors in the wire's own form.

`pytest -m fuzz` sends 100,000 of them; here are some thousand. `FUZZ_SEED` and `FUZZ_CASES` change what is sent.
"""

from __future__ import annotations

import os

import pytest
from fixtures.fuzz_house import Findings, FuzzHouse
from fixtures.mutation import BODIES, Mutant, mutant

from smallfirst.router.server.operations import operations
from smallfirst.router.wires.response_store import MemoryResponses

SEED = int(os.environ.get("FUZZ_SEED", "1"))
CASES = int(os.environ.get("FUZZ_CASES", "100000"))
FEW = 2000
GROWTH = 1.10


def sent(house: FuzzHouse, first: int, last: int, findings: Findings) -> int:
    """Send mutants; returns the resident bytes afterwards."""
    house.send((mutant(SEED, number) for number in range(first, last)), findings)
    return house.rss()


def test_a_mutant_is_the_same_each_time() -> None:
    assert [mutant(3, number) for number in range(50)] == [mutant(3, number) for number in range(50)]


def test_mutants_differ() -> None:
    made: set[Mutant] = {mutant(3, number) for number in range(200)}
    assert len({one.raw for one in made}) > 150


def test_every_endpoint_with_a_body_is_mutated() -> None:
    posted = {one.path for one in operations(MemoryResponses(0, 1.0)) if one.method == "POST"}
    assert posted <= set(BODIES)


def test_no_mutant_of_some_thousand_is_answered_badly(fuzz_house: FuzzHouse) -> None:
    findings = Findings()
    sent(fuzz_house, 0, FEW, findings)
    print(findings.summary())
    assert findings.defects == {}
    assert fuzz_house.unexpected() == []
    assert fuzz_house.alive()
    # They were not all refused at the door.
    assert findings.statuses[200] > FEW / 20


@pytest.mark.fuzz
@pytest.mark.timeout(7200)
def test_no_mutant_of_a_hundred_thousand_is_answered_badly(
    fuzz_house: FuzzHouse, capsys: pytest.CaptureFixture[str]
) -> None:
    findings = Findings()
    # What is filled once (caches, arenas) is full after a tenth.
    step = max(CASES // 10, 1)
    memory = []
    for first in range(0, CASES, step):
        memory.append(sent(fuzz_house, first, min(first + step, CASES), findings))
        with capsys.disabled():
            print(f"\n{findings.summary()}; {memory[-1] / 1e6:.0f} MB", flush=True)
            print(*findings.defects.items(), sep="\n", flush=True)
    assert findings.defects == {}
    assert fuzz_house.unexpected() == []
    assert fuzz_house.alive()
    assert memory[-1] <= GROWTH * memory[0]
