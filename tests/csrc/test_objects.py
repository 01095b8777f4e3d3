"""Objects without `__init__`, None and strangers wherever an object of the core is expected."""

import copy
import inspect
import pickle

import numpy as np
import pytest

from store_engine import _C

SIDS = np.array([[3, 1], [0, 2], [0, 1], [3, 1]], dtype=np.int32)
SIZES = [4, 3]
IDS = np.arange(4)
NONE_YET = np.zeros(0, np.int64)
BEAMS = (
    np.zeros((1, 1, 4), np.float32),
    np.zeros((1, 1), np.float32),
    np.zeros((1, 1), np.int64),
    np.ones(1, np.int64),
)
HISTORY = np.zeros(1, np.int64), np.arange(2)
LOGPROBS = [np.zeros((1, size), np.float32) for size in SIZES]
LAYER = (
    np.zeros((1, 24), np.float32),
    np.ones((1, 4), np.float32),
    np.zeros((1, 4), np.float32),
    np.zeros((1, 8), np.float32),
)


def attention():
    cache = np.zeros((1, 2, 1, 2, 1, 8), np.float32)
    return _C.CachedAttention(cache, 1, np.arange(2), np.zeros(1, np.int64), np.zeros(1, np.int64))


def evidence():
    return _C.Evidence(IDS[:3], np.zeros(2, np.int32), np.ones(2, np.float32))


TRIE = _C.ItemTrie(SIDS, SIZES)
MAKE = {
    _C.ItemTrie: lambda: TRIE,
    _C.LiveTrie: lambda: _C.LiveTrie(SIDS, IDS, SIZES),
    _C.Snapshot: lambda: _C.LiveTrie(SIDS, IDS, SIZES).snapshot(),
    _C.RowSet: lambda: _C.RowSet.from_rows(TRIE, IDS[:1]),
    _C.ItemFilter: lambda: _C.ItemFilter(TRIE, 1),
    _C.CachedAttention: attention,
    _C.Evidence: evidence,
}
# arguments with which each method works
METHODS = {
    (_C.ItemTrie, "leaf_rows"): (NONE_YET,),
    (_C.ItemTrie, "level"): (0,),
    (_C.ItemTrie, "memory"): (),
    (_C.ItemTrie, "save"): ("/dev/null/none",),
    (_C.LiveTrie, "add"): (SIDS[:0], NONE_YET),
    (_C.LiveTrie, "compact"): (),
    (_C.LiveTrie, "remove"): (NONE_YET,),
    (_C.LiveTrie, "snapshot"): (),
    (_C.Snapshot, "compacted"): (),
    (_C.Snapshot, "item_ids"): (NONE_YET,),
    (_C.Snapshot, "items"): (),
    (_C.Snapshot, "leaf_rows"): (NONE_YET,),
    (_C.Snapshot, "rows_of"): (IDS,),
    (_C.RowSet, "__and__"): (MAKE[_C.RowSet](),),
    (_C.RowSet, "__or__"): (MAKE[_C.RowSet](),),
    (_C.RowSet, "__invert__"): (),
    (_C.RowSet, "rows"): (),
    (_C.ItemFilter, "leaf_rows"): (np.zeros((1, 0), np.int64),),
    (_C.CachedAttention, "__call__"): (0, *LAYER),
    (_C.Evidence, "top"): (*HISTORY, 0.5, 1, 1),
    (_C.Evidence, "score"): (*HISTORY, 0.5, 1, np.zeros((1, 1), np.int64)),
    (_C.Evidence, "sum_terms"): (
        *HISTORY,
        *(1, np.zeros((1, 1), np.int64), np.zeros((2, 1), np.uint16), np.ones(1, np.float32)),
    ),
}
STATIC = {(_C.ItemTrie, "load"), (_C.RowSet, "from_rows")}


def empty(cls):
    """An object of a class whose `__init__` was never run."""
    return cls.__new__(cls)


def members():
    """Everything the classes of the core define: (class, name, attribute)."""
    for cls in vars(_C).values():
        if inspect.isclass(cls) and cls is not _C.BeamStep:
            for name, attribute in vars(cls).items():
                if name not in {"__init__", "__new__", "__doc__", "__module__"}:
                    yield cls, name, attribute


PROPERTIES = [(cls, name) for cls, name, member in members() if isinstance(member, property)]


def test_the_tables_are_complete():
    assert {cls for cls, *_ in members()} == set(MAKE)
    methods = {
        (cls, name)
        for cls, name, member in members()
        if (cls, name) not in PROPERTIES and callable(getattr(cls, name))
    }
    hidden = {name for _, name in methods if name.startswith("_pybind11")}
    assert {m for m in methods if m[1] not in hidden} == set(METHODS) | STATIC


TRIES = {_C.ItemTrie, _C.Snapshot}  # most functions take either


def strangers(*welcome):
    """What may stand where an object of one of these classes belongs, and must be refused."""
    others = [make() for other, make in MAKE.items() if other not in welcome]
    return [None, 5, "trie", object(), *others, *map(empty, MAKE)]


@pytest.mark.parametrize(("cls", "name"), PROPERTIES, ids=str)
def test_properties_of_nothing(cls, name):
    getattr(MAKE[cls](), name)
    with pytest.raises(TypeError):
        getattr(empty(cls), name)
    for stranger in strangers(cls):
        with pytest.raises(TypeError):
            vars(cls)[name].fget(stranger)


@pytest.mark.parametrize(("cls", "name"), METHODS, ids=str)
def test_methods_of_nothing(cls, name):
    method, arguments = getattr(cls, name), METHODS[cls, name]
    try:
        method(MAKE[cls](), *arguments)
    except OSError:
        assert name == "save"
    for stranger in strangers(*TRIES) if name == "leaf_rows" and cls in TRIES else strangers(cls):
        with pytest.raises(TypeError):
            method(stranger, *arguments)


CALLS = {
    "beam_step": (_C.ItemTrie, lambda x: _C.beam_step(x, 0, *BEAMS, 1)),
    "beam_step filter": (
        _C.ItemFilter,
        lambda x: _C.beam_step(TRIE, 0, *BEAMS, 1, item_filter=x),
    ),
    "unique_leaves": (_C.ItemTrie, lambda x: _C.unique_leaves(x, 0, BEAMS[2])),
    "unique_leaves filter": (
        _C.ItemFilter,
        lambda x: _C.unique_leaves(TRIE, 0, BEAMS[2], item_filter=x),
    ),
    "next_codes": (_C.ItemTrie, lambda x: _C.next_codes(x, BEAMS[2], 20)),
    "rank_items": (_C.ItemTrie, lambda x: _C.rank_items(x, LOGPROBS, 1)),
    "rank_items filter": (
        _C.ItemFilter,
        lambda x: _C.rank_items(TRIE, LOGPROBS, 1, item_filter=x),
    ),
    "evidence filter": (
        _C.ItemFilter,
        lambda x: evidence().top(*HISTORY, 0.5, 1, 1, item_filter=x),
    ),
    "from_rows": (_C.ItemTrie, lambda x: _C.RowSet.from_rows(x, IDS[:1])),
    "filter": (_C.ItemTrie, lambda x: _C.ItemFilter(x, 1)),
    "filter allow": (_C.RowSet, lambda x: _C.ItemFilter(TRIE, 1, allow=x)),
    "filter allow each": (_C.RowSet, lambda x: _C.ItemFilter(TRIE, 1, allow=[x])),
    "and": (_C.RowSet, lambda x: MAKE[_C.RowSet]() & x),
    "or": (_C.RowSet, lambda x: MAKE[_C.RowSet]() | x),
}


@pytest.mark.parametrize("call", CALLS)
def test_arguments_that_are_nothing(call):
    cls, run = CALLS[call]
    run(MAKE[cls]())
    for stranger in strangers(*TRIES) if cls is _C.ItemTrie else strangers(cls):
        if stranger is None and ("filter" in call and call != "filter"):
            run(None)  # no filter
            continue
        with pytest.raises(TypeError):
            run(stranger)
    if cls is _C.ItemTrie:
        run(MAKE[_C.Snapshot]())
        with pytest.raises(TypeError, match="must be an ItemTrie or a Snapshot, got Snapshot"):
            run(empty(_C.Snapshot))


@pytest.mark.parametrize("cls", MAKE, ids=lambda cls: cls.__name__)
def test_no_detour_makes_a_usable_nothing(cls):
    class Lazy(cls):
        def __init__(self):
            for owner, name in PROPERTIES:
                if owner is cls:
                    with pytest.raises(TypeError):
                        getattr(self, name)

    with pytest.raises(TypeError, match="__init__"):
        Lazy()
    for copied in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError):
            copied(MAKE[cls]())
    for text in (repr, str, hash):
        text(empty(cls))


def test_init_again_changes_nothing():
    trie = _C.ItemTrie(SIDS, SIZES)
    tokens = trie.level(0)[1]
    trie.__init__(SIDS[:1], SIZES)
    assert trie.num_items == 4
    assert tokens.tolist() == [0, 3]
