"""How callers of the engine may give histories and items to exclude."""

import numpy as np
import pytest
import torch

FORMS = {
    "list": lambda x: x,
    "tuple": tuple,
    "generator": lambda x: (one for one in x),
    "iterator": iter,
    "array": np.array,
}


@pytest.mark.parametrize("inner", FORMS)
@pytest.mark.parametrize("outer", ["list", "tuple", "generator", "iterator"])
def test_any_iterable_is_read_once(make_engine, inner, outer):
    engine = make_engine()
    plain, excluded = [[3, 1, 4], [2, 7]], [[5], [6, 8]]
    rows = engine.recommend_rows(plain, 6, exclude=excluded)[0].tolist()
    ids = [[engine.catalog.item_ids[row] for row in one] for one in rows]

    def form(lists, make=lambda row: row):
        return FORMS[outer]([FORMS[inner]([make(row) for row in one]) for one in lists])

    got = engine.recommend_rows(form(plain), 6, exclude=form(excluded))[0]
    assert got.tolist() == rows

    def named(row):
        return f"item {row}"

    found = engine.recommend(form(plain, named), 6, exclude=form(excluded, named))
    assert [[item.item_id for item in one] for one in found] == ids


def test_a_table_of_rows(make_engine):
    engine, table = make_engine(), np.arange(12).reshape(4, 3)
    want = engine.recommend_rows(table.tolist(), 5)[0]
    np.testing.assert_array_equal(engine.recommend_rows(table, 5)[0], want)
    np.testing.assert_array_equal(engine.recommend_rows(torch.from_numpy(table), 5)[0], want)


@pytest.mark.parametrize(
    ("history", "shown"),
    [
        ("12", "'12'"),
        (["12"], r"\['12'\]"),
        ([1.0], r"\[1.0\]"),
        ([True], r"\[True\]"),
        ([[1]], r"\[\[1\]\]"),
        ([None], r"\[None\]"),
        (b"12", "b'12'"),
        (np.array(3), r"array\(3\)"),
    ],
    ids=str,
)
@pytest.mark.parametrize("what", ["history", "exclude"])
def test_refuses_what_is_no_list_of_rows(make_engine, what, history, shown):
    options = {} if what == "history" else {"exclude": [[], history]}
    histories = [[0], history] if what == "history" else [[0], [1]]
    with pytest.raises(TypeError, match=f"{what} 1 must be a list of catalogue rows, got {shown}"):
        make_engine().recommend_rows(histories, **options)


@pytest.mark.parametrize("exclude", ["12", ["item 1"], [["item 1"], "item 2"], [[1], [2]], 7])
def test_refuses_an_exclude_that_is_no_list_of_lists_of_ids(make_engine, exclude):
    with pytest.raises(TypeError, match=r"exclude(\[\d\])?( must be|: item ids are text)"):
        make_engine().recommend([["item 1"], []], exclude=exclude)


def test_excluded_ids_may_be_a_set(make_engine):
    found = make_engine().recommend([["item 1"]], 60, exclude=[{"item 3", "item 5"}])
    assert {"item 3", "item 5"}.isdisjoint(item.item_id for item in found[0])
