"""The engine of a finished run."""

import json

import numpy as np
import pytest

from store_engine import Engine
from store_engine.cli.evaluate import main as evaluate
from store_engine.cli.recommend import main as recommend
from store_engine.cli.tokenize import main as tokenize
from store_engine.data.histories import Histories
from store_engine.data.split import leave_one_out
from store_engine.errors import InputError
from store_engine.evaluation.evaluate_run import rank_all

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def engine(tiny_run):
    return Engine.load(tiny_run, dtype="float32")


@pytest.fixture(scope="module")
def examples(tiny_run):
    return leave_one_out(Histories.load(tiny_run / "histories.npz")).test


def test_recommendations_are_catalogue_items(engine):
    ids = list(engine.catalog.item_ids[:3])
    (found,) = engine.recommend([ids], k=10)
    assert len({r.item_id for r in found}) == 10
    assert {r.item_id for r in found} <= set(engine.catalog.item_ids)
    logprobs = [r.logprob for r in found]
    assert logprobs == sorted(logprobs, reverse=True)
    assert max(logprobs) <= 0


def test_a_wide_beam_equals_scoring_every_item(engine, examples):
    histories = examples.histories[:40]
    rows, logprobs = engine.recommend_rows(histories, 20, beam_width=engine.catalog.num_items)
    scores = engine.score_rows(histories)
    np.testing.assert_allclose(logprobs, np.sort(scores, axis=1)[:, :-21:-1], atol=1e-4)
    np.testing.assert_allclose(np.take_along_axis(scores, rows, 1), logprobs, atol=1e-4)


def test_a_batch_equals_one_by_one(engine, examples):
    histories = examples.histories[:12]
    together, _ = engine.recommend_rows(histories, 10)
    alone = np.concatenate([engine.recommend_rows([h], 10)[0] for h in histories])
    assert np.array_equal(together, alone)


def test_permuted_targets_change_nothing(engine, examples):
    wanted = rank_all(engine, examples, 10, exact=False)
    shuffled = np.random.default_rng(0).permutation(examples.targets)
    permuted = type(examples)(examples.histories, shuffled)
    assert np.array_equal(rank_all(engine, permuted, 10, exact=False), wanted)


def test_backends_agree(engine, examples):
    histories = examples.histories[:40]
    cpp, torch = (engine.recommend_rows(histories, 20, backend=b) for b in ("cpp", "torch"))
    assert np.array_equal(cpp[0], torch[0])
    np.testing.assert_allclose(cpp[1], torch[1], atol=1e-5)


def test_evaluate_repeats_the_metrics(tiny_run, capsys):
    assert evaluate(["--run", str(tiny_run), "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    written = json.loads((tiny_run / "metrics.json").read_text())
    assert again["metrics"] == written["metrics"]
    assert again["buckets"] == written["buckets"]
    assert again["protocols"] == written["protocols"]
    assert again["config"] == written["config"]
    assert written["dataset"] == "synthetic"


def test_one_protocol_is_the_primary_of_the_other_config(tiny_run, capsys):
    assert evaluate([str(tiny_run), "--json", "decoding.exclude_history=true"]) == 0
    again = json.loads(capsys.readouterr().out)
    written = json.loads((tiny_run / "metrics.json").read_text())
    assert (written["primary"], again["primary"]) == ("seen_allowed", "seen_left_out")
    assert again["protocols"] == written["protocols"]
    assert again["metrics"] == written["protocols"]["seen_left_out"]["metrics"]


def test_recommend_prints_titles(tiny_run, engine, capsys):
    item_id = engine.catalog.item_ids[0]
    assert recommend(["--run", str(tiny_run), "--history", item_id, "--json", "-k", "3"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [r["rank"] for r in found] == [1, 2, 3]
    assert all(r["title"] for r in found)


ROWS = range(0, 120, 17)  # few: all of them would fill some codes' suffixes


def test_tokenising_the_catalogue_again_gives_its_codes(tiny_run, engine, tmp_path):
    items = tmp_path / "items.jsonl"
    fields = engine.catalog.fields
    lines = [
        json.dumps({"item_id": item_id, **{name: fields[name][row] for name in fields}})
        for row, item_id in enumerate(engine.catalog.item_ids)
        if row in ROWS
    ]
    items.write_text("\n".join(lines))
    out = tmp_path / "sids.csv"
    assert tokenize(["--run", str(tiny_run), "--items", str(items), "--out", str(out)]) == 0
    codes = np.loadtxt(out, delimiter=",", skiprows=1, dtype=str)[:, 1:].astype(int)
    # the last level is a suffix, which tells an item from all that have its codes already
    assert np.array_equal(codes[:, :-1], engine.sids[ROWS, :-1])
    assert not (codes[:, -1] == engine.sids[ROWS, -1]).any()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda d: (d / "run.json").unlink(), "not a run directory"),
        (lambda d: (d / "run.json").write_text('{"format": 99, "version": "9.0"}'), "format 99"),
        (lambda d: (d / "model.safetensors").unlink(), "not finished"),
        (lambda d: (d / "trie.bin").write_bytes(b"STORE"), "trie.bin: changed or damaged"),
        (lambda d: (d / "sids.npz").write_bytes(b"PK"), "sids.npz: changed or damaged"),
        (lambda d: _flip_a_bit(d / "model.safetensors"), "model.safetensors: changed or damaged"),
    ],
    ids=["no run", "another version", "unfinished", "trie", "sids", "one bit of the weights"],
)
def test_a_damaged_run_is_refused(damage, message, copied_run):
    damage(copied_run)
    with pytest.raises(InputError, match=message):
        Engine.load(copied_run)


def test_a_narrow_beam_is_refused(engine):
    with pytest.raises(InputError, match="beam_width 5 < k 10"):
        engine.recommend([[]], k=10, beam_width=5)


def test_an_unknown_item_is_named(engine):
    with pytest.raises(InputError, match="'no such'"):
        engine.recommend([["no such"]])


def _flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(content)
