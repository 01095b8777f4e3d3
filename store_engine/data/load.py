"""The data set that a config names."""

import os
from dataclasses import dataclass, field
from pathlib import Path

from store_engine.config import DataConfig
from store_engine.data.catalog import Catalog
from store_engine.data.histories import Histories
from store_engine.data.movielens import FILES, find_ml100k
from store_engine.data.readers import EventColumns, EventRules, read_interactions, read_items
from store_engine.data.report import DataReport
from store_engine.data.synthetic import synthetic
from store_engine.errors import InputError


@dataclass(frozen=True)
class Dataset:
    """What there is to recommend, and who did what.

    Args:
        catalog: The items.
        histories: The users that were kept.
        name: How results name it: for the user's own files the name of their folder.
        sources: The files it was read from.
        report: What reading found.
        listed: Ids in the file of items, where the catalogue also has those of an earlier run.
    """

    catalog: Catalog
    histories: Histories
    name: str
    sources: tuple[Path, ...] = ()
    report: DataReport = field(default_factory=DataReport)
    listed: frozenset[str] = frozenset()

    @property
    def num_dropped_users(self) -> int:
        """Users with fewer than min_events events."""
        return self.report.num_dropped_users


def load_dataset(config: DataConfig, known: Catalog | None = None) -> Dataset:
    """Reads, fetches or draws the data set.

    Args:
        config: What to read.
        known: Items of an earlier run, which keep their rows; the file's new ones come after them.

    Raises:
        InputError: What the config names is missing or malformed.
    """
    if config.name == "synthetic":
        if known is not None:
            raise InputError("a drawn data set (data.name = 'synthetic') has no later state")
        sizes = (config.num_items, config.num_users, config.num_topics)
        catalog, histories = synthetic(*sizes, config.seed)
        report = DataReport(catalog.num_items, histories.num_events, histories.num_users)
        return Dataset(catalog, histories, config.name, report=report)
    if config.name == "ml-100k":
        folder = find_ml100k(config.path)
        interactions, items = (folder / name for name in FILES)
    else:
        # an absolute file name stands for itself
        interactions = Path(config.path) / config.interactions
        items = Path(config.path) / config.items
    report = DataReport()
    catalog = read_items(
        items, config.item_id, config.text_fields, report, strip_html=config.strip_html
    )
    listed = frozenset(catalog.item_ids) if known is not None else frozenset[str]()
    catalog = catalog if known is None else known.extended(catalog)
    columns, rules = EventColumns.of(config), EventRules.of(config)
    histories, _ = read_interactions(interactions, catalog, columns, rules, report)
    name = config.name if config.name != "files" else _folder_name(items)
    return Dataset(catalog, histories, name, (items, interactions), report, listed)


def _folder_name(file: Path) -> str:
    """The name of a file's folder as the user wrote it: a link keeps its own name."""
    return Path(os.path.abspath(file)).parent.name or "files"
