"""Items as tokens of the model: rows of their own, one position each, heads instead of steps."""

import numpy as np
import pytest
import torch
from item_engines import FORMS, ROWS, ItemCase

from store_engine.catalog.item_slots import ItemPlaces
from store_engine.errors import InputError


@pytest.fixture(params=FORMS, ids=lambda form: "-".join(map(str, form)))
def case(request):
    return ItemCase(*request.param)


@pytest.fixture(params=ROWS, ids=lambda form: "-".join(map(str, form)))
def row_case(request):
    return ItemCase(*request.param)


def test_exact_scores_are_the_training_loss(case, histories):
    scores = case.engine().score_rows([h[-8:] for h in histories])
    for history, own in zip(histories, scores, strict=True):
        np.testing.assert_allclose(own, -case.losses(history[-8:]), atol=2e-4)


@pytest.mark.parametrize("level", ["code", "item"])
@pytest.mark.parametrize("is_tied", [False, True])
def test_rows_that_are_read_are_not_those_that_are_written(level, is_tied, histories):
    case = ItemCase(level, "codes", "transformer", True, is_tied)
    scores = case.engine().score_rows(histories[:2])
    np.testing.assert_allclose(scores[0], -case.losses(histories[0]), atol=2e-4)


def test_probabilities_of_all_items_sum_to_one(row_case, histories):
    for normalize in ("codebook", "children"):
        scores = torch.from_numpy(row_case.engine(normalize=normalize).score_rows(histories))
        torch.testing.assert_close(scores.logsumexp(1), torch.zeros(5), atol=1e-5, rtol=0)


@pytest.mark.parametrize("normalize", ["codebook", "children"])
@pytest.mark.parametrize("backend", ["cpp", "torch"])
def test_a_wide_beam_equals_exact_scoring(case, histories, backend, normalize):
    engine = case.engine(backend, normalize=normalize)
    engine.define("even", [f"item {row}" for row in range(0, 60, 2)])
    for options in ({}, {"allow": "even", "exclude_history": True}):
        rows, logprobs = engine.recommend_rows(histories, 30, **options)
        exact_rows, exact = engine.recommend_rows(histories, 30, exact=True, **options)
        np.testing.assert_array_equal(rows, exact_rows)
        np.testing.assert_allclose(logprobs, exact, atol=1e-5)


def test_backends_agree_on_a_narrow_beam(case, histories):
    for normalize in ("codebook", "children"):
        engine = case.engine(beam_width=5, normalize=normalize)
        rows, logprobs = engine.recommend_rows(histories, 5, backend="cpp")
        others, found = engine.recommend_rows(histories, 5, backend="torch")
        np.testing.assert_array_equal(rows, others)
        np.testing.assert_allclose(logprobs, found, atol=1e-5)


def test_a_batch_is_as_good_as_one_by_one(case, histories):
    rows, logprobs = case.engine(beam_width=7).recommend_rows(histories, 5)
    alone = [case.engine(beam_width=7).recommend_rows([h], 5) for h in histories]
    np.testing.assert_array_equal(rows, np.concatenate([one[0] for one in alone]))
    np.testing.assert_allclose(logprobs, np.concatenate([one[1] for one in alone]), atol=1e-5)


def test_the_prefix_cache_changes_nothing(case, histories):
    want = case.engine().recommend_rows(histories, 5)
    engine = case.engine(prefix_cache_mib=1)
    for _ in range(2):
        rows, logprobs = engine.recommend_rows(histories, 5)
        np.testing.assert_array_equal(rows, want[0])
        np.testing.assert_allclose(logprobs, want[1], atol=1e-5)


def test_rows_are_computed_once(row_case, histories):
    calls = []
    row_case.model.item_rows.register_forward_hook(lambda *_: calls.append(1))
    engine = row_case.engine()
    num_at_load = len(calls)
    assert num_at_load == 1
    engine.recommend_rows(histories, 5)
    engine.score_rows(histories)
    assert len(calls) == num_at_load


def test_bfloat16_finds_nearly_the_same(row_case, histories):
    want = row_case.engine().score_rows(histories)
    rows, logprobs = row_case.engine(dtype=torch.bfloat16).recommend_rows(histories, 5)
    error = np.abs(logprobs - np.take_along_axis(want, rows, 1))
    assert np.median(error) < 0.1
    assert error.max() < 1.0


def test_refuses_other_sids(row_case):
    row_case.sids = row_case.sids[::-1].copy()
    row_case.sids[0] = (3, 2, 15)
    with pytest.raises(InputError, match="must be those that the model's items were given"):
        row_case.engine()


def test_refuses_two_items_of_one_sid():
    case = ItemCase("item", "codes", "heads", False)
    case.sids[case.order[1]] = case.sids[case.order[0]]
    with pytest.raises(InputError, match=r"two items have the SID|those that the model's"):
        case.engine()


def test_refuses_a_table_that_is_nearly_empty():
    rows = np.arange(3000, dtype=np.int32)
    sids = np.column_stack([rows, rows])
    with pytest.raises(InputError, match="65536 last codes are too many for 3,000 items behind"):
        ItemPlaces.of(sids, rows.astype(np.int64), (3000,), 1 << 16)
