"""Going on from a finished run: its vocabulary, SIDs and weights, with the data of today.

What the old weights were made with stays: sizes, text fields, codes. Items keep their rows and
SIDs, new ones come after them. The new run takes copies of all that it needs of the old one (into
`start/`), which may then be removed.
"""

import dataclasses
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from store_engine.config import Config, DataConfig, changes, read_config_tree, with_overrides
from store_engine.data.catalog import Catalog
from store_engine.data.histories import Histories
from store_engine.data.load import Dataset, load_dataset
from store_engine.data.report import DataReport
from store_engine.data.split import split_histories
from store_engine.errors import InputError
from store_engine.files.digest import text_sha256
from store_engine.files.json_file import write_json
from store_engine.runs.later_files import LaterFiles
from store_engine.runs.manifest import Lineage
from store_engine.runs.run import Run, load_run
from store_engine.runs.run_paths import RunPaths

_EPOCHS = 4  # a run that goes on has a quarter of the epochs, where nothing else is said
_KEPT_SECTIONS = ("model.", "tokenizer.")
_FREE = ("model.dropout", "model.dropout_places", "tokenizer.sids_file")
_KEPT = (
    *("data.text_fields", "data.max_text_tokens", "data.text_vocab_size", "data.strip_html"),
    *(f"recommender.{name}" for name in ("history", "decoder", "head_size", "skip", "tie_items")),
)


class NewData(NamedTuple):
    """What has come to the data since the old run.

    Args:
        items: A file of items that come to the old run's; None: none do.
        interactions: A file of events that come after the old run's; None: none do.
        journal: The events of the old run's journal come after its own.
    """

    items: str | None = None
    interactions: str | None = None
    journal: bool = False


class LaterChanges(NamedTuple):
    """What has changed in the old run since its training, by its journal.

    Args:
        events: User id and item id of each event, oldest first.
        removed: Ids of the items that were removed.
        forgotten: `text_sha256` of the ids of users who were forgotten.
        added: Ids of items that came, or whose text changed; its files lack that.
    """

    events: tuple[tuple[str, str], ...] = ()
    removed: tuple[str, ...] = ()
    forgotten: frozenset[str] = frozenset()
    added: tuple[str, ...] = ()


class DataPlace(NamedTuple):
    """Where a config's data are."""

    name: str
    path: str
    items: str
    interactions: str


class Parent:
    """A finished run that a new one goes on from.

    Args:
        run_dir: Its directory.
        new: What has come since, beside its own data. A config that names other data than the old
            one's, or the same again (`data.path`), stands for all data of today.
        changes: What its journal holds.

    Attributes:
        is_whole: The config names all data of today; told once there is one.

    Raises:
        InputError: It is no finished run.
    """

    def __init__(
        self, run_dir: str | Path, new: NewData, changes: LaterChanges | None = None
    ) -> None:
        self.run, self._new = load_run(run_dir), new
        self._changes = LaterChanges() if changes is None else changes
        self._removed: tuple[str, ...] = ()  # until the data were read
        self.is_whole = False  # until a config names its data
        self.root = self.run.directory.root.resolve()

    def config(self, paths: Sequence[str | Path], overrides: Sequence[str]) -> Config:
        """Makes the new run's config: the old one's, with what may be another.

        Args:
            paths: TOML files whose values count more than the old run's.
            overrides: `section.key=value`, which count most. Where neither states
                recommender.epochs, a run that was trained from the start is gone on from with a
                quarter of its epochs; later ones keep that number.

        Raises:
            InputError: A value is wrong, is one that the old weights depend on, or run_dir is the
                old run's.
        """
        old = self.run.config
        epochs = old.recommender.epochs
        if self.run.lineage is None:
            epochs = -(-epochs // _EPOCHS)
        config = with_overrides(
            old,
            [*(() if _states_epochs(paths) else (f"recommender.epochs={epochs}",)), *overrides],
            paths,
        )
        self.is_whole = _names_data(overrides) or _place(old.data) != _place(config.data)
        if self.is_whole and any(self._new):
            raise InputError(
                "--data names all data of today, --items, --interactions and --journal what has "
                "come to the old run's: one of the two is wanted"
            )
        if Path(config.run_dir).resolve() == self.root:
            raise InputError(
                f"{self.root}: a run goes on in a directory of its own: run_dir=PATH names it"
            )
        for change in changes(old, config):
            is_kept = change.key in _KEPT or change.key.startswith(_KEPT_SECTIONS)
            if is_kept and change.key not in _FREE:
                raise InputError(
                    f"{self.root}: its weights and SIDs were made with {change.key} = "
                    f"{change.old!r}, which --from must keep, got {change.new!r}"
                )
        return config

    def dataset(self, config: Config) -> Dataset:
        """Reads the data of today.

        Raises:
            InputError: They cannot be read, or nobody has enough events.
        """
        settings = config.data
        if settings.split == "temporal" and (self._new.interactions or self._new.journal):
            raise InputError(
                "data.split = 'temporal' cuts all events at one point in time: --data names all of "
                "today, --interactions and --journal have the new ones alone"
            )
        if self.is_whole:
            dataset = load_dataset(settings, self.run.catalog)
        else:
            dataset = self._with_new_data(settings)
        known = set(dataset.catalog.item_ids) - dataset.listed
        self._removed = tuple(filter(known.__contains__, self._changes.removed))
        return self._without_forgotten(dataset)

    def _with_new_data(self, settings: DataConfig) -> Dataset:
        """The old run's data and what has come since."""
        run, report, sources, listed = self.run, DataReport(), [], frozenset[str]()
        catalog, histories = run.catalog, run.histories
        files = LaterFiles(run, settings, report)
        if self._new.items:
            path = Path(self._new.items)
            found = files.items(path)
            catalog, listed = catalog.extended(found), frozenset(found.item_ids)
            sources.append(path)
        later = []
        if self._new.journal:
            later.append(_in_rows(self._changes.events, catalog, report))
        if self._new.interactions:
            path = Path(self._new.interactions)
            catalog, events = files.events(path, catalog, may_bring_items=True)
            later.append(events)
            sources.append(path)
        for events in later:
            histories = histories.followed_by(events)
        if later:
            is_kept = np.diff(histories.offsets) >= settings.min_events
            report.num_dropped_users, report.min_events = int((~is_kept).sum()), settings.min_events
            histories = histories.of_users(is_kept)
        return Dataset(catalog, histories, run.dataset, tuple(sources), report, listed)

    def _without_forgotten(self, dataset: Dataset) -> Dataset:
        """Leaves out users whom the old run was told to forget; who came back is in a new file."""
        forgotten, histories = self._changes.forgotten, dataset.histories
        if not forgotten or self._new.interactions:
            return dataset
        is_kept = np.array(
            [text_sha256(user_id) not in forgotten for user_id in histories.user_ids]
        )
        if is_kept.all():
            return dataset
        dataset.report.notes.append(
            f"left out {(~is_kept).sum():,} users whom {self.root} was told to forget"
        )
        return dataclasses.replace(dataset, histories=histories.of_users(is_kept))

    def lines(self, dataset: Dataset, config: Config) -> list[str]:
        """Says what is new, what is left aside, and whose test is none."""
        old, catalog, histories = self.run, dataset.catalog, dataset.histories
        lines, changes, journal = [], self._changes, self.run.directory.journal
        if changes.events and not self.is_whole and not self._new.journal:
            lines.append(
                f"{journal}: {len(changes.events):,} events since the training are not taken: "
                f"--journal takes them, --interactions those of a file"
            )
        if missing := [item_id for item_id in changes.added if item_id not in dataset.listed]:
            lines.append(
                f"{journal}: {len(missing):,} items that came or whose text changed are not taken: "
                f"`store-engine compact` makes them a part of the run"
            )
        if self._removed:
            lines.append(f"{len(self._removed):,} items that were removed stay removed")
        return [
            *lines,
            *_tested_on_old(self.run, dataset, config.data),
            f"goes on from {self.root}: {catalog.num_items - old.catalog.num_items:,} new items, "
            f"{histories.num_users - old.histories.num_users:+,} users, "
            f"{histories.num_events - old.histories.num_events:+,} events",
        ]

    def copy_into(self, paths: RunPaths) -> None:
        """Copies what the new run needs of this one."""
        own = self.run.directory
        paths.start.mkdir()
        copies = {
            own.tokenizer_weights: paths.tokenizer_weights,
            own.sids: paths.start_sids,
            own.model_weights: paths.start_weights,
        }
        if self.run.is_refitted:  # of whom validation is still unseen
            copies[own.training_weights] = paths.start_training_weights
        if self.run.has_scoring:
            copies[own.scoring_weights] = paths.start_scoring
        if self.run.training_evidence is not None:
            copies[own.training_evidence] = paths.start_evidence
        for source, target in copies.items():
            own.check(source)
            shutil.copyfile(source, target)
        if self._removed:
            write_json(paths.start_removed, {"item_ids": list(self._removed)})

    def lineage(self) -> Lineage:
        """What the new run's run.json says of this one."""
        run = self.run
        return Lineage(str(self.root), run.created, run.version, run.weights_digest)


def _names_data(overrides: Sequence[str]) -> bool:
    names = {override.partition("=")[0] for override in overrides}
    return not names.isdisjoint(f"data.{name}" for name in DataPlace._fields)


def _place(data: DataConfig) -> DataPlace:
    return DataPlace(data.name, data.path, data.items, data.interactions)


def _states_epochs(paths: Sequence[str | Path]) -> bool:
    sections = [read_config_tree(path).get("recommender") for path in paths]
    return any(isinstance(section, dict) and "epochs" in section for section in sections)


def _in_rows(events: Sequence[tuple[str, str]], catalog: Catalog, report: DataReport) -> Histories:
    """Events of ids as histories; those of items that the catalogue lacks are left out, counted."""
    row_of = {item_id: row for row, item_id in enumerate(catalog.item_ids)}
    by_user: dict[str, list[int]] = {}
    for user_id, item_id in events:
        if item_id in row_of:
            by_user.setdefault(user_id, []).append(row_of[item_id])
    rows = np.array([row for own in by_user.values() for row in own], dtype=np.int32)
    offsets = np.cumsum([0, *map(len, by_user.values())]).astype(np.int64)
    report.num_unknown += len(events) - len(rows)
    return Histories(tuple(by_user), rows, offsets)


def _tested_on_old(run: Run, dataset: Dataset, settings: DataConfig) -> list[str]:
    """Warns of users whose test may have been trained on."""
    if not run.histories.num_users:  # an imported run
        return []
    before, now = (
        dict(zip(one.user_ids, np.diff(one.offsets).tolist(), strict=True))
        for one in (run.split.before_test, split_histories(dataset.histories, settings).before_test)
    )
    fewer = sum(length < before.get(user_id, 0) for user_id, length in now.items())
    if not fewer:
        return []
    return [
        f"warning: {fewer:,} users have fewer events before the test than in "
        f"{run.directory.root}, whose training may have seen what they are tested on now"
    ]
