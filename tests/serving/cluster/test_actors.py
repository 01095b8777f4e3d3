"""The owner's actor without Ray: when a change is called visible."""

import asyncio
from contextlib import asynccontextmanager

import pytest

pytest.importorskip("pydantic", reason="pip install 'store-engine[serve]'")

from live_runs import make_run

from store_engine.serving.cluster import actors
from store_engine.serving.cluster.actors import OwnerActor, Place
from store_engine.serving.owner import BEFORE_ALL
from store_engine.serving.settings import ServeSettings


class Replica:
    """Asks for changes as `EngineActor` does, when it is told to."""

    def __init__(self, owner, name):
        self.owner, self.name, self.place = owner, name, Place(1, BEFORE_ALL)

    async def ask(self):
        news = await self.owner.since(self.name, str(self.owner._owner.run_dir), self.place)
        if news is not None:
            self.place = Place(news.generation, news.letter.upto)

    async def follow(self):
        while True:
            await self.ask()


@asynccontextmanager
async def following(*replicas):
    tasks = [asyncio.create_task(one.follow()) for one in replicas]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@pytest.fixture
def owner(tmp_path, monkeypatch):
    monkeypatch.setattr(actors, "_WAIT_S", 0.1)  # one is missed after 0.3 s
    actor = OwnerActor(make_run(tmp_path / "run"), ServeSettings(replicas=2, visible_s=2.0))
    yield actor
    actor._owner.close()


def test_a_change_is_visible_when_all_replicas_have_it(owner):
    async def run():
        both = [Replica(owner, name) for name in "ab"]
        for one in both:
            await one.ask()
        async with following(*both):
            made = await owner.remove(["item 9"])
        assert made.visible
        assert {one.place.sequence for one in both} == {made.changed.sequence}

    asyncio.run(run())


@pytest.mark.parametrize("seconds", [0.0, 0.5], ids=["heard of", "missed"])
def test_a_replica_that_is_silent_may_answer_yet(owner, seconds):
    """One that computes a long batch asks for nothing meanwhile, and is not taken for lost."""

    async def run():
        quick, slow = Replica(owner, "quick"), Replica(owner, "slow")
        await slow.ask()
        async with following(quick):
            await asyncio.sleep(seconds)
            made = await owner.remove(["item 9"])
            assert not made.visible
            async with following(slow):
                assert (await owner.remove(["item 8"])).visible
        assert slow.place == quick.place

    asyncio.run(run())


def test_a_replica_that_takes_the_place_of_a_lost_one_is_waited_for(owner):
    async def run():
        quick, lost = Replica(owner, "quick"), Replica(owner, "lost")
        await lost.ask()
        async with following(quick):
            await asyncio.sleep(0.5)
            assert not (await owner.remove(["item 9"])).visible  # it may be slow, for all we know
            async with following(Replica(owner, "new")):
                assert (await owner.remove(["item 8"])).visible

    asyncio.run(run())


def test_an_owner_that_begins_knows_no_replica_and_changes_nothing(owner):
    async def run():
        assert await owner.remove(["item 9"]) is None
        assert (await owner.status()).replicas == []
        await Replica(owner, "a").ask()
        made = await owner.remove(["item 9"])
        assert (made.changed.sequence, made.visible) == (1, False)  # nor of how many there are

    asyncio.run(run())
