"""The lots: uniform, and the same within a turn of a session."""

from collections.abc import Callable

import pytest

from smallfirst.router.exploring import Lots
from smallfirst.router.hints import Hints
from smallfirst.router.wire import ChatRequest

NOON = 1_700_000_000.0


def asked(*roles: str) -> ChatRequest:
    messages = [{"role": role, "content": "x", "tool_call_id": "c"} for role in roles]
    return ChatRequest.of({"model": "auto", "messages": messages}, {}, stream=False)


@pytest.fixture
def lots() -> Lots:
    return Lots(clock=lambda: NOON)


def test_a_tool_loop_keeps_its_number(lots: Lots) -> None:
    hints = Hints("s")
    assert lots(asked("user"), hints) == lots(asked("user", "assistant", "tool"), hints)


Other = Callable[[], float]


@pytest.mark.parametrize(
    "other",
    [
        lambda: Lots(clock=lambda: NOON)(asked("user", "assistant", "user"), Hints("s")),
        lambda: Lots(clock=lambda: NOON)(asked("user"), Hints("another")),
        lambda: Lots(clock=lambda: NOON + 86_400)(asked("user"), Hints("s")),
        lambda: Lots(b"another key", clock=lambda: NOON)(asked("user"), Hints("s")),
    ],
    ids=["turn", "session", "day", "key"],
)
def test_another_one_draws_anew(lots: Lots, other: Other) -> None:
    assert lots(asked("user"), Hints("s")) != other()


def test_numbers_are_uniform(lots: Lots) -> None:
    request = asked("user")
    drawn = sorted(lots(request, Hints(f"s{at}")) for at in range(2000))
    # Kolmogorov and Smirnov: 1.95 / sqrt(n) is exceeded once in a thousand; the key is fixed.
    assert max(abs(value - at / 2000) for at, value in enumerate(drawn)) < 1.95 / 2000**0.5
    assert 0 <= drawn[0] <= drawn[-1] < 1
