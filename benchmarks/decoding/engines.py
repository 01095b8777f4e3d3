"""Engines with random weights and catalogues, and requests to them."""

import numpy as np
import torch

from benchmarks.decoding.cases import SHAPES, Case, Dtype
from store_engine.config import DecodingConfig
from store_engine.data.catalog import Catalog
from store_engine.decoding.engine import Engine
from store_engine.model.item_rows import ItemTokens
from store_engine.model.store_model import StoreModel
from store_engine.sid.item_tokens import slot_order

BOS = 1
NUM_FEATURES, HEAD_SIZE, NUM_CLUSTERS = 64, 128, 128


def random_engine(case: Case, device: str, dtype: Dtype) -> Engine:
    """A random catalogue, and a random model that is not indifferent."""
    shape, catalog = SHAPES[case.model], case.catalog
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    sizes = (catalog.codebook_size,) * catalog.num_levels
    sids = rng.integers(0, sizes[0], (catalog.num_items, len(sizes)), dtype=np.int32)
    if case.form == "items":
        labels = np.sort(rng.integers(0, NUM_CLUSTERS, catalog.num_items))
        index = np.arange(catalog.num_items) - np.searchsorted(labels, labels)
        sids = rng.permutation(np.column_stack([labels, index]).astype(np.int32))
        sizes = (NUM_CLUSTERS,)
    items = None
    if case.form != "codes":
        codes = sids[slot_order(sids)][:, : len(sizes)]
        is_whole = case.form == "items"
        items = ItemTokens(codes, NUM_FEATURES * is_whole, is_whole, HEAD_SIZE)
    model = StoreModel(shape.config, shape.text_vocab_size, sizes, items=items)
    torch.nn.init.normal_(model.code_head.weight, std=0.1)
    if model.item_rows is not None:
        torch.nn.init.normal_(model.item_rows.residual, std=0.1)
    ids = tuple(map(str, range(len(sids))))
    config = DecodingConfig(normalize=case.normalize, prefix_cache_mib=0)
    model = model.to(device, getattr(torch, dtype))
    return Engine(model, Catalog(ids, {"title": ids}), sids, bos=BOS, config=config)


def random_histories(engine: Engine, case: Case) -> list[list[int]]:
    """Catalogue rows of each request."""
    rng = np.random.default_rng(1)
    low, high = case.history
    lengths = rng.integers(low, high + 1, case.batch)
    return [rng.integers(0, engine.catalog.num_items, n).tolist() for n in lengths]
