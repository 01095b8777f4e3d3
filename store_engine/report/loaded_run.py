"""What is there of a run, for a report: a finished one, or one that still trains."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from store_engine.config import Config, changes
from store_engine.errors import InputError
from store_engine.files.json_file import read_json
from store_engine.runs.manifest import Manifest
from store_engine.runs.run import Run
from store_engine.runs.run_directory import RunDirectory
from store_engine.terminal import printable
from store_engine.training.log import read_log

_MAX_TITLE = 140  # letters
_MAX_CHANGES = 3  # that a label names
_SEEDS = ("train.seed", "run_dir")
Built = TypeVar("Built")


@dataclass(frozen=True)
class LoadedRun:
    """A run whose files are read when they are first asked for.

    Args:
        directory: Where it is.
    """

    directory: RunDirectory

    @property
    def name(self) -> str:
        """The folder's name, to print."""
        return printable(self.directory.root.resolve().name)

    @cached_property
    def manifest(self) -> Manifest:
        """What run.json says."""
        return self.directory.read_manifest()

    @cached_property
    def config(self) -> Config:
        """Its settings."""
        return self.directory.read_config(self.manifest)

    @cached_property
    def run(self) -> Run:
        """Its parts."""
        return Run(self.directory)

    @cached_property
    def log(self) -> list[dict[str, Any]]:
        """The entries of its log, none if there is no log."""
        return read_log(self.directory.log)

    @cached_property
    def metrics(self) -> dict[str, Any] | None:
        """What metrics.json says, None before the run was measured."""
        if not self.has(self.directory.metrics):
            return None
        self.directory.check(self.directory.metrics, self.manifest)
        return read_json(self.directory.metrics)

    @cached_property
    def titles(self) -> tuple[str, ...]:
        """The title of every item, or its id where it has none: one line, not too long."""
        catalog = self.run.catalog
        texts = next(iter(catalog.fields.values()))
        return tuple(
            shortened(text) or shortened(item_id)
            for text, item_id in zip(texts, catalog.item_ids, strict=True)
        )

    def has(self, path: Path) -> bool:
        """Whether a file is part of the run and there."""
        is_listed = path.name in self.manifest.files
        if self.manifest.format == 1:  # which lists none
            is_listed = True
        return is_listed and os.path.exists(path)

    def read_metrics(self, build: Callable[[dict[str, Any]], Built]) -> Built | None:
        """Builds something from metrics.json, None where there is none.

        Raises:
            InputError: It is not what an evaluation writes.
        """
        if self.metrics is None:
            return None
        try:
            return build(self.metrics)
        except (KeyError, TypeError, AttributeError, IndexError, ValueError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(
                f"{self.directory.metrics}: not what an evaluation of this version writes "
                f"({type(error).__name__}: {error}); `store-engine evaluate --save` makes it again"
            ) from error


@dataclass(frozen=True)
class Group:
    """Runs with the same settings but for the seed, measured on the same users.

    Args:
        label: What tells them from the first group.
        runs: At least one.
        other_users: Whom they were measured on, where these are others than the first group's or
            have other events; else "".
    """

    label: str
    runs: list[LoadedRun]
    other_users: str = ""


def load(run_dir: Path) -> LoadedRun:
    """Opens a run.

    Raises:
        InputError: It is missing or of another format.
    """
    return LoadedRun(RunDirectory.open(run_dir))


def group_by_settings(run: LoadedRun, others: Sequence[LoadedRun]) -> list[Group]:
    """Puts runs together that differ by their seed alone; the first group is that of `run`.

    A run that went on from another one has newer events, and so have the users it is measured on.
    Such runs are shown beside each other, never as one, and say so.

    Args:
        run: What the report is about.
        others: Runs to compare with.

    Raises:
        InputError: A run was not measured, or on another data set or split.
    """
    groups: dict[tuple[str, ...], Group] = {}
    roots: set[Path] = set()
    for one in (run, *others):
        if one is not run:
            _check_comparable(run, one)
        root = one.directory.root.resolve()
        if root in roots:
            continue
        roots.add(root)
        found = tuple(
            f"{change.key} = {change.new}"
            for change in changes(run.config, one.config)
            if change.key not in _SEEDS
        )
        other_users = "" if one is run else _other_users(run, one)
        label = "this run" if not found else printable(_in_words(found))
        if other_users:
            label = f"{'the same settings' if not found else label}, on {other_users}"
        key = (*found, *(_measured_on(one) if other_users else ()))
        groups.setdefault(key, Group(label, [], other_users)).runs.append(one)
    return list(groups.values())


def shortened(text: str, length: int = _MAX_TITLE) -> str:
    """Returns text on one line without control characters, cut where it is long."""
    text = printable(text).strip()
    return text if len(text) <= length else text[: length - 1].rstrip() + "…"


def _in_words(found: Sequence[str]) -> str:
    more = len(found) - _MAX_CHANGES
    words = [shortened(one, 60) for one in found[:_MAX_CHANGES]]
    return ", ".join(words) + (f" and {more} more" if more > 0 else "")


def _check_comparable(run: LoadedRun, other: LoadedRun) -> None:
    path = other.directory.root
    if run.metrics is None or other.metrics is None:
        missing = run if run.metrics is None else other
        raise InputError(
            f"{missing.directory.root}: cannot be compared: it was not measured (no metrics.json)"
        )
    for key in ("dataset", "protocol"):
        ours, theirs = run.metrics.get(key), other.metrics.get(key)
        if ours != theirs:
            raise InputError(f"{path}: cannot be compared: its {key} is {theirs}, not {ours}")


def _measured_on(run: LoadedRun) -> tuple[str, str, str]:
    """Number of users, number of items, and digest of the histories ("": not known)."""
    metrics, entry = run.metrics or {}, run.manifest.files.get("histories.npz")
    users, items = (str(metrics.get(key)) for key in ("num_users", "num_items"))
    return users, items, "" if entry is None else entry.sha256


def _other_users(run: LoadedRun, other: LoadedRun) -> str:
    """Whom another run was measured on, "" if on the same users, events and items."""
    *ours, our_histories = _measured_on(run)
    *theirs, their_histories = _measured_on(other)
    is_known = bool(our_histories and their_histories)
    if ours == theirs and (our_histories == their_histories or not is_known):
        return ""
    users, items = theirs
    whom = f"{users} users" if users != ours[0] else f"other events of {users} users"
    return printable(f"{whom} and {items} items")
