"""A run measured: rankings, overrides, and what metrics.json holds."""

import dataclasses
import datetime
import json

import numpy as np
import pytest

import store_engine
from store_engine.config import DecodingConfig, ModelConfig, load_config
from store_engine.data.catalog import Catalog
from store_engine.data.histories import Histories
from store_engine.data.split import Examples
from store_engine.decoding.engine import Engine
from store_engine.errors import InputError
from store_engine.evaluation import evaluate_run as module
from store_engine.evaluation.evaluate_run import evaluate_run, rank_all, training_summary
from store_engine.evaluation.metrics import ranking_metrics
from store_engine.model.store_model import StoreModel
from store_engine.runs.run import load_run
from store_engine.runs.run_directory import RunDirectory

NUM_ITEMS = 12
TRAINING_FREE = {"popularity", "co_visitation", "co_visitation_updated"}


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


def with_histories(run_dir, sequences):
    """The run with other histories."""
    users = tuple(f"u{user}" for user in range(len(sequences)))
    offsets = np.cumsum([0, *map(len, sequences)])
    rows = np.concatenate(sequences).astype(np.int32)
    with RunDirectory.open_to_write(run_dir) as run, run.writing(run.histories):
        Histories(users, rows, offsets).save(run.histories)
    return run_dir


@pytest.fixture
def measured_run(run_dir):
    """A run with random weights and histories of 30 users, half of whom choose an item again."""
    return with_histories(run_dir, [[u, u + 1, u + 2, u if u % 2 else u + 3] for u in range(30)])


def test_what_metrics_json_holds(measured_run):
    before = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
    metrics = evaluate_run(measured_run)
    assert json.loads(json.dumps(metrics, allow_nan=False)) == json.loads(json.dumps(metrics))
    assert metrics["version"] == store_engine.__version__
    assert datetime.datetime.fromisoformat(metrics["date"]) >= before
    assert metrics["num_users"] == 30
    assert metrics["num_items"] == 60
    assert metrics["share_of_targets_seen"] == 0.5
    assert metrics["decoding"] == "beam 30, float32, no prefix cache"
    assert metrics["config"] == dataclasses.asdict(load_config(measured_run / "config.toml"))
    assert set(metrics["protocols"]) == {"seen_left_out", "seen_allowed"}
    allowed, left_out = metrics["protocols"]["seen_allowed"], metrics["protocols"]["seen_left_out"]
    assert set(allowed["baselines"]) == {*TRAINING_FREE, "own_items"}
    assert set(left_out["baselines"]) == TRAINING_FREE
    # the run's config allows seen items, so that readers of old files get this protocol
    assert metrics["primary"] == "seen_allowed"
    for key, value in allowed.items():
        assert metrics[key] == value, key


def test_an_override_changes_the_primary_protocol_and_the_search(measured_run):
    overrides = ["decoding.exclude_history=true", "decoding.beam_width=40", "eval.max_k=35"]
    metrics = evaluate_run(measured_run, overrides=overrides)
    assert metrics["primary"] == "seen_left_out"
    assert metrics["decoding"].startswith("beam 40,")
    assert metrics["metrics"]["recall@35"] >= metrics["metrics"]["recall@20"]
    assert metrics["metrics"] == metrics["protocols"]["seen_left_out"]["metrics"]
    assert metrics["config"]["decoding"]["beam_width"] == 40
    plain = evaluate_run(measured_run)["protocols"]
    left_out = metrics["protocols"]["seen_left_out"]["baselines"]["popularity"]
    for key, value in plain["seen_left_out"]["baselines"]["popularity"].items():
        assert left_out[key] == (pytest.approx(value, abs=0.05) if key == "mrr" else value)


def test_where_users_alternate_between_two_items_every_provider_obeys_one_rule(run_dir):
    """The model's weights are random; what counts is who may rank the targets, all seen before."""
    alternating = [[(u + step % 2) % 20 for step in range(8)] for u in range(80)]
    with_histories(run_dir, alternating)
    metrics = evaluate_run(run_dir)
    assert metrics["share_of_targets_seen"] == 1.0
    left_out, allowed = (metrics["protocols"][n] for n in ("seen_left_out", "seen_allowed"))
    for values in (left_out["metrics"], *left_out["baselines"].values()):
        assert values["recall@20"] == 0.0
    assert allowed["metrics"]["recall@20"] > 0.0
    recalls = {name: values["recall@10"] for name, values in allowed["baselines"].items()}
    co_visits = {"co_visitation": 1.0, "co_visitation_updated": 1.0}
    assert recalls == {"popularity": 0.5, **co_visits, "own_items": 1.0}


def test_exact_says_so(measured_run):
    assert evaluate_run(measured_run, exact=True)["decoding"].startswith("exact,")


@pytest.mark.parametrize("max_k", [1, 3, 7])
def test_rankings_may_be_short(measured_run, max_k):
    metrics = evaluate_run(measured_run, overrides=[f"eval.max_k={max_k}"])["metrics"]
    assert f"recall@{max_k}" in metrics
    assert f"coverage@{max_k}" in metrics


def test_the_width_is_that_of_the_largest_group(measured_run, monkeypatch):
    monkeypatch.setattr(module, "_largest_group", lambda sids: 25)
    assert evaluate_run(measured_run)["decoding"].startswith("beam 44,")  # 20 + 24 others


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.lr=1", "changes decoding.key=value and eval.key=value, got 'train.lr=1'"),
        ("run_dir=x", "got 'run_dir=x'"),
        ("eval", "got 'eval'"),
        ("eval.max_k", "must read section.key=value"),
        ("eval.no=1", "unknown config key eval.no"),
        ("eval.max_k=31", "beam_width must be at least eval.max_k, got 30 < 31"),
        ("decoding.beam_width=wide", "decoding.beam_width must be int"),
        ("decoding.dtype=bfloat16", "decoding.dtype has no effect"),
        ("decoding.prefix_cache_mib=9", "decoding.prefix_cache_mib has no effect"),
    ],
)
def test_wrong_overrides_are_refused(measured_run, override, message):
    with pytest.raises(InputError, match=message):
        evaluate_run(measured_run, overrides=[override])


def test_a_loaded_run_is_measured_as_it_is(measured_run):
    run = load_run(measured_run)
    metrics, again = evaluate_run(run), evaluate_run(measured_run)
    assert metrics["protocols"] == again["protocols"]
    assert metrics["dataset"] == "fixture"  # as run.json names it, whatever data.name says
