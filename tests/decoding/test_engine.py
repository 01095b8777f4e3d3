from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from store_engine.decoding.engine import Engine
from store_engine.errors import InputError


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
        ({"exclude": [["nobody"]]}, "unknown item id 'nobody'"),
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
        ([["item 1", "nobody"]], {}, "nobody"),
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
    with pytest.raises(TypeError, match="list of lists"):
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
