import asyncio
import time

import pytest

pytest.importorskip("prometheus_client", reason="pip install 'store-engine[serve]'")

from store_engine.serving.http.batcher import Batcher, DeadlinePassed, Overloaded
from store_engine.serving.http.metrics import Metrics


def later(seconds=5.0):
    return time.monotonic() + seconds


class Slow:
    """Answers n with 10 n; a negative number is refused; each batch waits for `go`."""

    def __init__(self, max_batch=4, max_waiting=100, max_running=1):
        self.batches, self.go = [], asyncio.Event()
        self.batcher = Batcher(self.serve, max_batch, max_waiting, max_running, Metrics())

    async def serve(self, numbers, deadline):
        self.batches.append(numbers)
        await self.go.wait()
        if 13 in numbers:
            raise RuntimeError("a batch that fails")
        return [KeyError(n) if n < 0 else 10 * n for n in numbers]

    def ask(self, numbers, deadline=None):
        return [asyncio.ensure_future(self.ask_one(n, deadline)) for n in numbers]

    async def ask_one(self, number, deadline=None):
        (answer,) = await self.batcher.ask([number], deadline or later())
        return answer


async def settled():
    for _ in range(5):
        await asyncio.sleep(0)


def test_those_who_wait_go_together_in_the_order_they_came():
    async def run():
        slow = Slow()
        asked = slow.ask([0])
        await settled()
        asked += slow.ask(range(1, 8))
        await settled()
        assert slow.batches == [[0]]
        slow.go.set()
        assert await asyncio.gather(*asked) == [10 * n for n in range(8)]
        assert slow.batches == [[0], [1, 2, 3, 4], [5, 6, 7]]

    asyncio.run(run())


def test_as_many_batches_run_as_may():
    async def run():
        slow = Slow(max_batch=1, max_running=3)
        asked = slow.ask(range(5))
        await settled()
        assert slow.batches == [[0], [1], [2]]
        slow.go.set()
        assert await asyncio.gather(*asked) == [0, 10, 20, 30, 40]

    asyncio.run(run())


def test_an_error_of_one_and_of_a_batch():
    async def run():
        slow = Slow(max_batch=2)
        slow.go.set()
        found = await asyncio.gather(*slow.ask([0, 1, -1, 13, 2]), return_exceptions=True)
        assert slow.batches == [[0], [1, -1], [13, 2]]
        assert found[:2] == [0, 10]
        assert [type(one) for one in found[2:]] == [KeyError, RuntimeError, RuntimeError]

    asyncio.run(run())


def test_who_is_out_of_time_or_gone_is_not_served():
    async def run():
        slow = Slow(max_batch=10)
        first = slow.ask([0])
        await settled()
        late, gone, last = *slow.ask([1], later(0.02)), *slow.ask([2]), *slow.ask([3])
        await settled()
        gone.cancel()
        await asyncio.sleep(0.05)
        slow.go.set()
        with pytest.raises(DeadlinePassed):
            await late
        assert await asyncio.gather(*first, last) == [0, 30]
        assert slow.batches == [[0], [3]]

    asyncio.run(run())


def test_a_deadline_in_the_past_is_passed():
    async def run():
        slow = Slow()
        with pytest.raises(DeadlinePassed):
            await slow.ask_one(1, later(-1))
        slow.go.set()
        assert await slow.ask_one(2) == 20

    asyncio.run(run())


def test_too_many_are_refused_and_places_become_free():
    async def run():
        slow = Slow(max_batch=1, max_waiting=2)
        asked = slow.ask(range(5))
        await settled()
        assert [type(one.exception()) for one in asked if one.done()] == [Overloaded, Overloaded]
        slow.go.set()
        assert await asyncio.gather(*asked[:3]) == [0, 10, 20]
        assert await slow.ask_one(9) == 90

    asyncio.run(run())


def test_the_gone_take_no_places_from_the_living():
    async def run():
        slow = Slow(max_batch=1, max_waiting=2)
        first = slow.ask([0])
        await settled()
        for one in (gone := slow.ask([1, 2])):
            await settled()
            one.cancel()
        await asyncio.gather(*gone, return_exceptions=True)
        asked = slow.ask([3, 4])
        await settled()
        slow.go.set()
        assert await asyncio.gather(*first, *asked) == [0, 30, 40]

    asyncio.run(run())
