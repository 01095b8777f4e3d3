"""Stage 2's weights of a run that goes on from another: the old ones, where they now belong.

Codes and items stand in tables: a suffix level that grew moves what comes behind it, and an item's
row is its place in the order of SIDs, which new items change.
"""

import numpy as np
import torch
from torch import Tensor

from store_engine.config import Config
from store_engine.model.transformer import INIT_STD
from store_engine.model.weights import read_weights
from store_engine.runs.run_paths import RunPaths
from store_engine.sid.item_features import ItemVectors
from store_engine.sid.item_tokens import code_sizes, slot_order
from store_engine.sid.sid_table import SidTable

_CODE_TABLES = ("code_embedding.weight", "code_head.weight")
_RESIDUALS = ("item_rows.residual", "item_rows.written_residual")


def warm_weights(
    config: Config,
    run: RunPaths,
    tables: tuple[SidTable, SidTable],
    num_labels: int = 0,
    new_items: ItemVectors | None = None,
    *,
    with_validation: bool = True,
) -> dict[str, Tensor]:
    """Reads the trained recommender's weights and moves them to a catalogue with more items.

    Args:
        config: The run's config.
        run: The run, with the old one's weights in `start/`.
        tables: SIDs of the old run's items, and of all items now, those first.
        num_labels: Codes behind those of the items, which the tasks need for themselves.
        new_items: What describes the new items, where items have rows; else None.
        with_validation: Take the weights that have seen the old run's validation events; else, of
            a run that was refitted, those that have not.

    Returns:
        Tensors by the names of `StoreModel`. New items have no residual: their rows are what their
        text says.
    """
    before, now = tables
    is_older = not with_validation and run.start_training_weights.exists()
    old = read_weights(run.start_training_weights if is_older else run.start_weights)
    labels: dict[str, Tensor] = {}
    if num_labels and run.start_scoring.exists():
        labels = read_weights(run.start_scoring)
    generator = torch.Generator().manual_seed(config.train.seed)
    weights = dict(old)
    for name in _CODE_TABLES:
        levels = [*old[name].split(list(code_sizes(before)))]
        for level, size in enumerate(code_sizes(now)):
            levels[level] = _grown(levels[level], size, generator)
        own = labels.get(name, old[name][:0])
        weights[name] = torch.cat([*levels, _grown(own, num_labels, generator)])
    if new_items is None:
        return weights
    places = torch.from_numpy(slot_order(now.sids))  # the row of every slot
    slots = torch.from_numpy(np.argsort(slot_order(before.sids)))  # the slot of every old row
    rows = {"item_rows.features": torch.from_numpy(new_items.features)}
    for name in filter(old.__contains__, _RESIDUALS):
        rows[name] = torch.zeros(len(new_items.features), old[name].shape[1])
    for name, new in rows.items():
        weights[name] = torch.cat([old[name][slots], new])[places]
    return weights


def _grown(rows: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """Adds rows as random and as far apart as those there are."""
    missing = size - len(rows)
    if missing <= 0:
        return rows
    centre, spread = torch.zeros(rows.shape[1]), INIT_STD
    if len(rows) > 1:
        centre = rows.mean(0)
        spread = float((rows - centre).std())
    return torch.cat(
        [rows, centre + spread * torch.randn(missing, rows.shape[1], generator=generator)]
    )
