"""Items get their SIDs: codes of the user's own, with the item itself behind them."""

import dataclasses

import numpy as np
import pytest

from store_engine.config import Config, TokenizerConfig
from store_engine.data.catalog import Catalog
from store_engine.data.histories import Histories
from store_engine.data.split import leave_one_out
from store_engine.sid.clusters import prefix_centres
from store_engine.training.discretise import discretise

NUM_ITEMS = 24
CATALOG = Catalog(
    tuple(f"i{n}" for n in range(NUM_ITEMS)), {"title": tuple(f"t{n}" for n in range(NUM_ITEMS))}
)
ROWS = np.random.default_rng(0).integers(0, NUM_ITEMS, 200).astype(np.int32)
SPLIT = leave_one_out(Histories(tuple(map(str, range(20))), ROWS, np.arange(0, 201, 10)))
DENSE = np.random.default_rng(1).standard_normal((NUM_ITEMS, 2, 8)).astype(np.float32)


def config_of(folder, **settings):
    tokenizer = TokenizerConfig(num_codes=2, codebook_size=6, last_level="item", **settings)
    config = Config(tokenizer=tokenizer)
    model = dataclasses.replace(config.model, hidden_size=8)
    data = dataclasses.replace(config.data, path=str(folder))
    return dataclasses.replace(config, model=model, data=data)


@pytest.mark.parametrize("space", ["collaborative", "dense_tokens"])
def test_codes_of_a_file_are_the_levels_above_the_item(tmp_path, space):
    codes = [(n % 5, n // 12) for n in range(NUM_ITEMS)]
    lines = "".join(f"i{n},{a},{b}\n" for n, (a, b) in enumerate(codes))
    (tmp_path / "own.csv").write_text("item_id,code_0,code_1\n" + lines)
    found = discretise(DENSE, CATALOG, SPLIT, config_of(tmp_path, space=space, sids_file="own.csv"))
    table, want = found.table, discretise(DENSE, CATALOG, SPLIT, config_of(tmp_path, space=space))
    assert list(map(tuple, table.sids[:, :2].tolist())) == codes
    assert len(np.unique(table.sids, axis=0)) == NUM_ITEMS
    assert table.codebook_sizes == (6, 6, 8)
    # the file says nothing of what items' rows start from and new items are found by
    np.testing.assert_array_equal(found.vectors.space, want.vectors.space)
    np.testing.assert_array_equal(found.vectors.features, want.vectors.features)
    prefixes, centres = prefix_centres(found.vectors.features, table.sids)
    np.testing.assert_array_equal(table.quantizer.prefixes, prefixes)
    np.testing.assert_array_equal(table.quantizer.centres, centres)
