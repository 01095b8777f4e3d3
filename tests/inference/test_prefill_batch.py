import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from store_engine.errors import InputError
from store_engine.inference.prefill_batch import PrefillBatch, batches, check_rows

TOKENS = torch.arange(100, 112).view(4, 3)  # of four items with three codes


def test_tokens_of_histories():
    rows = [np.array([2, 0]), np.array([], dtype=np.int64), np.array([3])]
    batch = PrefillBatch.from_histories(rows, TOKENS, bos=1)
    assert batch.lengths.tolist() == [7, 1, 4]
    assert batch.tokens.tolist() == [1, 106, 107, 108, 100, 101, 102, 1, 1, 109, 110, 111]


@given(st.lists(st.integers(0, 30), max_size=40), st.integers(1, 9))
def test_batches_are_a_partition_of_neighbours_in_length(lengths, batch_size):
    found = list(batches([np.zeros(n, dtype=np.int64) for n in lengths], batch_size))
    assert sorted(i for ids in found for i in ids) == list(range(len(lengths)))
    assert all(len(ids) == batch_size for ids in found[:-1])
    in_order = [lengths[i] for ids in found for i in ids]
    assert in_order == sorted(lengths, reverse=True)


FORMS = [list, tuple, iter, np.array, lambda x: np.array(x, np.uint16), torch.tensor]


@pytest.mark.parametrize("make", FORMS)
def test_rows_of_any_integers(make):
    (rows,) = check_rows(iter([make([3, 0, 3])]), 4, "history")
    assert rows.dtype == np.int64
    assert rows.tolist() == [3, 0, 3]


@pytest.mark.parametrize("empty", [[], (), iter([]), np.zeros(0), torch.zeros(0)])
def test_no_rows(empty):
    (rows,) = check_rows([empty], 4, "history")
    assert rows.dtype == np.int64
    assert rows.shape == (0,)


def test_rows_are_a_copy():
    given_rows = np.array([1, 2])
    (rows,) = check_rows([given_rows], 4, "history")
    given_rows[0] = 3
    assert rows.tolist() == [1, 2]


@pytest.mark.parametrize("row", [-1, 4, 2**63 - 1, -(2**63)])
def test_rows_outside_the_catalogue(row):
    with pytest.raises(InputError, match=rf"exclude 1: row {row} is outside \[0, 4\)"):
        check_rows([[0], [1, row]], 4, "exclude")


@pytest.mark.parametrize(
    "rows",
    [
        "12",
        ["12"],
        [1.5],
        [1.0],
        [True],
        [None],
        [[1]],
        b"1",
        {1: 2},
        {1},
        2**70,
        [2**70],
        3,
        [[1], []],
    ],
)
def test_refuses_what_is_no_list_of_integers(rows):
    with pytest.raises(TypeError, match=r"history 0 must be a list of catalogue rows, got"):
        check_rows([rows], 4, "history")
