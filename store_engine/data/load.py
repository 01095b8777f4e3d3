"""The data set that a config names."""

from dataclasses import dataclass
from pathlib import Path

from store_engine.config import DataConfig
from store_engine.data.catalog import Catalog
from store_engine.data.histories import Histories
from store_engine.data.movielens import FILES, find_ml100k
from store_engine.data.readers import EventColumns, read_interactions, read_items
from store_engine.data.synthetic import synthetic


@dataclass(frozen=True)
class Dataset:
    """What there is to recommend, and who did what.

    Args:
        catalog: The items.
        histories: The users that were kept.
        num_dropped_users: Users with fewer than min_events events.
        name: How results name it.
        sources: The files it was read from.
    """

    catalog: Catalog
    histories: Histories
    num_dropped_users: int
    name: str
    sources: tuple[Path, ...] = ()


def load_dataset(config: DataConfig) -> Dataset:
    """Reads, fetches or draws the data set.

    Raises:
        InputError: What the config names is missing or malformed.
    """
    if config.name == "synthetic":
        sizes = (config.num_items, config.num_users, config.num_topics)
        return Dataset(*synthetic(*sizes, config.seed), 0, config.name)
    if config.name == "ml-100k":
        folder = find_ml100k(config.path)
        interactions, items = (folder / name for name in FILES)
    else:
        # an absolute file name stands for itself
        interactions = Path(config.path) / config.interactions
        items = Path(config.path) / config.items
    catalog = read_items(items, config.item_id, config.text_fields)
    columns = EventColumns(config.user_id, config.item_id, config.timestamp)
    histories, num_dropped_users = read_interactions(
        interactions, catalog, columns, config.min_events, config.ties, config.seed
    )
    name = config.name if config.name != "files" else items.resolve().parent.name
    return Dataset(catalog, histories, num_dropped_users, name, (items, interactions))
