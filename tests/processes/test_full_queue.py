"""A local model that has too much to do: who asks is told the same, whether one process serves or several."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from fixtures.loopback_cloud import LoopbackCloud
from fixtures.processes import Served, at, cloud_model, smallfirst_serve, wait_until

from smallfirst.router.settings import default_local_model

CHAT = "/v1/chat/completions"
# A thousand numbers: nothing else is a whole answer.
NUMBERS = {
    "name": "numbers",
    "schema": {"type": "array", "items": {"type": "integer"}, "minItems": 1000},
}
BUSY = {
    "error": {
        "message": "Model 'small' is busy: 1 requests wait ('max_queue').",
        "type": "upstream_error",
        "param": None,
        "code": "queue_full",
    }
}

STREAMED = pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])


@pytest.fixture(scope="module")
def upstream() -> Iterator[LoopbackCloud]:
    """A cloud on loopback that all tests of this file ask."""
    cloud = LoopbackCloud()
    for _ in cloud.run():
        yield cloud


@pytest.fixture(scope="module", params=[1, 2], ids=["one process", "two processes"])
def served(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    upstream: LoopbackCloud,
    model_path: Path,
) -> Iterator[Served]:
    """A local model that answers one request while one more waits, and a cloud that is asked where it cannot."""
    default = default_local_model().model_dump(mode="json", include={"kind", "system_prompt"})
    small = {**default, "name": "small", "source": f"file:{model_path}", "parallel": 1, "max_queue": 1}
    with smallfirst_serve(
        tmp_path_factory.mktemp("full"),
        "--workers",
        str(request.param),
        models=[small, cloud_model("big", upstream.base_url)],
        policies={"local-first": {"min_local_success": 0, "max_gap": 1, "uncertain": "local"}},
    ) as running:
        wait_until(lambda: len(running.workers()) == (0 if request.param == 1 else request.param))
        yield running


def body(model: str, **fields: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": "Count to one thousand."}], **fields}


@contextmanager
def connected(served: Served) -> Iterator[list[httpx.Client]]:
    """Two clients with a connection each, one to each of two processes."""
    with ExitStack() as opened:
        workers = served.workers() or [served.process.pid] * 2
        yield [opened.enter_context(at(served, worker)) for worker in workers]


def is_taken(http: httpx.Client, opened: ExitStack) -> bool:
    """Ask for a long answer that nobody reads."""
    schema = {"type": "json_schema", "json_schema": NUMBERS}
    long = body("small", max_tokens=3000, response_format=schema, stream=True)
    answer = http.send(http.build_request("POST", CHAT, json=long), stream=True)
    if answer.status_code == 200:
        opened.callback(answer.close)
        return True
    answer.read()
    return False


@contextmanager
def full(served: Served) -> Iterator[None]:
    """The local model has as much to do as it takes, one half of it from each process."""
    with connected(served) as clients, ExitStack() as opened:
        for http in clients:
            # What was asked for before may not have been given up yet.
            wait_until(partial(is_taken, http, opened))
        yield


def ask(http: httpx.Client, model: str, *, streamed: bool) -> httpx.Response:
    return http.post(CHAT, json=body(model, max_tokens=5, stream=streamed))


@STREAMED
def test_one_request_too_many_is_refused_whichever_process_it_comes_to(
    served: Served, streamed: bool
) -> None:
    with connected(served) as clients, full(served):
        refused = [ask(http, "small", streamed=streamed) for http in clients]
    assert [(each.status_code, each.headers["retry-after"]) for each in refused] == [(503, "1")] * 2
    assert [each.json() for each in refused] == [BUSY] * 2


@STREAMED
def test_the_cloud_answers_where_it_comes_next(
    served: Served, upstream: LoopbackCloud, streamed: bool
) -> None:
    upstream.requests.clear()
    with connected(served) as clients, full(served):
        answers = [ask(http, "auto/local-first", streamed=streamed) for http in clients]
    assert [(each.status_code, each.headers["x-smallfirst-model"]) for each in answers] == [(200, "big")] * 2
    assert [each.body["model"] for each in upstream.requests] == ["big"] * 2


def test_it_answers_again_once_there_is_room(served: Served) -> None:
    def is_answered(http: httpx.Client) -> bool:
        return ask(http, "small", streamed=False).status_code == 200

    with full(served):
        pass
    with connected(served) as clients:
        for http in clients:
            wait_until(partial(is_answered, http))
            answer = ask(http, "auto/local-first", streamed=False)
            assert answer.headers["x-smallfirst-model"] == "small"
