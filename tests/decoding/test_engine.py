import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from store_engine.decoding.engine import Engine
from store_engine.decoding.search_batch import search_batch
from store_engine.errors import InputError
from store_engine.model.weights import save_weights
from store_engine.runs.run_directory import RunDirectory


@pytest.mark.parametrize("backend", ["cpp", "torch"])
@pytest.mark.parametrize("k", [1, 5, 20])
def test_recommends_distinct_items_of_the_catalogue(make_engine, histories, backend, k):
    engine = make_engine()
    ids = [[engine.catalog.item_ids[row] for row in history] for history in histories]
    found = engine.recommend(ids, k, backend=backend)
    for one in found:
        assert len({item.item_id for item in one}) == k
        assert {item.item_id for item in one} <= set(engine.catalog.item_ids)
        logprobs = [item.logprob for item in one]
        assert logprobs == sorted(logprobs, reverse=True)
        assert logprobs[0] < 0


@pytest.mark.parametrize("exclude_history", [False, True])
def test_a_wide_beam_equals_exact_scoring(make_engine, histories, exclude_history):
    engine = make_engine(num_items=90, beam_width=1000, exclude_history=exclude_history)
    rows, logprobs = engine.recommend_rows(histories, 30)
    exact_rows, exact_logprobs = engine.recommend_rows(histories, 30, exact=True)
    np.testing.assert_array_equal(rows, exact_rows)
    np.testing.assert_allclose(logprobs, exact_logprobs, atol=1e-5)
    scores = engine.score_rows(histories)
    np.testing.assert_allclose(np.take_along_axis(scores, rows, 1), logprobs, atol=1e-5)


@pytest.mark.parametrize("batch_size", [1, 2, 3])
def test_the_batch_size_changes_nothing(make_engine, histories, batch_size):
    want_rows, want = make_engine(batch_size=100).recommend_rows(histories, 10)
    torch.manual_seed(0)  # the same weights
    rows, logprobs = make_engine(batch_size=batch_size).recommend_rows(histories, 10)
    np.testing.assert_array_equal(rows, want_rows)
    np.testing.assert_allclose(logprobs, want, atol=1e-5)


@pytest.mark.parametrize("exact", [False, True])
def test_all_items_of_a_shared_sid_in_row_order(make_engine, exact):
    sids = np.array([[1, 2, 3], [0, 0, 0], [1, 2, 3], [1, 2, 3]], dtype=np.int32)
    engine = make_engine(sids=sids)
    rows, logprobs = engine.recommend_rows([[1]], 4, exact=exact)
    group = [row for row in rows[0].tolist() if row != 1]
    assert group == [0, 2, 3]
    assert len(set(logprobs[0].tolist())) == 2
    two, _ = engine.recommend_rows([[1]], 2, beam_width=2, exact=exact)
    assert two[0].tolist() == rows[0, :2].tolist()


@pytest.mark.parametrize("exact", [False, True])
def test_history_can_be_excluded(make_engine, histories, exact):
    engine = make_engine()
    rows, _ = engine.recommend_rows(histories, 20, exclude_history=True, exact=exact)
    for one, history in zip(rows.tolist(), histories, strict=True):
        assert not set(one) & set(history)
        assert -1 not in one  # k items come back whatever was excluded
    everything = list(range(engine.catalog.num_items))
    rows, logprobs = engine.recommend_rows([everything[:-2]], 5, exclude_history=True, exact=exact)
    assert sorted(rows[0].tolist()) == [-1, -1, -1, *everything[-2:]]
    assert (logprobs[0, 2:] == -np.inf).all()


@pytest.mark.parametrize("options", [{}, {"exact": True}, {"backend": "torch"}], ids=str)
@pytest.mark.parametrize("normalize", ["codebook", "children"])
def test_filters(make_engine, histories, options, normalize):
    engine = make_engine(beam_width=60, normalize=normalize)
    ids = engine.catalog.item_ids
    stock, books = set(range(0, 60, 2)), set(range(10, 40))
    engine.define("in_stock", [ids[row] for row in stock])
    engine.define("books", [ids[row] for row in sorted(books, reverse=True)])
    named = [[ids[row] for row in history] for history in histories]
    allow = ["in_stock & books", "~books", None, "in_stock | books", "in_stock"]
    deny = ["books", None, "~in_stock", "in_stock", None]
    exclude = [[], [0, 1], [2], [11, 13], list(range(0, 50))]
    left = [set(), set(range(60)) - books - {0, 1}, stock - {2}, books - stock - {11, 13}]
    left.append({50, 52, 54, 56, 58})
    got = engine.recommend(
        named,
        50,
        allow=allow,
        deny=deny,
        exclude=[[ids[row] for row in rows] for rows in exclude],
        **options,
    )
    assert [{item.item_id for item in one} for one in got] == [
        {ids[row] for row in rows} for rows in left
    ]
    rows, logprobs = engine.recommend_rows(histories, 9, allow=allow, deny=deny, exclude=exclude)
    again, found = engine.recommend_rows(
        histories, 9, allow=allow, deny=deny, exclude=exclude, **options
    )
    np.testing.assert_array_equal(rows, again)
    np.testing.assert_allclose(logprobs, found, atol=1e-5)


@pytest.mark.parametrize("k", [1, 3, 10])
def test_k_items_come_back_when_there_are_k(make_engine, histories, k):
    engine = make_engine(beam_width=10)
    engine.define("few", [engine.catalog.item_ids[row] for row in range(0, 60, 6)])
    rows, _ = engine.recommend_rows(histories, k, allow="few", beam_width=k)
    assert (rows % 6 == 0).all()  # so none is -1
    assert all(len(set(one)) == k for one in rows.tolist())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"allow": "books"}, "unknown item set 'books'; defined: none"),
        ({"deny": ["books", None]}, r"deny must hold one item set per history \(1\), got 2"),
        ({"exclude": []}, r"exclude must hold one list per history \(1\), got 0"),
        ({"exclude": [["nobody"]]}, r"exclude\[0\]: unknown item id 'nobody'"),
    ],
    ids=["name", "sets", "lists", "item"],
)
def test_refuses_filters(make_engine, options, message):
    with pytest.raises(InputError, match=message):
        make_engine().recommend([["item 1"]], **options)


@pytest.mark.parametrize("name", ["in stock", "1a", "a-b", "a&b", "Dog food"])
def test_any_name_can_be_quoted(make_engine, name):
    engine = make_engine()
    engine.define(name, ["item 3"])
    engine.define("all", [f"item {n}" for n in range(60)])
    assert engine.recommend([["item 1"]], 9, allow=f'all & "{name}"')[0][0].item_id == "item 3"


@pytest.mark.parametrize("name", ["", "a\nb", "both ' and \""])
def test_refuses_a_name_no_expression_can_hold(make_engine, name):
    with pytest.raises(InputError, match="the name of an item set must"):
        make_engine().define(name, ["item 1"])


def test_refuses_to_define_what_it_does_not_have(make_engine):
    with pytest.raises(InputError, match="unknown item id 'nobody'"):
        make_engine().define("books", ["item 1", "nobody"])


@pytest.mark.parametrize("exact", [False, True])
def test_more_items_wanted_than_there_are(make_engine, exact):
    engine = make_engine(num_items=7)
    found = engine.recommend([["item 1"], []], k=12, exact=exact)
    assert [len({item.item_id for item in one}) for one in found] == [7, 7]


def test_only_the_last_items_of_a_long_history_count(make_engine):
    engine = make_engine()  # max_history=8
    long = list(range(30))
    rows, logprobs = engine.recommend_rows([long, long[-8:], long[-7:]], 5)
    assert rows[0].tolist() == rows[1].tolist()
    np.testing.assert_allclose(logprobs[0], logprobs[1], atol=1e-5)
    assert logprobs[0].tolist() != logprobs[2].tolist()


@pytest.mark.parametrize("backend", ["cpp", "torch"])
def test_bfloat16_finds_nearly_the_same(make_engine, histories, backend):
    want = make_engine(beam_width=60).score_rows(histories)
    torch.manual_seed(0)  # the same weights
    engine = make_engine(beam_width=60, dtype=torch.bfloat16)
    rows, logprobs = engine.recommend_rows(histories, 10, backend=backend)
    np.testing.assert_allclose(logprobs, np.take_along_axis(want, rows, 1), atol=0.3)
    best = np.sort(want, axis=1)[:, ::-1][:, :10]
    np.testing.assert_allclose(logprobs, best, atol=0.3)


def test_no_histories(make_engine):
    assert make_engine().recommend([]) == []
    rows, logprobs = make_engine().recommend_rows([], 3)
    assert rows.shape == logprobs.shape == (0, 3)


def test_the_default_beam_grows_with_k(make_engine):
    engine = make_engine(beam_width=4)
    assert len(engine.recommend([["item 1"]], k=15)[0]) == 15


@pytest.mark.parametrize(
    ("histories", "options", "message"),
    [
        ([[], ["item 1", "nobody"]], {}, r"histories\[1\]: unknown item id 'nobody'"),
        ([["item 1"]], {"k": 10, "beam_width": 9}, "at least k, got beam_width 9 < k 10"),
        ([["item 1"]], {"k": 0}, "k must be at least 1, got 0"),
    ],
    ids=["unknown-item", "narrow-beam", "no-k"],
)
def test_refuses(make_engine, histories, options, message):
    with pytest.raises(InputError, match=message):
        make_engine().recommend(histories, **options)


@pytest.mark.parametrize("histories", ["item 1", ["item 1"]])
def test_refuses_a_flat_list(make_engine, histories):
    with pytest.raises(TypeError, match="list of lists of item ids"):
        make_engine().recommend(histories)


@pytest.mark.parametrize("row", [-1, 60])
def test_refuses_rows_outside_the_catalogue(make_engine, row):
    with pytest.raises(InputError, match=rf"history 1: row {row} is outside \[0, 60\)"):
        make_engine().recommend_rows([[0], [1, row]])


def test_refuses_sids_of_another_catalogue(make_engine):
    engine = make_engine()
    with pytest.raises(ValueError, match=r"sids must be \(num_items, num_levels\) = \(60, 3\)"):
        Engine(engine.model, engine.catalog, engine.sids[1:], bos=1)


def test_threads_do_not_disturb_each_other(make_engine, histories):
    engine = make_engine()
    jobs = [histories, histories[::-1], histories[:2], [[i, i + 1] for i in range(6)]] * 4
    want = [engine.recommend_rows(job, 8)[0].tolist() for job in jobs]
    with ThreadPoolExecutor(4) as pool:
        got = list(pool.map(lambda job: engine.recommend_rows(job, 8)[0].tolist(), jobs))
    assert got == want


def test_a_failed_batch_leaves_nothing_behind(make_engine, histories):
    engine = make_engine()
    want, _ = engine.recommend_rows(histories, 8)
    weight = engine.model.transformer.blocks[0].attention_norm.weight
    healthy = weight.clone()
    weight.fill_(torch.nan)
    with pytest.raises(ValueError, match="logits"):
        engine.recommend_rows(histories, 8)
    weight.copy_(healthy)
    got, _ = engine.recommend_rows(histories, 8)
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("normalize", ["codebook", "children"])
def test_normalize_of_a_call(make_engine, histories, normalize):
    want = make_engine(normalize=normalize).recommend_rows(histories, 8)
    torch.manual_seed(0)  # the same weights
    got = make_engine().recommend_rows(histories, 8, normalize=normalize)
    for a, b in zip(got, want, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("name", ["code_embedding", "code_head", "transformer.blocks.1.mlp_norm"])
def test_refuses_weights_that_are_no_numbers(make_engine, name, bad):
    engine = make_engine()
    weight = engine.model.get_parameter(f"{name}.weight")
    weight.flatten()[[1, 3]] = bad
    num = weight.numel()
    with pytest.raises(InputError, match=rf"{name}.weight holds NaN or infinity: 2 of {num} num"):
        Engine(engine.model, engine.catalog, engine.sids, bos=1)


def test_a_run_whose_weights_are_no_numbers_is_refused_at_load(run_dir):
    weights = Engine.load(run_dir, device="cpu", dtype="float32").model.state_dict()
    weights["text_embedding.weight"][0, 0] = torch.nan
    with (
        RunDirectory.open_to_write(run_dir) as run,
        run.writing(run.model_weights),
    ):
        save_weights(weights, run.model_weights)
    with pytest.raises(InputError, match=r"safetensors: tensor 'text_embedding.weight' holds"):
        Engine.load(run_dir, device="cpu")


@pytest.mark.parametrize("how", [{}, {"backend": "torch"}, {"exact": True}], ids=str)
@pytest.mark.parametrize("batch_size", [2, 64])
def test_a_bad_request_is_named_and_touches_no_other(make_engine, histories, how, batch_size):
    """One item's last code, which only histories read, makes the states of its histories NaN."""
    sids = np.array([[i % 6, i % 5, i % 3] for i in range(20)], dtype=np.int32)
    sids[13, 2] = 6
    engine = make_engine(sids=sids, batch_size=batch_size, prefix_cache_mib=1)
    requests = [[3, 1, 4], [2], [], [7, 13], [5, 1, 8, 2, 9, 4]]
    good = [requests[i] for i in (0, 1, 2, 4)]
    want = engine.recommend_rows(good, 8, **how)
    row = engine.model.vocabulary.code_offsets[2] + 6
    healthy = engine.model.code_embedding.weight[row].clone()
    engine.model.code_embedding.weight[row] = torch.nan
    with pytest.raises(ValueError, match=r"^history 3: (level 0: )?logits NaN or \+inf$"):
        engine.recommend_rows(requests, 8, **how)
    for a, b in zip(engine.recommend_rows(good, 8, **how), want, strict=True):
        np.testing.assert_array_equal(a, b)
    engine.model.code_embedding.weight[row] = healthy  # and nothing of it is kept
    assert (engine.recommend_rows(requests, 8, **how)[0] >= 0).all()


FORK = """
import os, sys, torch
sys.path.insert(0, "tests/fixtures")
from engines import catalog_of, random_model, random_sids
from store_engine.config import DecodingConfig
from store_engine.decoding.engine import Engine
from store_engine.decoding.search_batch import search_batch

torch.set_num_threads(2)
sids = random_sids(60)
engine = Engine(random_model(), catalog_of(60), sids, bos=1, config=DecodingConfig(beam_width=20))
calls = {
    "recommend_rows": lambda: engine.recommend_rows([[1, 2, 3]] * 40, 5)[0].tolist(),
    "score_rows": lambda: engine.score_rows([[1, 2, 3]] * 40).round(2).tolist(),
    "explain": lambda: engine.explain(["item 1", "item 2"], "item 3").sid,
}
def run():
    torch.randn(1 << 20).add(1).sum()
    return calls[sys.argv[1]]()
want = run()
pid = os.fork()
if pid == 0:
    ok = run() == want and run() == want
    os._exit(0 if ok and torch.get_num_threads() == 1 else 1)
status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
assert run() == want and torch.get_num_threads() == 2  # the parent goes on as it was
sys.exit(status)
"""


@pytest.mark.parametrize("call", ["recommend_rows", "score_rows", "explain"])
def test_an_engine_in_a_forked_child_works_with_one_thread(call):
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", FORK, call]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("forked from one with 2 threads") == 1


def test_wide_beams_are_searched_in_smaller_batches(make_engine, histories, monkeypatch):
    engine, sizes = make_engine(), []
    want = engine.recommend_rows(histories, 5, beam_width=50)
    monkeypatch.setattr("store_engine.decoding.searcher._MAX_BEAMS", 100)

    def count(call, ids, batch, cache):
        sizes.append(len(batch.lengths))
        return search_batch(call, ids, batch, cache)

    monkeypatch.setattr("store_engine.decoding.searcher.search_batch", count)
    got = engine.recommend_rows(histories, 5, beam_width=50)
    assert sizes == [2, 2, 1]
    np.testing.assert_array_equal(got[0], want[0])
    np.testing.assert_allclose(got[1], want[1], atol=1e-5)
    assert len(engine.recommend_rows(histories, 5, beam_width=1000)[0]) == len(histories)
    assert sizes[3:] == [1] * 5
