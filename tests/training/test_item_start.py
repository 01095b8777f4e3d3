"""What items start from: before any training, the model recommends what is near the last item."""

from pathlib import Path

import numpy as np
import pytest
import torch

from store_engine.config import Config, ModelConfig, RecommenderConfig, load_config
from store_engine.data.load import load_dataset
from store_engine.data.split import Examples, leave_one_out
from store_engine.decoding.engine import Engine
from store_engine.evaluation.baselines import popularity
from store_engine.evaluation.evaluate_run import rank_all
from store_engine.evaluation.metrics import ranking_metrics
from store_engine.sid.item_features import ItemVectors, fit_features
from store_engine.sid.item_tokens import recommender_model, slot_order
from store_engine.sid.sid_table import SidTable
from store_engine.training.discretise import discretise
from store_engine.training.item_start import fit_to, item_weights

BEAUTY = Path(__file__).parents[2].parent / "shared" / "data" / "beauty"
SIDS = np.array([[1, 0], [0, 0], [1, 1], [0, 1], [0, 2]], dtype=np.int32)


def tiny_start(**recommender):
    rng = np.random.default_rng(0)
    dense_tokens = rng.standard_normal((5, 2, 3)).astype(np.float32)
    features = fit_features(dense_tokens, 4)
    space = rng.standard_normal((5, 6)).astype(np.float32)
    table = SidTable(SIDS, (2, 4), tuple("abcde"), features=features)
    config = Config(model=ModelConfig(hidden_size=8), recommender=RecommenderConfig(**recommender))
    weights = item_weights(config, table, ItemVectors(space, features(dense_tokens)), 2)
    return config, table, space, weights


@pytest.mark.parametrize("tie_items", [True, False])
def test_rows_start_as_the_space(tie_items):
    config, table, space, weights = tiny_start(tie_items=tie_items)
    model = recommender_model(config, 10, table)
    loaded = model.load_state_dict(
        {name: tensor for name, tensor in weights.items() if not name.startswith("code")},
        strict=False,
    )
    assert not loaded.unexpected_keys
    rows = model.item_rows()
    want = torch.from_numpy(fit_to(space, 8)[slot_order(SIDS)])
    torch.testing.assert_close(rows.read, want, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(rows.written, want, atol=1e-5, rtol=1e-5)


def test_codes_start_in_the_middle_of_their_items():
    _, _, space, weights = tiny_start()
    head = weights["code_head.weight"]
    assert head.shape == (2 + 2, 8)  # and two labels
    for code in (0, 1):
        own = torch.from_numpy(space[SIDS[:, 0] == code])
        torch.testing.assert_close(
            torch.nn.functional.normalize(head[code, :6], dim=0),
            torch.nn.functional.normalize(own.sum(0), dim=0),
        )
        torch.testing.assert_close(head[code].norm(), own.norm(dim=1).mean())
    torch.testing.assert_close(weights["code_embedding.weight"], head)


def test_an_item_that_is_one_position_starts_as_its_row():
    *_, weights = tiny_start(history="items", decoder="heads")
    assert not weights["code_embedding.weight"][:2].any()


def test_a_random_start_has_features_alone():
    *_, weights = tiny_start(init_codes="normal")
    assert list(weights) == ["item_rows.features"]


@pytest.mark.parametrize("size", [3, 6, 9])
def test_vectors_are_brought_to_the_models_size(size):
    vectors = np.random.default_rng(0).standard_normal((50, 6)).astype(np.float32)
    got = fit_to(vectors, size)
    assert got.shape == (50, size)
    if size >= 6:
        np.testing.assert_allclose(got @ got.T, vectors @ vectors.T, atol=1e-4)


@pytest.mark.skipif(not BEAUTY.is_dir(), reason=f"{BEAUTY} is not there")
@pytest.mark.timeout(300)
def test_the_untrained_model_beats_popularity_on_beauty():
    config = load_config(
        ["configs/beauty.toml", "configs/presets/ours.toml"], [f"data.path={BEAUTY}"]
    )
    dataset = load_dataset(config.data)
    catalog, split = dataset.catalog, leave_one_out(dataset.histories)
    torch.manual_seed(0)
    # features are what a trained tokenizer says; the start must not depend on them
    dense_tokens = np.random.default_rng(0).standard_normal((catalog.num_items, 2, 8))
    found = discretise(dense_tokens.astype(np.float32), catalog, split, config)
    model = recommender_model(config, 300, found.table)
    weights = item_weights(config, found.table, found.vectors)
    model.load_state_dict(weights, strict=False)
    engine = Engine(model, catalog, found.table.sids, bos=1, config=config.decoding)
    users = np.random.default_rng(0).choice(len(split.test.targets), 1000, replace=False)
    examples = Examples([split.test.histories[u] for u in users], split.test.targets[users])
    ours = rank_all(engine, examples, 10, exclude_history=True)
    popular = popularity(
        split.train, catalog.num_items, examples.histories, 10, exclude_history=True
    )
    recalls = [ranking_metrics(r, examples.targets, (10,))["recall@10"] for r in (ours, popular)]
    assert recalls[0] > 4 * recalls[1]  # .06 and .01
