"""Answers by the replicas of Ray Serve. A batch whose replica is lost goes to another one."""

import asyncio
import time
from collections.abc import Awaitable, Sequence
from typing import Any, TypeVar

from ray.exceptions import GetTimeoutError, RayActorError
from ray.serve.exceptions import DeploymentUnavailableError, ReplicaUnavailableError

from store_engine.errors import InputError
from store_engine.live.user_histories import Unknown
from store_engine.serving.cluster.actors import Made, Status
from store_engine.serving.http.batcher import Batcher, DeadlinePassed
from store_engine.serving.http.errors import Unavailable
from store_engine.serving.http.messages import (
    AddEventsResponse,
    ChangeResponse,
    ItemSid,
    ItemsResponse,
    ReplicaStatus,
    StatusResponse,
)
from store_engine.serving.http.metrics import Metrics
from store_engine.serving.owner import Texts
from store_engine.serving.service import Answer, Question, Refused
from store_engine.serving.settings import ServeSettings

BATCHES_PER_REPLICA = 2  # one is computed while another is on its way
_LOST = (RayActorError, ReplicaUnavailableError)
_NOBODY = (*_LOST, DeploymentUnavailableError, GetTimeoutError, TimeoutError)
_PAUSE_S = 0.05  # before a batch is tried again
_STATUS_S = 2.0
Result = TypeVar("Result")


class RayBackend:
    """The replicas and the owner of the catalogue, by their handles.

    Args:
        engines: Serve's handle of the replicas.
        owner: Serve's handle of the owner.
        settings: Of the server.
        metrics: Counts batches and retries.
    """

    def __init__(self, engines: Any, owner: Any, settings: ServeSettings, metrics: Metrics) -> None:
        self._engines, self._owner = engines, owner
        self._timeout_s, self._metrics = settings.timeout_s, metrics
        self._batcher: Batcher[Question, Answer] = Batcher(
            self._serve,
            settings.max_batch,
            settings.max_waiting,
            BATCHES_PER_REPLICA * settings.replicas,
            metrics,
        )

    async def answer(self, questions: Sequence[Question], deadline: float) -> list[Answer]:
        """Answers questions; see `Backend`."""
        return await self._batcher.ask(questions, deadline)

    async def add_items(self, items: Texts) -> ItemsResponse:
        """Adds items; see `Backend`."""
        return _of_items(await self._change(self._owner.add.remote(items)))

    async def update_items(self, items: Texts) -> ItemsResponse:
        """Replaces texts of items; see `Backend`."""
        return _of_items(await self._change(self._owner.update.remote(items)))

    async def remove_items(self, item_ids: Sequence[str]) -> ChangeResponse:
        """Removes items; see `Backend`."""
        changed, visible = await self._change(self._owner.remove.remote(list(item_ids)))
        return ChangeResponse(sequence=changed.sequence, visible=visible)

    async def add_events(
        self, events: Sequence[tuple[str, str, float]], unknown: Unknown
    ) -> AddEventsResponse:
        """Adds events; see `Backend`."""
        changed, visible = await self._change(self._owner.add_events.remote(events, unknown))
        return AddEventsResponse(
            sequence=changed.sequence, visible=visible, num_skipped=changed.num_skipped
        )

    async def status(self) -> StatusResponse:
        """Says how the replicas are; see `Backend`."""
        status: Status = await self._from_owner(self._owner.status.remote(), _STATUS_S)
        replicas = [
            ReplicaStatus(replica=name, run=run, sequence=place.sequence)
            for name, run, place in status.replicas
        ]
        return StatusResponse(
            status="ok" if replicas else "not ready",
            run=status.run,
            sequence=status.place.sequence,
            replicas=replicas,
        )

    async def _serve(self, questions: list[Question], deadline: float) -> list[Answer]:
        try:
            async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                while True:
                    try:
                        answers: list[Answer] = await self._engines.answer.remote(questions)
                        return answers
                    except _LOST:  # to answer is to change nothing: another replica can do it
                        self._metrics.retries.inc()
                        await asyncio.sleep(_PAUSE_S)
        except TimeoutError as error:
            raise DeadlinePassed from error
        except DeploymentUnavailableError as error:
            raise Unavailable("no replica can answer now") from error

    async def _change(self, asked: Awaitable[Made | Refused | None]) -> Made:
        done = await self._from_owner(asked, self._timeout_s)
        if done is None:
            raise Unavailable("the owner of the catalogue is starting; nothing was changed")
        if isinstance(done, Refused):
            raise InputError(done.message)
        return done

    async def _from_owner(self, asked: Awaitable[Result], seconds: float) -> Result:
        try:
            async with asyncio.timeout(seconds):
                return await asked
        except _NOBODY as error:
            raise Unavailable(
                "the owner of the catalogue does not answer; a change that was asked for may "
                "have happened"
            ) from error


def _of_items(made: Made) -> ItemsResponse:
    changed, visible = made
    items = [ItemSid(item_id=item_id, sid=list(sid)) for item_id, sid in changed.sids.items()]
    return ItemsResponse(
        sequence=changed.sequence, visible=visible, items=items, remarks=changed.remarks
    )
