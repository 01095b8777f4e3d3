"""What is done with a run, on a pretended device: results are those of the CPU."""

import json

import numpy as np
import pytest
import torch
from live_runs import COLOURS, make_run
from pretended_device import DEVICE, DeviceTensor

from store_engine import Engine
from store_engine.cli.tokenize import tokenize_new_items
from store_engine.data.histories import Histories
from store_engine.data.split import leave_one_out
from store_engine.evaluation.evaluate_run import evaluate_run, validate_run
from store_engine.evaluation.latency import LatencySettings, measure_latency
from store_engine.evaluation.scoring import Scorer
from store_engine.evaluation.validation import Validation
from store_engine.live.item_tokenizer import ItemTokenizer
from store_engine.model.weights import save_weights
from store_engine.report.page import render_report
from store_engine.runs.run import load_run
from store_engine.runs.run_directory import RunDirectory
from store_engine.sid.dense_tokenizer import ItemTexts, encode_catalog
from store_engine.training.discretise import encode_over_ranks

RULES = ["suffix", "item"]
NEW_TEXTS = {
    f"new {i}": {"title": f"{COLOURS[i]} lamp", "brand": "brand 3"} for i in range(3)
}  # fmt: skip
each_rule = pytest.mark.parametrize("rule", RULES)


@pytest.fixture
def make_measurable_run(tmp_path):
    """A finished run with histories to measure it on, a log, and labels for scoring."""

    def make(rule):
        root = make_run(tmp_path / rule, rule)
        sequences = [[u, u + 1, u + 2, u if u % 2 else u + 3] for u in range(30)]
        offsets, rows = np.arange(31) * 4, np.concatenate(sequences).astype(np.int32)
        entry = {"stage": "recommender", "step": 1, "loss": 1.0, "tokens_per_s": 1.0, "wall_s": 1.0}
        with RunDirectory.open_to_write(root) as run:
            run.log.write_text(json.dumps(entry) + "\n")
            with run.writing(run.histories):
                Histories(tuple(map(str, range(30))), rows, offsets).save(run.histories)
            if rule != "item":
                tables = ("code_embedding.weight", "code_head.weight")
                labels = {name: torch.randn(2, 32) for name in tables}
                with run.writing(run.scoring_weights):
                    save_weights(labels, run.scoring_weights)
        return root

    return make


def figures(metrics):
    """What an evaluation measured, without the time that it took."""
    kept = ("metrics", "protocols", "scoring", "num_users")
    return json.loads(json.dumps({name: metrics[name] for name in kept if name in metrics}))


def assert_close(got, want):
    if isinstance(want, dict):
        assert got.keys() == want.keys()
        for name in want:
            assert_close(got[name], want[name])
    else:
        assert got == pytest.approx(want, abs=1e-5)


@each_rule
def test_a_run_is_measured(rule, make_measurable_run, request):
    root = make_measurable_run(rule)
    want, valid = evaluate_run(root, device="cpu"), validate_run(root, device="cpu")
    request.getfixturevalue("named_gpu")
    assert_close(figures(evaluate_run(root)), figures(want))
    assert_close(validate_run(root), valid)


def test_candidates_are_scored(make_measurable_run, request):
    run = load_run(make_measurable_run("suffix"))
    asked = leave_one_out(run.histories).test.histories, np.arange(30)
    want = Scorer(run, "cpu").probabilities(*asked)
    gpu = request.getfixturevalue("named_gpu")
    np.testing.assert_allclose(Scorer(run).probabilities(*asked), want, atol=1e-5)
    assert gpu.launches


@each_rule
def test_weights_are_validated(rule, make_measurable_run, request):
    run = load_run(make_measurable_run(rule))
    weights = {name: p.detach().clone() for name, p in run.model.named_parameters()}
    want = Validation(run)(weights)
    request.getfixturevalue("named_gpu")
    assert Validation(run, DEVICE)(weights) == pytest.approx(want)


def test_a_catalogue_is_encoded(make_measurable_run, request, process_group):
    run = load_run(make_measurable_run("suffix"))
    tokenizer = ItemTokenizer(run)._model
    texts = ItemTexts(run.catalog, run.vocabulary, run.config.data.max_text_tokens)
    want = encode_catalog(tokenizer, texts, 2)
    gpu = request.getfixturevalue("named_gpu")
    tokenizer.to(DEVICE)
    np.testing.assert_allclose(encode_catalog(tokenizer, texts, 2, batch_size=16), want, atol=1e-5)
    np.testing.assert_allclose(encode_over_ranks(tokenizer, texts, 2, DEVICE), want, atol=1e-5)
    assert isinstance(tokenizer.palette.weight, DeviceTensor)
    assert gpu.launches


@each_rule
def test_new_items_get_sids(rule, make_measurable_run, tmp_path, request):
    root, path = make_measurable_run(rule), tmp_path / "new.jsonl"
    rows = [{"item_id": item_id, **texts} for item_id, texts in NEW_TEXTS.items()]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    want = tokenize_new_items(load_run(root), path, device="cpu")[1]
    request.getfixturevalue("named_gpu")
    got = tokenize_new_items(load_run(root), path)[1]
    np.testing.assert_array_equal(got.sids, want.sids)


@each_rule
def test_a_live_engine(rule, make_measurable_run, tmp_path, request):
    """Items by their texts, events and users, and what is recommended and explained then."""

    def live(root, device):
        engine = Engine.load(root, device=device, backend="torch")
        added = engine.add_items(NEW_TEXTS)
        engine.add_events([("3", "new 1", 9e9), ("nobody yet", "item 7", 9e9)])
        engine.update_items({"item 5": {"title": "blue sofa", "brand": "brand 1"}})
        engine.remove_items(["item 9"])
        found = engine.recommend(users=["3", "nobody yet"], histories=None, k=60, beam_width=60)
        why = engine.explain(None, "new 2", user="3")
        engine.close()
        return added, found, why

    added, found, why = live(make_measurable_run(rule), "cpu")
    other = make_run(tmp_path / "again", rule)
    for name in ("histories.npz", "run.json"):
        (other / name).write_bytes((tmp_path / rule / name).read_bytes())
    request.getfixturevalue("named_gpu")
    got_added, got_found, got_why = live(other, "auto")
    assert got_added == added
    for got, want in zip(got_found, found, strict=True):
        assert [item.item_id for item in got] == [item.item_id for item in want]
        assert [x.score for x in got] == pytest.approx([x.score for x in want], abs=1e-3)
    assert got_why.score == pytest.approx(why.score, abs=1e-3)


@each_rule
def test_searches_are_timed_and_reported(rule, make_measurable_run, named_gpu):
    root = make_measurable_run(rule)
    rows = measure_latency(str(root), LatencySettings(5, (1, 3), seconds=1e-3))
    assert all(row["same_items"] == 1 for row in rows)
    assert "<html" in render_report(root)
