"""What runs in Ray Serve's processes: the owner of the catalogue, and the replicas of the engine.

The owner numbers the changes; a replica asks it for what comes after its own last number and waits
there until there is something, so a change reaches every replica in order and at once. A new run is
a change too: one replica after the other loads it aside, while it goes on answering with the old.
"""

import asyncio
import logging
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch

from store_engine.decoding.engine import Engine
from store_engine.errors import InputError
from store_engine.live.user_histories import Unknown
from store_engine.serving.owner import BEFORE_ALL, CatalogOwner, Changed, Letter, Texts
from store_engine.serving.service import Answer, EngineService, Question, Refused
from store_engine.serving.settings import ServeSettings

_logger = logging.getLogger("ray.serve")
_WAIT_S = 2.0  # how long a replica waits at the owner; it is missed after three times that
_LOADING_S = 600.0  # how long one replica may keep the others from loading a new run
Result = TypeVar("Result")


class Place(NamedTuple):
    """How far a replica is."""

    generation: int  # counts the runs that were served one after the other
    sequence: int  # the last change of that run's catalogue


class News(NamedTuple):
    """What a replica does not have yet."""

    generation: int
    run_dir: str  # of that generation
    letter: Letter | None


class Made(NamedTuple):
    """A change, and whether every replica has it."""

    changed: Changed
    visible: bool


class Status(NamedTuple):
    """How all are."""

    run: str
    place: Place
    replicas: list[tuple[str, str, Place]]  # id, run, place of those heard of lately


class _Heard(NamedTuple):
    place: Place
    run_dir: str
    at: float


class OwnerActor:
    """The owner of the journal, one in the cluster.

    Args:
        run_dir: The run that is served first.
        settings: Of the server.
    """

    def __init__(self, run_dir: str, settings: ServeSettings) -> None:
        self._settings, self._generation = settings, 1
        self._thread = _one_thread("owner", settings.threads)
        self._owner = self._thread.submit(CatalogOwner, Path(run_dir), settings.device).result()
        self._replicas: dict[str, _Heard] = {}
        self._loading: tuple[str, float] | None = None  # which replica, until when
        self._news = asyncio.Event()
        self._turn = asyncio.Lock()  # of changes
        self._sequence = self._owner.sequence

    async def current(self) -> News:
        """What a replica that starts has to load."""
        return News(self._generation, str(self._owner.run_dir), None)

    async def since(self, replica: str, run_dir: str, place: Place) -> News | None:
        """Waits until there is something that a replica lacks; None: there was nothing for a while.

        Args:
            replica: Its id.
            run_dir: The run that it serves.
            place: How far it is.
        """
        if place.generation > self._generation:  # this process was lost, and began where it began
            await self._adopt(run_dir, place.generation)
        self._replicas[replica] = _Heard(place, run_dir, time.monotonic())
        self._wake()
        if place.generation == self._generation and self._is_loading(replica):
            self._loading = None
        end = time.monotonic() + _WAIT_S
        while (left := end - time.monotonic()) > 0:
            if place.generation != self._generation:
                if self._may_load(replica):
                    return await self.current()
            elif place.sequence != self._sequence:
                letter = await self._in_thread(self._owner.since, place.sequence)
                return News(self._generation, run_dir, letter)
            await _wait(self._news, left)
        return None

    async def add(self, items: Texts) -> Made | Refused | None:
        """Adds items; see `CatalogOwner.add`. None: this process has just begun, ask again."""
        return await self._make(lambda owner: owner.add(items))

    async def update(self, items: Texts) -> Made | Refused | None:
        """Replaces texts of items; see `CatalogOwner.update`. None: as for `add`."""
        return await self._make(lambda owner: owner.update(items))

    async def remove(self, item_ids: Sequence[str]) -> Made | Refused | None:
        """Removes items; see `CatalogOwner.remove`. None: as for `add`."""
        return await self._make(lambda owner: owner.remove(item_ids))

    async def add_events(
        self, events: Sequence[tuple[str, str, float]], unknown: Unknown
    ) -> Made | Refused | None:
        """Adds events; see `CatalogOwner.add_events`. None: as for `add`."""
        return await self._make(lambda owner: owner.add_events(events, unknown))

    async def _make(self, act: Callable[[CatalogOwner], Changed]) -> Made | Refused | None:
        """Makes a change and tells everybody."""
        if not self._replicas:  # they know which run is served by now
            return None
        async with self._turn:
            try:
                changed = await self._in_thread(act, self._owner)
            except InputError as error:
                return self._refused(error)
            self._tell(changed.sequence)
            place = Place(self._generation, changed.sequence)
        return Made(changed, await self._is_everywhere(place))

    async def reload(self, run_dir: str) -> Refused | None:
        """Makes another run the one that is served, with the changes that this one's has had."""
        async with self._turn:
            if Path(run_dir).resolve() == self._owner.run_dir:
                return Refused(f"{run_dir}: is served already")
            try:
                owner = await self._in_thread(self._take_over, Path(run_dir))
            except InputError as error:
                return Refused(str(error))
            before, self._owner = self._owner, owner
            self._generation += 1
            self._tell(owner.sequence)
            await self._in_thread(before.close)
        return None

    async def status(self) -> Status:
        """Says how far everybody is."""
        heard = {name: one for name, one in self._replicas.items() if self._is_there(one)}
        replicas = [
            (name, Path(one.run_dir).name, one.place) for name, one in sorted(heard.items())
        ]
        return Status(self._owner.run, Place(self._generation, self._sequence), replicas)

    async def _adopt(self, run_dir: str, generation: int) -> None:
        """Goes on with the run that the replicas serve."""
        async with self._turn:
            if self._generation >= generation:
                return
            if Path(run_dir) != self._owner.run_dir:
                owner = await self._in_thread(CatalogOwner, Path(run_dir), self._settings.device)
                before, self._owner = self._owner, owner
                await self._in_thread(before.close)
            self._generation = generation
            self._tell(self._owner.sequence)

    def _take_over(self, run_dir: Path) -> CatalogOwner:
        owner = CatalogOwner(run_dir, self._settings.device)
        try:
            owner.take_over(self._owner)
        except BaseException:
            owner.close()
            raise
        return owner

    def _tell(self, sequence: int) -> None:
        self._sequence = sequence
        self._wake()

    def _wake(self) -> None:
        """Wakes who waits for something."""
        self._news.set()
        self._news = asyncio.Event()

    async def _is_everywhere(self, place: Place) -> bool:
        """Waits for as many replicas as there should be to have a change, or until `visible_s`.

        One that was not heard of lately may be slow and answer yet: it counts as one that lacks the
        change. So does one that is being replaced, and those that a new owner does not know yet.
        """
        end = time.monotonic() + self._settings.visible_s
        while True:
            heard = [one.place for one in self._replicas.values() if self._is_there(one)]
            is_all = len(heard) >= self._settings.replicas
            if is_all and all(one >= place for one in heard):
                return True
            if (left := end - time.monotonic()) <= 0:
                return False
            await _wait(self._news, left)

    def _is_there(self, heard: _Heard) -> bool:
        return time.monotonic() - heard.at < 3 * _WAIT_S

    def _is_loading(self, replica: str) -> bool:
        return self._loading is not None and self._loading[0] == replica

    def _may_load(self, replica: str) -> bool:
        """Lets one replica at a time load a new run."""
        now = time.monotonic()
        if self._loading is not None and not self._is_loading(replica) and now < self._loading[1]:
            return False
        self._loading = (replica, now + _LOADING_S)
        return True

    def _refused(self, error: InputError) -> Refused:
        """Tells a client why, but not where on this machine."""
        return Refused(str(error).replace(str(self._owner.run_dir), self._owner.run))

    async def _in_thread(self, act: Callable[..., Result], *arguments: Any) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._thread, act, *arguments)


class EngineActor:
    """A replica: one engine, one batch at a time.

    Args:
        owner: Serve's handle of the owner.
        settings: Of the server.
    """

    def __init__(self, owner: Any, settings: ServeSettings) -> None:
        self._owner, self._settings = owner, settings
        self._replica = uuid.uuid4().hex[:12]
        self._thread = _one_thread("engine", settings.threads)
        # in a thread of its own, because Serve's handles wait in no event loop
        with ThreadPoolExecutor(1) as starter:
            self._serving = starter.submit(self._start).result()
        self._follower = threading.Thread(target=self._follow, daemon=True, name="follower")
        self._follower.start()

    async def answer(self, questions: list[Question]) -> list[Answer]:
        """Answers a batch."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(
            self._thread, lambda: self._serving.service.answer(questions)
        )

    def check_health(self) -> None:
        """Raises if changes would no longer reach this replica."""
        if not self._follower.is_alive():
            raise RuntimeError("the thread that follows the changes has ended")

    def _start(self) -> "_Serving":
        while True:
            news = self._owner.current.remote().result()
            try:
                return self._load(news)
            except InputError:
                if self._owner.current.remote().result() == news:  # else it was replaced meanwhile
                    raise

    def _load(self, news: News) -> "_Serving":
        """Loads a run, with all changes of its catalogue."""
        settings, run_dir = self._settings, Path(news.run_dir)
        torch.set_num_threads(settings.threads)
        engine = Engine.load(
            run_dir, device=settings.device, backend=settings.backend, journal=False
        )
        serving = _Serving(news.generation, news.run_dir, EngineService(engine, run_dir.name))
        while serving.service.sequence == BEFORE_ALL:
            changes = self._ask(serving)
            if changes is not None and changes.letter is None:  # another run, by now
                return self._load(changes)
            if changes is not None and changes.letter is not None:
                serving.service.apply(changes.letter)
        return serving

    def _ask(self, serving: "_Serving") -> News | None:
        place = Place(serving.generation, serving.service.sequence)
        asked = self._owner.since.remote(self._replica, serving.run_dir, place)
        news: News | None = asked.result(timeout_s=10 * _WAIT_S)
        return news

    def _follow(self) -> None:
        """Brings every change to the engine, for ever."""
        while True:
            try:
                news = self._ask(self._serving)
                if news is not None and news.letter is not None:
                    self._thread.submit(self._serving.service.apply, news.letter).result()
                elif news is not None:
                    self._thread.submit(self._swap, self._load(news)).result()
            except Exception:
                _logger.exception("replica %s could not follow the catalogue", self._replica)
                time.sleep(0.2)

    def _swap(self, serving: "_Serving") -> None:
        self._serving = serving


class _Serving(NamedTuple):
    """What a replica answers with."""

    generation: int
    run_dir: str
    service: EngineService


def _one_thread(name: str, num_threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(1, name, torch.set_num_threads, (num_threads,))


async def _wait(event: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        pass
