"""Arrays and numbers as arguments of the core: what it must refuse, whatever the function."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest

from store_engine import _C

SIDS = np.array([[3, 1], [0, 2], [0, 1], [3, 1]], dtype=np.int32)
SIZES = [4, 3]
IDS = np.arange(4)
TRIE = _C.ItemTrie(SIDS, SIZES)
LEAVES = np.zeros((1, 2), np.int64)


def live():
    return _C.LiveTrie(SIDS, IDS, SIZES)


def step(**changes):
    arguments = {
        "logits": np.zeros((1, 2, 4), np.float32),
        "scores": np.zeros((1, 2), np.float32),
        "nodes": np.zeros((1, 2), np.int64),
        "num_valid": np.full(1, 2),
        "width": 3,
        **changes,
    }
    return _C.beam_step(TRIE, 0, **arguments)


def attention(**changes):
    arguments = {
        "cache": np.zeros((2, 2, 1, 4, 1, 8), np.float32),
        "num_heads": 2,
        "begins": np.array([0, 2]),
        "first_slots": np.array([2]),
        "num_context": np.array([1]),
        "ancestors": np.full((2, 2), 3),
        **changes,
    }
    return _C.CachedAttention(**arguments)


def attend(core=None, layer=0, **changes):
    arguments = {
        "qkv": np.zeros((2, 32), np.float32),
        "cosine": np.ones((2, 4), np.float32),
        "sine": np.zeros((2, 4), np.float32),
        "out": np.zeros((2, 16), np.float32),
        "q_norm": np.ones(8, np.float32),
        "k_norm": np.ones(8, np.float32),
        **changes,
    }
    return (core or attention())(layer, **arguments)


def norm(**changes):
    arguments = {
        "x": np.ones((2, 3), np.float32),
        "weight": np.ones(3, np.float32),
        "out": np.ones((2, 3), np.float32),
        "eps": 1e-6,
        **changes,
    }
    return _C.rms_norm(**arguments)


def item_logits(**changes):
    arguments = {
        "states": np.ones((1, 2, 3), np.float32),
        "rows": np.ones((4, 3), np.float32),
        "slots": np.zeros((2, 3), np.int32),
        "prefixes": np.array([[0, 1]]),
        "out": np.zeros((1, 2, 3), np.float32),
        **changes,
    }
    return _C.item_logits(**arguments)


def evidence(**changes):
    matrix = {
        "indptr": np.array([0, 1, 3]),
        "indices": np.array([0, 1, 0], np.int32),
        "data": np.ones(3, np.float32),
        **changes,
    }
    return _C.Evidence(**matrix)


def top_evidence(**changes):
    arguments = {
        **{"history_rows": np.array([0, 1, 0]), "offsets": np.array([0, 1, 3])},
        **{"decay": 0.5, "num_recent": 2, "k": 2, **changes},
    }
    return evidence().top(**arguments)


def score_evidence(rows):
    return evidence().score(np.array([0, 1, 0]), np.array([0, 1, 3]), 0.5, 2, rows)


def rank_items(first=None, **changes):
    logprobs = [np.zeros((2, 4), np.float32) if first is None else first]
    arguments = {"level_logprobs": [*logprobs, np.zeros((2, 3), np.float32)], "k": 2, **changes}
    return _C.rank_items(TRIE, **arguments)


class Argument(NamedTuple):
    """A function of one of its array arguments, and one that is right."""

    call: Callable
    right: np.ndarray


def keyword(call, name, right):
    return Argument(lambda array: call(**{name: array}), right)


ARGUMENTS = {
    "ItemTrie sids": Argument(lambda x: _C.ItemTrie(x, SIZES), SIDS),
    "ItemTrie.leaf_rows": Argument(TRIE.leaf_rows, IDS[:3]),
    "LiveTrie sids": Argument(lambda x: _C.LiveTrie(x, IDS, SIZES), SIDS),
    "LiveTrie item_ids": Argument(lambda x: _C.LiveTrie(SIDS, x, SIZES), IDS),
    "add sids": Argument(lambda x: live().add(x, IDS + 4), SIDS),
    "add item_ids": Argument(lambda x: live().add(SIDS, x), IDS + 4),
    "remove": Argument(lambda x: live().remove(x), IDS),
    "rows_of": Argument(lambda x: live().snapshot().rows_of(x), IDS),
    "item_ids": Argument(lambda x: live().snapshot().item_ids(x), IDS),
    "Snapshot.leaf_rows": Argument(lambda x: live().snapshot().leaf_rows(x), IDS[:3]),
    "from_rows": Argument(lambda x: _C.RowSet.from_rows(TRIE, x), IDS),
    "exclude offsets": Argument(
        lambda x: _C.ItemFilter(TRIE, 3, exclude=(x, IDS)), np.array([0, 1, 1, 4])
    ),
    "exclude rows": Argument(
        lambda x: _C.ItemFilter(TRIE, 3, exclude=(np.array([0, 1, 1, 4]), x)), IDS
    ),
    "ItemFilter.leaf_rows": Argument(_C.ItemFilter(TRIE, 1).leaf_rows, LEAVES),
    "unique_leaves": Argument(lambda x: _C.unique_leaves(TRIE, 1, x), LEAVES),
    "next_codes": Argument(lambda x: _C.next_codes(TRIE, x, 20), LEAVES),
    "logits": keyword(step, "logits", np.zeros((1, 2, 4), np.float32)),
    "bfloat16 logits": keyword(step, "logits", np.zeros((1, 2, 4), np.uint16)),
    "scores": keyword(step, "scores", np.zeros((1, 2), np.float32)),
    "nodes": keyword(step, "nodes", np.zeros((1, 2), np.int64)),
    "num_valid": keyword(step, "num_valid", np.full(1, 2)),
    "cache": keyword(attention, "cache", np.zeros((2, 2, 1, 4, 1, 8), np.float32)),
    "begins": keyword(attention, "begins", np.array([0, 2])),
    "first_slots": keyword(attention, "first_slots", np.array([2])),
    "num_context": keyword(attention, "num_context", np.array([1])),
    "ancestors": keyword(attention, "ancestors", np.full((2, 2), 3)),
    "qkv": keyword(attend, "qkv", np.zeros((2, 32), np.float32)),
    "cosine": keyword(attend, "cosine", np.zeros((2, 4), np.float32)),
    "sine": keyword(attend, "sine", np.zeros((2, 4), np.float32)),
    "out": keyword(attend, "out", np.zeros((2, 16), np.float32)),
    "q_norm": keyword(attend, "q_norm", np.ones(8, np.float32)),
    "k_norm": keyword(attend, "k_norm", np.ones(8, np.float32)),
    "x": keyword(norm, "x", np.ones((2, 3), np.float32)),
    "weight": keyword(norm, "weight", np.ones(3, np.float32)),
    "states": keyword(item_logits, "states", np.ones((1, 2, 3), np.float32)),
    "rows": keyword(item_logits, "rows", np.ones((4, 3), np.float32)),
    "slots": keyword(item_logits, "slots", np.zeros((2, 3), np.int32)),
    "prefixes": keyword(item_logits, "prefixes", np.array([[0, 1]])),
    "item_logits out": keyword(item_logits, "out", np.zeros((1, 2, 3), np.float32)),
    "indptr": keyword(evidence, "indptr", np.array([0, 1, 3])),
    "indices": keyword(evidence, "indices", np.array([0, 1, 0], np.int32)),
    "data": keyword(evidence, "data", np.ones(3, np.float32)),
    "history_rows": keyword(top_evidence, "history_rows", np.array([0, 1, 0])),
    "offsets": keyword(top_evidence, "offsets", np.array([0, 1, 3])),
    "evidence rows": Argument(score_evidence, np.zeros((2, 2), np.int64)),
    "level_logprobs": Argument(rank_items, np.zeros((2, 4), np.float32)),
    "norm out": keyword(norm, "out", np.ones((2, 3), np.float32)),
}
WRITTEN = {"cache", "out", "norm out", "item_logits out"}


def unaligned(array):
    """The same numbers one byte off their alignment."""
    raw = np.zeros(array.nbytes + 1, np.uint8)
    raw[1:] = np.frombuffer(array.tobytes(), np.uint8)
    return raw[1:].view(array.dtype).reshape(array.shape)


def strided(array):
    wide = np.zeros((*array.shape, 2), array.dtype)
    wide[..., 0] = array
    return wide[..., 0]


# each must be refused with a TypeError wherever an array is expected
STRANGE = {
    "unaligned": unaligned,
    "strided": strided,
    "byte order": lambda x: x.astype(x.dtype.newbyteorder()),
    "list": np.ndarray.tolist,
    "float64": lambda x: x.astype(np.float64),
    "bool": lambda x: x.astype(bool),
    "object": lambda x: x.astype(object),
    "complex": lambda x: x.astype(np.complex64),
    "unsigned": lambda x: x.astype(np.uint64),
    "void": lambda x: x.view(np.dtype((np.void, x.itemsize))),
    "record": lambda x: x.view([("x", x.dtype)]),
    "datetime": lambda x: x.astype(np.int64).view("datetime64[s]"),
    "bytes": bytes,
    "memoryview": memoryview,
    "scalar": lambda x: x.dtype.type(0),
    "type": type,
}


@pytest.mark.parametrize("strange", STRANGE)
@pytest.mark.parametrize("name", ARGUMENTS)
def test_strange_arrays_are_type_errors(name, strange):
    call, right = ARGUMENTS[name]
    call(right.copy())
    if strange == "strided" and right.size == 1:
        return  # one number is contiguous, whatever its strides
    with pytest.raises(TypeError):
        call(STRANGE[strange](right))


SHAPES = {
    "0-D": lambda x: np.array(x.reshape(-1)[0]),
    "one more": lambda x: x[..., None],
    "one before": lambda x: x[None],
    "flat": lambda x: np.concatenate([x.reshape(-1)] * 3),
    "longer": lambda x: np.concatenate([x] * 3, axis=-1),
    "huge and empty": lambda x: np.zeros((2**48, *[0] * max(1, x.ndim - 1)), x.dtype),
    "wide and empty": lambda x: np.zeros((*[0] * max(1, x.ndim - 1), 2**48), x.dtype),
}
ANY_LENGTH = {"ItemTrie.leaf_rows", "Snapshot.leaf_rows", "rows_of", "item_ids", "from_rows"}
# what is right although it is another shape
RIGHT = {
    *((name, shape) for name in ANY_LENGTH for shape in ("flat", "longer")),
    *((name, "longer") for name in ("unique_leaves", "ItemFilter.leaf_rows", "evidence rows")),
    *((name, "wide and empty") for name in ("unique_leaves", "next_codes")),
    ("next_codes", "longer"),
    ("cache", "longer"),  # of larger heads
    ("ancestors", "longer"),  # more of them
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", ARGUMENTS)
def test_wrong_shapes_are_value_errors(name, shape):
    call, right = ARGUMENTS[name]
    if (name, shape) in RIGHT:
        call(SHAPES[shape](right))
        return
    with pytest.raises(ValueError):
        call(SHAPES[shape](right))


EXTREME = [-(2**63), -(2**31), -2, 5, 2**31, 2**32, 2**62, 2**63 - 1]
# every int64 is an id, or a row that a matrix may have
ANY_ID = {"LiveTrie item_ids", "add item_ids", "rows_of", "history_rows", "evidence rows"}
ANY_ID |= {"next_codes"}  # or a token


@pytest.mark.parametrize("value", EXTREME)
@pytest.mark.parametrize(
    "name",
    [n for n, (_, right) in ARGUMENTS.items() if right.dtype.kind == "i" and n not in ANY_ID],
)
def test_indices_out_of_range_are_value_errors(name, value):
    call, right = ARGUMENTS[name]
    for position in range(right.size):
        array = right.copy()
        limits = np.iinfo(array.dtype)
        array.reshape(-1)[position] = min(max(value, limits.min), limits.max)
        with pytest.raises(ValueError):
            call(array)


@pytest.mark.parametrize("name", sorted(WRITTEN))
def test_what_is_written_to_must_be_writable(name):
    call, right = ARGUMENTS[name]
    frozen = right.copy()
    frozen.flags.writeable = False
    with pytest.raises(ValueError, match="writ"):
        call(frozen)


@pytest.mark.parametrize("name", sorted(set(ARGUMENTS) - WRITTEN))
def test_what_is_only_read_may_be_read_only(name):
    call, right = ARGUMENTS[name]
    frozen = right.copy()
    frozen.flags.writeable = False
    call(frozen)


COUNTS = {
    "ItemTrie num_threads": lambda n: _C.ItemTrie(SIDS, SIZES, num_threads=n),
    "LiveTrie num_threads": lambda n: _C.LiveTrie(SIDS, IDS, SIZES, num_threads=n),
    "beam_step num_threads": lambda n: step(num_threads=n),
    "attention num_threads": lambda n: attention(num_threads=n),
    "rms_norm num_threads": lambda n: norm(num_threads=n),
    "item_logits num_threads": lambda n: item_logits(num_threads=n),
    "evidence num_threads": lambda n: top_evidence(num_threads=n),
    "evidence k": lambda n: top_evidence(k=n),
    "num_recent": lambda n: top_evidence(num_recent=-abs(n)),
    "rank_items num_threads": lambda n: rank_items(num_threads=n),
    "rank_items k": lambda n: rank_items(k=n),
    "width": lambda n: step(width=n),
    "beam_step level": lambda n: _C.beam_step(
        TRIE,
        n,
        np.zeros((0, 1, 4), np.float32),
        np.zeros((0, 1), np.float32),
        LEAVES[:0, :1],
        IDS[:0],
        1,
    ),
    "unique_leaves level": lambda n: _C.unique_leaves(TRIE, n, LEAVES),
    "next_codes num_threads": lambda n: _C.next_codes(TRIE, LEAVES, 20, num_threads=n),
    "ItemTrie.level": lambda n: TRIE.level(n),
    "layer": lambda n: attend(layer=n),
    "num_heads": lambda n: attention(num_heads=n),
    "num_heads of nothing": lambda n: attention(
        num_heads=n,
        cache=np.zeros((1, 2, 0, 1, 1, 2), np.float32),
        begins=IDS[:1],
        first_slots=IDS[:0],
        num_context=IDS[:0],
        ancestors=None,
    ),
    "batch": lambda n: _C.ItemFilter(TRIE, n),
    "codebook size": lambda n: _C.ItemTrie(SIDS, [4, n]),
    "max_changes": lambda n: _C.LiveTrie(SIDS, IDS, SIZES, max_changes=-abs(n)),
}
HUGE = [-(2**63), -1, 2**31, 2**40, 2**53, 2**61, 2**62, 2**63 - 1]


@pytest.mark.parametrize("number", HUGE)
@pytest.mark.parametrize("name", COUNTS)
def test_absurd_numbers_are_value_errors(name, number):
    with pytest.raises(ValueError):
        COUNTS[name](number)


@pytest.mark.parametrize(
    "number", [2**63, -(2**70), 1.0, 1.5, "1", None, np.float32(1), [1]], ids=str
)
@pytest.mark.parametrize("name", sorted(set(COUNTS) - {"max_changes", "num_recent"}))
def test_what_is_no_integer_is_a_type_error(name, number):
    with pytest.raises(TypeError):
        COUNTS[name](number)


@pytest.mark.parametrize("eps", [np.nan, np.inf, -np.inf, -1.0])
def test_epsilon_is_a_number(eps):
    with pytest.raises(ValueError, match="eps must be finite and not negative"):
        norm(eps=eps)
    with pytest.raises(ValueError, match="norm_eps must be finite and not negative"):
        attend(norm_eps=eps)


@pytest.mark.parametrize("shape", [(2**20, 128), (2**20 + 1, 1), (3, 2**20 + 1)])
def test_a_step_bounds_the_memory_it_takes(shape):
    batch, width = shape
    arrays = (
        np.zeros((batch, 1, 1), np.float32),
        np.zeros((batch, 1), np.float32),
        np.zeros((batch, 1), np.int64),
        np.zeros(batch, np.int64),
    )
    trie = _C.ItemTrie(np.zeros((1, 1), np.int32), [1])
    if shape == (2**20, 128):
        width += 1
    with pytest.raises(ValueError, match=r"batch|width"):
        _C.beam_step(trie, 0, *arrays, width)


def test_the_shape_of_a_cache_may_change_but_not_what_is_written():
    cache = np.zeros((2, 2, 1, 4, 1, 8), np.float32)
    core = attention(cache=cache)
    cache.shape = (16, 2, 1, 1, 1, 4)  # more layers, by its looks
    with pytest.raises(ValueError, match=r"layer must be in \[0, 2\), got 2"):
        attend(core, layer=2)
    attend(core, layer=1)
    cache.flags.writeable = False
    with pytest.raises(ValueError, match="writ"):
        attend(core, layer=1)
    cache.flags.writeable = True
    with pytest.raises(ValueError, match="resize"):
        cache.resize(1)  # NumPy refuses: the core refers to it
    cache.resize((1, 2, 1, 4, 1, 8), refcheck=False)
    with pytest.raises(ValueError, match="the cache was resized"):
        attend(core)
