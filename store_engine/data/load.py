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


@dataclass(frozen=True)
class Dataset:
    """What there is to recommend, and who did what.

    Args:
        catalog: The items.
        histories: The users that were kept.
        name: How results name it: for the user's own files the name of their folder.
        sources: The files it was read from.
        report: What reading found.
    """

    catalog: Catalog
    histories: Histories
    name: str
    sources: tuple[Path, ...] = ()
    report: DataReport = field(default_factory=DataReport)

    @property
    def num_dropped_users(self) -> int:
        """Users with fewer than min_events events."""
        return self.report.num_dropped_users


def load_dataset(config: DataConfig) -> Dataset:
    """Reads, fetches or draws the data set.

    Raises:
        InputError: What the config names is missing or malformed.
    """
    if config.name == "synthetic":
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
    columns = EventColumns(config.user_id, config.item_id, config.timestamp)
    rules = EventRules(config.min_events, config.ties, config.seed)
    histories, _ = read_interactions(interactions, catalog, columns, rules, report)
    name = config.name if config.name != "files" else _folder_name(items)
    return Dataset(catalog, histories, name, (items, interactions), report)


def _folder_name(file: Path) -> str:
    """The name of a file's folder as the user wrote it: a link keeps its own name."""
    return Path(os.path.abspath(file)).parent.name or "files"
