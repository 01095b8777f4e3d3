import numpy as np
import pytest

from store_engine.config import DecodingConfig, ModelConfig
from store_engine.data.catalog import Catalog
from store_engine.data.split import Examples
from store_engine.decoding.engine import Engine
from store_engine.evaluation.evaluate_run import rank_all, training_summary
from store_engine.evaluation.metrics import ranking_metrics
from store_engine.model.store_model import StoreModel

NUM_ITEMS = 12


def engine(sids):
    config = ModelConfig(
        hidden_size=16,
        num_layers=1,
        num_heads=2,
        num_kv_heads=1,
        head_dim=8,
        intermediate_size=16,
        dropout=0.0,
    )
    catalog = Catalog(tuple(map(str, range(NUM_ITEMS))), {"title": ("",) * NUM_ITEMS})
    model = StoreModel(config, 5, tuple((sids.max(0) + 1).tolist()))
    return Engine(model, catalog, sids, bos=1, config=DecodingConfig(beam_width=20))


def ask(num_users):
    """Every user's target is item 0."""
    history = np.array([3], dtype=np.int32)
    return Examples([history] * num_users, np.zeros(num_users, dtype=np.int32))


def test_a_hit_on_a_shared_sid_counts_for_one_item_of_its_group():
    sids = np.arange(NUM_ITEMS, dtype=np.int32)[:, None] // 4  # groups of four
    examples = ask(4000)
    rankings = rank_all(engine(sids), examples, k=12, exact=False)
    assert (np.sort(rankings, axis=1) == np.arange(NUM_ITEMS)).all()
    rank = np.argmax(rankings == 0, axis=1)
    first = rank.min()
    assert set(rank) == set(range(first, first + 4))
    share = ranking_metrics(rankings[:, first : first + 1], examples.targets, (1,))["recall@1"]
    assert share == pytest.approx(1 / 4, abs=0.03)


def test_items_with_a_sid_of_their_own_keep_the_engines_order():
    sids = np.arange(NUM_ITEMS, dtype=np.int32)[:, None]
    recommender = engine(sids)
    examples = ask(3)
    want = recommender.recommend_rows(examples.histories, 5)[0]
    assert np.array_equal(rank_all(recommender, examples, k=5, exact=False), want)


def test_summary_weights_the_throughput_by_time(tmp_path):
    log = tmp_path / "train_log.jsonl"
    log.write_text(
        '{"stage": "tokenizer", "step": 1, "loss": 2.0, "tokens_per_s": 10.0, "wall_s": 1.0}\n'
        '{"stage": "tokenizer", "step": 2, "loss": 1.0, "tokens_per_s": 40.0, "wall_s": 3.0}\n'
    )
    want = {"num_steps": 2, "wall_s": 4.0, "tokens_per_s": 32.5, "final_loss": 1.0}
    assert training_summary(log) == {"tokenizer": want}
