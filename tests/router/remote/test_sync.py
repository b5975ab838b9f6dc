"""The blocking gateway's thread: calls that could never end, closing, and streams that nobody closes."""

import asyncio
import gc
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from fixtures import loopback_cloud as lc
from fixtures.loopback_cloud import LoopbackCloud
from fixtures.serving import CLOUD, MakeSettings

from smallfirst.router.gateway import Gateway
from smallfirst.router.sync import LoopThread, SyncGateway


@pytest.fixture
def gateway(make_settings: MakeSettings, cloud: LoopbackCloud) -> Iterator[SyncGateway]:
    with SyncGateway(gateway=Gateway(make_settings(local=False))) as gateway:
        yield gateway


async def test_it_may_be_called_where_another_loop_runs(gateway: SyncGateway) -> None:
    assert gateway.complete("Hi", model=CLOUD).text == "Paris is the answer."


def test_a_blocking_call_on_its_own_loop_is_refused(gateway: SyncGateway) -> None:
    async def inside() -> str:
        return gateway.complete("Hi", model=CLOUD).text

    with pytest.raises(RuntimeError, match="wait for itself"):
        gateway.run(inside())


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_process_is_told_to_make_its_own(gateway: SyncGateway) -> None:
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            gateway.complete("Hi", model=CLOUD)
        except RuntimeError as exc:
            os.write(write, str(exc).encode())
        finally:
            os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    os.close(write)
    with os.fdopen(read) as said:
        assert "before this process was forked" in said.read()


def test_many_may_close_it_at_once_and_then_it_is_closed(gateway: SyncGateway) -> None:
    gateway.complete("Hi", model=CLOUD)
    stream = gateway.stream("Hi", model=CLOUD)
    next(stream)
    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(lambda _: gateway.close(), range(6))) == [None] * 6
    stream.close()
    for call in (lambda: gateway.complete("Hi"), lambda: next(stream)):
        with pytest.raises(RuntimeError, match="closed"):
            call()


def test_closing_ends_what_still_runs() -> None:
    thread = LoopThread()
    begun = asyncio.Event()

    async def forever() -> None:
        begun.set()
        await asyncio.Event().wait()

    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(thread.run, forever())
        thread.run(begun.wait())
        thread.close()
        assert isinstance(waiting.exception(10), BaseException)


def test_a_stream_that_is_dropped_stops_the_cloud_and_is_booked(
    gateway: SyncGateway, cloud: LoopbackCloud
) -> None:
    cloud.enqueue(lc.hang(after=3))
    stream = gateway.stream("Hi", model=CLOUD)
    next(stream)
    del stream
    gc.collect()
    assert cloud.disconnected.wait(5)
    assert gateway.report(by=("route",)).total.requests == 1
