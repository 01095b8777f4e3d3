"""The map of the items where a run has no vectors but the trained ones."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from item_engines import FORMS, NUM_ITEMS, ItemCase, catalog_of

from store_engine.config import RecommenderConfig
from store_engine.report.item_map import item_map


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_every_form_of_a_run_has_a_map(form):
    _, history, decoder, skip = form
    case = ItemCase(*form)
    features = SimpleNamespace(num_features=6) if case.has_rows else None
    table = SimpleNamespace(sids=case.sids, codebook_sizes=case.sizes, features=features)
    run = SimpleNamespace(
        config=SimpleNamespace(
            recommender=RecommenderConfig(history=history, decoder=decoder, skip=skip)
        ),
        model=case.model,
        sid_table=table,
        catalog=catalog_of(NUM_ITEMS),
        histories=SimpleNamespace(rows=np.arange(NUM_ITEMS)),
    )
    loaded = SimpleNamespace(
        run=run,
        directory=SimpleNamespace(item_vectors=None),
        has=lambda path: False,
        titles=[f"title {row}" for row in range(NUM_ITEMS)],
    )
    drawn = item_map(loaded)
    assert drawn.num_shown == NUM_ITEMS
    places = set(zip(drawn.points["x"], drawn.points["y"], strict=True))
    embedded = torch.stack(
        [case.model.embed(torch.tensor(case.read(row))).sum(0) for row in range(NUM_ITEMS)]
    )
    assert len(places) > 0.9 * len(embedded.round(decimals=5).unique(dim=0))
    assert len(places) > 1
