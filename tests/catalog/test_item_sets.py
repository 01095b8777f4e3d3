import numpy as np
import pytest

from store_engine._C import ItemTrie
from store_engine.catalog.item_sets import ItemSets
from store_engine.errors import InputError

A, B, C = {0, 1, 2, 3}, {2, 3, 4, 5}, {0, 5, 7}
EVERY = set(range(8))


@pytest.fixture
def definitions():
    sets = {"a": A, "b": B, "c": C}
    return {name: np.array(sorted(rows), dtype=np.int64) for name, rows in sets.items()}


@pytest.fixture
def sets(definitions):
    trie = ItemTrie(np.zeros((8, 2), dtype=np.int32), [1, 1])
    return ItemSets(trie, definitions, lambda rows: rows)


@pytest.mark.parametrize(
    ("allow", "deny", "want"),
    [
        ("a", None, A),
        (" ( a ) ", None, A),
        ("~a", None, EVERY - A),
        ("a & b", None, A & B),
        ("a | b & c", None, A | (B & C)),
        ("(a | b) & ~c", None, (A | B) - C),
        (None, "a | c", EVERY - A - C),
        ("a | b", "c", (A | B) - C),
        ("a", "a", set()),
    ],
)
def test_expressions(sets, allow, deny, want):
    for _ in range(2):  # the second time from memory
        assert set(sets.resolve(allow, deny).rows().tolist()) == want


def test_no_expression_is_no_set(sets):
    assert sets.resolve(None, None) is None


def test_a_set_can_be_replaced(sets, definitions):
    assert sets.resolve("a & b", None).count == 2
    definitions["b"] = np.array([3, 3], dtype=np.int64)
    assert sets.resolve("a & b", None).rows().tolist() == [3]


def test_only_what_the_trie_has():
    rows = np.array([5, 6, 7], dtype=np.int64)
    trie = ItemTrie(np.zeros((3, 1), dtype=np.int32), [1])
    sets = ItemSets(trie, {"a": rows}, lambda rows: rows[rows < 7] - 5)
    assert sets.resolve("a", None).rows().tolist() == [0, 1]
    assert sets.resolve(None, "a").rows().tolist() == [2]


def test_old_expressions_are_forgotten(sets):
    first = sets.resolve("a", None)
    for n in range(100):
        sets.resolve("a" + " & b" * n, "c")
    assert len(sets._resolved) == 64
    assert sets.resolve("a", None).rows().tolist() == first.rows().tolist()


@pytest.mark.parametrize(
    "expression",
    ["", "a &", "a) | (b", "a and b", "a - b", "f(a)", "a.b", "1", "'a'", "not a", "a\n=b", "\0"],
)
@pytest.mark.parametrize("side", ["allow", "deny"])
def test_refuses_what_is_no_expression(sets, expression, side):
    with pytest.raises(InputError, match="an item set must read like"):
        sets.resolve(**({"allow": None, "deny": None} | {side: expression}))


@pytest.mark.parametrize("expression", ["a & " * 900 + "a", "~" * 5000 + "a", "(" * 2000])
def test_refuses_what_is_too_long(sets, expression):
    with pytest.raises(InputError, match="1000 characters at most"):
        sets.resolve(expression, None)


def test_deep_expressions_are_refused_or_right(sets):
    assert sets.resolve("~" * 90 + "a", None).count == len(A)
    with pytest.raises(InputError, match="an item set must read like"):
        sets.resolve("(" * 499 + "a" + ")" * 499, None)


def test_unknown_name(sets):
    with pytest.raises(InputError, match="unknown item set 'books'; defined: a, b, c"):
        sets.resolve("a & books", None)
    with pytest.raises(InputError, match="unknown item set 'x'; defined: none"):
        ItemSets(ItemTrie(np.zeros((1, 1), dtype=np.int32), [1]), {}, list).resolve(None, "x")
