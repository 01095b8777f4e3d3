"""Dynamic batching: whoever waits when an engine becomes free goes along in its next batch.

Nobody waits for a batch to fill, so a lone request is served at once, and under load batches grow
by themselves up to their limit. What cannot be served in time is refused: at the door when too many
wait already, later when its deadline passes.
"""

import asyncio
import math
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from store_engine.serving.http.metrics import Metrics

Asked = TypeVar("Asked")
Answer = TypeVar("Answer")


class Overloaded(Exception):
    """Too many requests wait already.

    Args:
        retry_after_s: When it is worth trying again.
    """

    def __init__(self, retry_after_s: int) -> None:
        super().__init__(f"too many requests wait, try again in {retry_after_s} s")
        self.retry_after_s = retry_after_s


class DeadlinePassed(Exception):
    """A request was not answered in time."""


@dataclass(eq=False)
class _Waiting(Generic[Asked, Answer]):
    asked: Asked
    deadline: float
    answer: "asyncio.Future[Answer | Exception]"


class Batcher(Generic[Asked, Answer]):
    """Gathers requests of one event loop into batches.

    Args:
        serve: Answers a batch; is told until when (`time.monotonic`) the last of it is wanted. An
            answer that is an exception is raised for its request alone, one that `serve` raises
            for all of the batch.
        max_batch: Most requests of a batch.
        max_waiting: Most requests that wait.
        max_running: Most batches at once.
        metrics: Is told of batches and of those that wait.
    """

    def __init__(
        self,
        serve: Callable[[list[Asked], float], Awaitable[Sequence[Answer | Exception]]],
        max_batch: int,
        max_waiting: int,
        max_running: int,
        metrics: Metrics,
    ) -> None:
        self._serve, self._metrics = serve, metrics
        self._max_batch, self._max_waiting = max_batch, max_waiting
        self._max_running = max_running
        self._waiting: deque[_Waiting[Asked, Answer]] = deque()
        self._running: set[asyncio.Task[None]] = set()
        self._batch_s = 0.0  # how long a batch takes, a moving average

    async def ask(self, asked: Sequence[Asked], deadline: float) -> list[Answer]:
        """Returns the answers to the requests of one caller, all of them or an exception.

        Args:
            asked: The requests; they may go in several batches, beside those of others.
            deadline: Until when they are wanted, by `time.monotonic`.

        Raises:
            Overloaded: Too many would wait; nothing was done.
            DeadlinePassed: There was no answer in time.
        """
        if len(self._waiting) + len(asked) > self._max_waiting:
            raise Overloaded(self._retry_after_s())
        future = asyncio.get_running_loop().create_future
        own: list[_Waiting[Asked, Answer]] = [_Waiting(one, deadline, future()) for one in asked]
        self._waiting.extend(own)
        self._start()
        try:
            async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                answers = [await one.answer for one in own]
        except TimeoutError as error:
            raise DeadlinePassed from error
        finally:
            self._forget([one for one in own if not one.answer.done() or one.answer.cancelled()])
        found = [one for one in answers if not isinstance(one, Exception)]
        if len(found) < len(answers):
            raise next(one for one in answers if isinstance(one, Exception))
        return found

    def _forget(self, gone: list[_Waiting[Asked, Answer]]) -> None:
        """Gives the places of those whose caller is gone to others."""
        for one in gone:
            one.answer.cancel()
        if gone:
            self._waiting = deque(one for one in self._waiting if not one.answer.done())

    def _retry_after_s(self) -> int:
        batches = len(self._waiting) / (self._max_batch * self._max_running)
        return max(1, math.ceil(batches * self._batch_s))

    def _start(self) -> None:
        """Starts batches while there are requests and engines."""
        while len(self._running) < self._max_running and (batch := self._next_batch()):
            task = asyncio.create_task(self._run(batch))
            self._running.add(task)
            task.add_done_callback(self._ended)
        self._metrics.waiting.set(len(self._waiting))

    def _ended(self, task: "asyncio.Task[None]") -> None:
        self._running.discard(task)
        self._start()

    def _next_batch(self) -> list[_Waiting[Asked, Answer]]:
        """Takes those who came first; who is gone or out of time is left out."""
        batch: list[_Waiting[Asked, Answer]] = []
        now = time.monotonic()
        while self._waiting and len(batch) < self._max_batch:
            one = self._waiting.popleft()
            if not one.answer.done() and one.deadline > now:
                batch.append(one)
        return batch

    async def _run(self, batch: list[_Waiting[Asked, Answer]]) -> None:
        began = time.monotonic()
        answers: Sequence[Answer | Exception]
        try:
            deadline = max(one.deadline for one in batch)
            answers = await self._serve([one.asked for one in batch], deadline)
        except Exception as error:
            answers = [error] * len(batch)
        took = time.monotonic() - began
        self._batch_s = took if self._batch_s == 0 else 0.9 * self._batch_s + 0.1 * took
        self._metrics.batch_size.observe(len(batch))
        self._metrics.batch_seconds.observe(took)
        for one, answer in zip(batch, answers, strict=True):
            if not one.answer.done():
                one.answer.set_result(answer)
