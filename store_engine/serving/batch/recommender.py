"""Batch recommendation: shards of users in, shards of recommendations out, resumable.

A shard whose output is there and was made from the same run, input and options is left alone, so
the same command goes on where it was stopped, and does nothing when it is done.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np

from store_engine.data.histories import Histories
from store_engine.decoding.backends import BackendName
from store_engine.decoding.engine import Engine
from store_engine.decoding.search_options import SearchOptions
from store_engine.errors import InputError
from store_engine.files.atomic import is_temporary
from store_engine.files.digest import sha256
from store_engine.files.lock import FileLock
from store_engine.live.journal import Journal
from store_engine.runs.run import Run, load_run
from store_engine.serving.batch.outputs import (
    Origin,
    Recommended,
    digest,
    is_made_from,
    write_shard,
)
from store_engine.serving.batch.shards import Shard, Unknown, read_shard

_USERS_PER_CALL = 512  # between two ticks of the progress bar
Ticked = Callable[[int, int], None]  # users done, users in all of a shard
Work = list[tuple[Shard, Origin]]  # shards, and what their outputs are to be made from


@dataclass(frozen=True)
class BatchOptions:
    """What every user of a batch is asked for.

    Args:
        k: Items wanted.
        beam_width: Beams; None: the run's.
        exact: Score every item instead of searching with a beam.
        exclude_history: Never recommend an item of the history; None: the run's choice.
        allow: Recommend none but these items; None: all.
        deny: Recommend none of these items.
        unknown: "error" refuses a history with an id that no item has, "skip" leaves the id out.

    Raises:
        InputError: A number is out of its range.
    """

    k: int = 10
    beam_width: int | None = None
    exact: bool = False
    exclude_history: bool | None = None
    allow: tuple[str, ...] | None = None
    deny: tuple[str, ...] = ()
    unknown: Unknown = "error"

    def __post_init__(self) -> None:
        SearchOptions(self.k, beam_width=self.beam_width, exact=self.exact)  # checks them


@dataclass(frozen=True)
class EngineChoice:
    """Which engine answers: run, device and backend as `Engine.load` takes them."""

    run: Path
    device: str = "auto"
    backend: BackendName = "auto"


class Served(NamedTuple):
    """A shard that was written."""

    num_users: int
    num_unknown: int  # events left out, because no item has their id


class ServedShard(NamedTuple):
    """A shard that was dealt with; where `served` is None, `problem` says why."""

    shard: Shard
    served: Served | None
    problem: str


class BatchRecommender:
    """Serves shards with one engine.

    Args:
        choice: The engine; loaded when the first shard is served.
        options: The same for every user.
    """

    def __init__(self, choice: EngineChoice, options: BatchOptions) -> None:
        self.choice, self.options = choice, options

    @cached_property
    def run(self) -> Run:
        """The run."""
        return load_run(self.choice.run)

    @cached_property
    def _engine(self) -> Engine:
        choice = self.choice
        engine = Engine.load(self.run, device=choice.device, backend=choice.backend)
        if self.options.allow is not None:
            engine.define("allow", self.options.allow)
        engine.define("deny", self.options.deny)
        return engine

    @cached_property
    def _item_ids(self) -> tuple[str, ...]:
        return self._engine.catalog.item_ids

    @cached_property
    def _titles(self) -> Sequence[str]:
        return next(iter(self._engine.catalog.fields.values()))

    @cached_property
    def _row_of(self) -> dict[str, int]:
        return {item_id: row for row, item_id in enumerate(self._item_ids)}

    @cached_property
    def _origin(self) -> Origin:
        """What every output is made from."""
        paths = self.run.directory
        used = (paths.items, paths.sids, paths.model_weights, paths.evidence, paths.config)
        files = paths.read_manifest().files
        digests = {path.name: files[path.name].sha256 for path in used if path.name in files}
        changes = Journal(paths, self.run.manifest).last_sequence
        return {"run": digest([digests, changes]), "options": digest(asdict(self.options))}

    def histories_of(self, user_ids: Sequence[str] | None) -> Histories:
        """Takes users of the run, with all events that it and its journal know of them.

        Args:
            user_ids: Their ids; None: all.

        Raises:
            InputError: Nobody has an id.
        """
        users = self._engine.user_ids if user_ids is None else user_ids
        parts = [
            np.array([self._row_of[item_id] for item_id in self._engine.history_of(user)], np.int32)
            for user in users
        ]
        offsets = np.cumsum([0, *map(len, parts)], dtype=np.int64)
        rows = np.concatenate([np.empty(0, dtype=np.int32), *parts])
        return Histories(tuple(users), rows, offsets)

    def origin_of(self, histories: Histories) -> Origin:
        """Says what the output of these histories is made from."""
        return self._origin | {
            "input": digest(
                [histories.user_ids, histories.rows.tolist(), histories.offsets.tolist()]
            )
        }

    def pending(self, shards: Sequence[Shard], overwrite: bool) -> Work:
        """Lists the shards that are still to be served.

        Args:
            shards: All of them.
            overwrite: Replace outputs that were made from something else.

        Raises:
            InputError: An input cannot be read, or an output is there that was made from something
                else.
        """
        every = [(shard, self._origin | {"input": sha256(shard.source)}) for shard in shards]
        return [
            (shard, origin)
            for shard, origin in every
            if not is_made_from(shard.output, origin, overwrite)
        ]

    def serve_shard(self, shard: Shard, origin: Origin, ticked: Ticked) -> Served:
        """Writes the recommendations of a shard.

        Args:
            shard: Its input and output.
            origin: What the output is made from; see `pending`.
            ticked: Is told of the progress.

        Raises:
            InputError: The input is wrong, or the output cannot be written.
        """
        histories, num_unknown = read_shard(shard.source, self._row_of, self.options.unknown)
        self.serve_users(histories, shard.output, origin, ticked)
        return Served(histories.num_users, num_unknown)

    def serve_users(
        self, histories: Histories, output: Path, origin: Origin, ticked: Ticked
    ) -> None:
        """Writes the recommendations of users whose histories are known."""
        write_shard(output, origin, self._recommended(histories, ticked))

    def _recommended(self, histories: Histories, ticked: Ticked) -> Iterator[Recommended]:
        options, num_users = self.options, histories.num_users
        allow = None if options.allow is None else "allow"
        ticked(0, num_users)
        for begin in range(0, num_users, _USERS_PER_CALL):
            users = range(begin, min(begin + _USERS_PER_CALL, num_users))
            rows, scores = self._engine.recommend_rows(
                [histories[user] for user in users],
                options.k,
                beam_width=options.beam_width,
                exact=options.exact,
                exclude_history=options.exclude_history,
                allow=allow,
                deny="deny",
            )
            found = [row[row >= 0] for row in rows]
            yield Recommended(
                [histories.user_ids[user] for user in users],
                [[self._item_ids[row] for row in one] for one in found],
                [one[: len(own)].tolist() for one, own in zip(scores, found, strict=True)],
                [[self._titles[row] for row in one] for one in found],
            )
            ticked(users.stop, num_users)


@contextlib.contextmanager
def output_folder(folder: Path | None) -> Iterator[None]:
    """Makes the folder of the output shards, and keeps it from other processes of this kind.

    Args:
        folder: The folder; None: there is one output, and nothing to do.

    Raises:
        InputError: It cannot be made or written, or another process writes there.
    """
    if folder is None:
        yield
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock.acquire(folder / ".lock", str(folder))
        for path in folder.iterdir():  # what a process left that was killed
            if is_temporary(path.name):
                path.unlink()
    except OSError as error:
        raise InputError(f"{folder}: cannot be written: {error.strerror}") from error
    try:
        yield
    finally:
        lock.release()
