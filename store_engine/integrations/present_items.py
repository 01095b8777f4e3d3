"""The items of a run that are there: what its journal says is removed does not leave the house."""

import dataclasses
from typing import NamedTuple

import numpy as np
import torch

from store_engine._C import ItemTrie
from store_engine.collaborative.evidence import Evidence
from store_engine.data.catalog import Catalog
from store_engine.errors import InputError
from store_engine.live.changes import ItemsAdded, ItemsRemoved
from store_engine.live.journal import Journal
from store_engine.model.store_model import StoreModel
from store_engine.runs.run import Run
from store_engine.sid.item_tokens import recommender_model, slot_order
from store_engine.sid.sid_table import SidTable


class PresentItems(NamedTuple):
    """The parts of a run that know items."""

    catalog: Catalog
    table: SidTable
    trie: ItemTrie
    model: StoreModel
    evidence: Evidence | None  # what the run recommends with


def present_items(run: Run) -> PresentItems:
    """Reads the parts of a run without the items that were removed from it.

    Args:
        run: A finished run.

    Raises:
        InputError: Its journal has items or texts that its files have not, or cannot be read.
    """
    removed = _removed(run)
    catalog, table, model, evidence = run.catalog, run.sid_table, run.model, run.evidence_now
    if not removed:
        return PresentItems(catalog, table, run.trie, model, evidence)
    is_there = np.array([item_id not in removed for item_id in catalog.item_ids])
    rows = np.flatnonzero(is_there).tolist()
    left = dataclasses.replace(
        table, sids=table.sids[rows], item_ids=tuple(catalog.item_ids[row] for row in rows)
    )
    return PresentItems(
        catalog.take(rows),
        left,
        ItemTrie(left.sids, list(left.codebook_sizes)),
        _model_of(run, left, is_there[slot_order(table.sids)]),
        None if evidence is None else evidence.of_items(is_there),
    )


def _removed(run: Run) -> set[str]:
    """Ids of the items that were removed."""
    removed: set[str] = set()
    journal = Journal(run.directory, run.manifest)
    try:
        for change in journal.changes():
            if isinstance(change.what, ItemsAdded):
                raise InputError(
                    f"{journal.path}: has items or texts that came after the training; "
                    f"`store-engine compact` makes them a part of the run, then it can be exported"
                )
            if isinstance(change.what, ItemsRemoved):
                removed.update(change.what.item_ids)
    finally:
        journal.close()
    return removed


@torch.no_grad()
def _model_of(run: Run, left: SidTable, is_left: np.ndarray) -> StoreModel:
    """The recommender of fewer items; `is_left` tells of every slot whether its item is there."""
    model = recommender_model(run.config, len(run.vocabulary), left)
    weights = dict(run.model.named_parameters())
    kept = torch.from_numpy(np.flatnonzero(is_left))
    for name, parameter in model.named_parameters():
        weight = weights[name]
        parameter.copy_(weight if weight.shape == parameter.shape else weight[kept])
    return model.eval().requires_grad_(False)
