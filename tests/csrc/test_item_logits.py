"""item_logits against NumPy: both dtypes, odd sizes, rows anywhere, threads."""

import numpy as np
import pytest

from store_engine._C import item_logits


def to_bfloat16(values):
    """The upper halves of floats, as bits."""
    return (np.ascontiguousarray(values, np.float32).view(np.uint32) >> 16).astype(np.uint16)


def to_float(values):
    if values.dtype == np.float32:
        return values
    return (values.astype(np.uint32) << 16).view(np.float32)


def reference(states, rows, slots, prefixes):
    batch, width = prefixes.shape
    out = np.zeros((batch, width, slots.shape[1]))
    for i, j in np.ndindex(batch, width):
        if prefixes[i, j] < 0:
            continue
        state = to_float(states)[i, j % states.shape[1]].astype(np.float64)
        for code, slot in enumerate(slots[prefixes[i, j]]):
            out[i, j, code] = -np.inf if slot < 0 else to_float(rows)[slot] @ state
    return out


def arguments(rng, dtype, hidden=16, fanout=11, num_rows=60, is_shared=False, is_in_order=True):
    """As a catalogue has them: rows in trie order, the last prefix without any item."""
    batch, width, num_prefixes = 3, 5, 7
    convert = to_bfloat16 if dtype == np.uint16 else np.ascontiguousarray
    states = convert(rng.normal(size=(batch, 1 if is_shared else width, hidden)).astype("f4"))
    rows = convert(rng.normal(size=(num_rows, hidden)).astype("f4"))
    slots = np.full((num_prefixes, fanout), -1, np.int32)
    order = np.arange(num_rows) if is_in_order else rng.permutation(num_rows)
    for prefix, of_prefix in enumerate(np.array_split(order, num_prefixes - 1)):
        size = min(len(of_prefix), fanout)
        codes = np.sort(rng.choice(fanout, size, replace=False))
        slots[prefix, codes] = of_prefix[:size]
    prefixes = rng.integers(-1, num_prefixes, (batch, width))
    return states, rows, slots, prefixes, np.full((batch, width, fanout), np.nan, np.float32)


@pytest.mark.parametrize("is_shared", [False, True], ids=["each", "shared"])
@pytest.mark.parametrize("is_in_order", [True, False], ids=["stream", "gather"])
@pytest.mark.parametrize(("hidden", "fanout"), [(1, 1), (16, 11), (63, 8), (64, 17), (100, 130)])
@pytest.mark.parametrize("dtype", [np.float32, np.uint16], ids=["float32", "bfloat16"])
def test_equals_numpy(dtype, hidden, fanout, is_in_order, is_shared):
    rng = np.random.default_rng(hidden)
    *given, out = arguments(rng, dtype, hidden, fanout, 500, is_shared, is_in_order)
    given[3][0, :2] = [-1, 6]
    item_logits(*given, out)
    want = reference(*given)
    np.testing.assert_array_equal(np.isneginf(out), np.isneginf(want))
    finite = np.isfinite(want)
    np.testing.assert_allclose(out[finite], want[finite], rtol=1e-5, atol=1e-5)
    assert (out[given[3] < 0] == 0).all()
    again = np.empty_like(out)
    item_logits(*given, again, num_threads=2)
    assert again.tobytes() == out.tobytes()


@pytest.mark.parametrize("hidden", [5, 48, 100])
def test_a_logit_does_not_depend_on_where_its_row_lies(hidden):
    rng = np.random.default_rng(0)
    states, rows, slots, _, _ = arguments(rng, np.float32, hidden)
    order = rng.permutation(len(rows))
    prefixes = np.zeros((3, 5), np.int64)
    out, moved = np.empty((2, 3, 5, 11), np.float32)
    item_logits(states, rows, slots, prefixes, out)
    alone = np.full_like(slots, -1)
    code = int(np.flatnonzero(slots[0] >= 0)[3])
    alone[0, code] = np.argsort(order)[slots[0, code]]
    item_logits(states, np.ascontiguousarray(rows[order]), alone, prefixes, moved)
    assert moved[..., code].tobytes() == out[..., code].tobytes()
    assert np.isneginf(np.delete(moved, code, axis=2)).all()


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("states", np.zeros((3, 2, 16), np.float32), "states must have shape"),
        ("states", np.zeros((3, 5, 15), np.float32), "states must have shape"),
        ("rows", np.zeros((60, 0), np.float32), "at least one column"),
        ("rows", np.zeros((0, 16), np.float32), r"slots\[\d, \d+\] = \d+ is neither -1 nor"),
        ("slots", np.full((7, 11), -2, np.int32), r"slots\[\d, 0\] = -2 is neither -1 nor"),
        ("slots", np.full((7, 11), 60, np.int32), r"= 60 is neither -1 nor in \[0, 60\)"),
        ("slots", np.zeros((0, 11), np.int32), r"prefix \d is neither -1 nor in \[0, 0\)"),
        ("prefixes", np.full((3, 5), 7), "request 0: prefix 7 is neither -1 nor in"),
        ("prefixes", np.full((3, 5), -2), "request 0: prefix -2 is neither"),
        ("out", np.zeros((3, 5, 12), np.float32), "out must have shape"),
    ],
)
def test_rejects(name, array, message):
    names = ["states", "rows", "slots", "prefixes", "out"]
    given = dict(zip(names, arguments(np.random.default_rng(1), np.float32), strict=True))
    given[name] = array
    with pytest.raises(ValueError, match=message):
        item_logits(**given)


def test_nothing_to_do_takes_no_memory():
    none = np.zeros((0, 1, 2**48), np.float32)
    rows = np.zeros((0, 2**48), np.float32)
    slots, prefixes = np.zeros((1, 3), np.int32), np.zeros((0, 1), np.int64)
    item_logits(none, rows, slots, prefixes, np.zeros((0, 1, 3), np.float32))
