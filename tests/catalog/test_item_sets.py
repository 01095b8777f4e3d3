import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from store_engine._C import ItemTrie
from store_engine.catalog.item_sets import ItemSets
from store_engine.catalog.row_map import SameRows, SubsetRows
from store_engine.catalog.set_expression import check_set_name
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
    return ItemSets(trie, SameRows(), definitions)


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


def test_a_set_can_be_replaced_beside_the_old_one(sets):
    assert sets.resolve("a & b", None).count == 2
    changed = sets.with_definition("b", np.array([3, 3], dtype=np.int64))
    assert changed.resolve("a & b", None).rows().tolist() == [3]
    assert changed.resolve("a & c", None).rows().tolist() == [0]
    assert sets.resolve("a & b", None).rows().tolist() == [2, 3]


def test_definitions_cannot_be_changed_from_outside(sets, definitions):
    definitions["a"] = np.zeros(0, dtype=np.int64)
    with pytest.raises(TypeError):
        sets.definitions["a"] = definitions["a"]
    assert set(sets.resolve("a", None).rows().tolist()) == A


def test_only_what_the_trie_has():
    rows = np.array([5, 6, 7], dtype=np.int64)
    trie = ItemTrie(np.zeros((2, 1), dtype=np.int32), [1])
    sets = ItemSets(trie, SubsetRows(np.array([5, 6])), {"a": rows[1:], "b": rows})
    assert sets.resolve("a", None).rows().tolist() == [1]
    assert sets.resolve("b", "a").rows().tolist() == [0]


def test_old_expressions_are_forgotten(sets):
    first = sets.resolve("a", "b")
    for n in range(63):  # 64 are kept
        sets.resolve("a" + " & b" * n, "c")
    assert sets.resolve("a", "b") is first
    for n in range(64):
        sets.resolve("b" + " & a" * n, "c")
    again = sets.resolve("a", "b")
    assert again is not first and again.rows().tolist() == first.rows().tolist()


@pytest.mark.parametrize(
    "expression",
    [
        *(
            "",
            "a &",
            "& a",
            "a | | b",
            "a ~ b",
            "a b",
            "(a",
            "a)",
            "()",
            "~",
            "a (b)",
            "a ~",
            "(~)",
        ),
        *("a) | (b", "a and b", "a - b", "f(a)", "a.b", "1", "b'a'", "not a", "a\n=b", "\0"),
        *('"a', "'a", "\"a'", '""', "''", "a 'b'", "'a' 'b'", '"a" b', "a\0", "a,b", "a[0]", "🙂"),
    ],
)
@pytest.mark.parametrize("side", ["allow", "deny"])
def test_refuses_what_is_no_expression(sets, expression, side):
    with pytest.raises(InputError, match="an item set must read like"):
        sets.resolve(**({"allow": None, "deny": None} | {side: expression}))


@pytest.mark.parametrize("expression", ["a & " * 900 + "a", "~" * 5000 + "a", "(" * 2000])
def test_refuses_what_is_too_long(sets, expression):
    with pytest.raises(InputError, match="1000 characters at most"):
        sets.resolve(expression, None)


@pytest.mark.parametrize(
    "expression",
    [
        "~" * 998 + "a",
        "(" * 499 + "a" + ")" * 499,
        "a" + " & a" * 249,
        "~(" * 300 + "a" + ")" * 300,
    ],
    ids=["not", "parentheses", "chain", "both"],
)
def test_deep_expressions_are_right(sets, expression):
    assert set(sets.resolve(expression, None).rows().tolist()) == A


NAMES = [
    "a",
    "b",
    "Dog food",
    "it's",
    'a "b"',
    "class",
    "None",
    "ﬁ",
    "ünder_wäsche",
    "50%",
    "x" * 200,
]


def quoted(name):
    return f'"{name}"' if '"' not in name else f"'{name}'"


def expressions():
    """Expressions with their value over sets of rows, both built from the same draw."""
    every = frozenset(range(8))
    values = {name: frozenset({i % 8, (i * 3 + 1) % 8}) for i, name in enumerate(NAMES)}

    def grow(children):
        both = st.tuples(children, children)
        return st.one_of(
            children.map(lambda x: (f"~({x[0]})", every - x[1])),
            both.map(lambda x: (f"({x[0][0]}) & ({x[1][0]})", x[0][1] & x[1][1])),
            both.map(lambda x: (f"(({x[0][0]})|({x[1][0]}))", x[0][1] | x[1][1])),
        )

    names = st.sampled_from(NAMES[:-1])
    return st.recursive(names.map(lambda n: (quoted(n), values[n])), grow), values


EXPRESSIONS, VALUES = expressions()


@given(EXPRESSIONS)
def test_expressions_of_all_forms(expression):
    trie = ItemTrie(np.zeros((8, 2), dtype=np.int32), [1, 1])
    definitions = {name: np.array(sorted(rows)) for name, rows in VALUES.items()}
    text, want = expression
    if len(text) <= 1000:
        got = ItemSets(trie, SameRows(), definitions).resolve(text, None)
        assert set(got.rows().tolist()) == want


@given(st.text(alphabet="ab &|~()\"'1", max_size=12))
def test_any_text_is_an_expression_or_refused(text):
    trie = ItemTrie(np.zeros((8, 2), dtype=np.int32), [1, 1])
    sets = ItemSets(trie, SameRows(), {"a": np.array([0]), "b": np.array([1])})
    try:
        sets.resolve(text, None)
    except InputError as error:
        assert "\n" not in str(error)


@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
def test_every_name_that_may_be_defined_can_be_written(name):
    check_set_name(name)
    trie = ItemTrie(np.zeros((8, 2), dtype=np.int32), [1, 1])
    sets = ItemSets(trie, SameRows(), {name: np.array([4])})
    spellings = [quoted(name)] + ([name] if name.isidentifier() else [])
    for spelling, spaces in itertools.product(spellings, ("", " ", "\t\n")):
        assert sets.resolve(spaces + spelling + spaces, None).rows().tolist() == [4]


@pytest.mark.parametrize(
    "name", ["", "x" * 201, "a\nb", "\0", "both ' and \"", "\ud800"], ids=range(6)
)
def test_refuses_names_that_no_expression_could_hold(name):
    with pytest.raises(InputError, match="the name of an item set must"):
        check_set_name(name)


@pytest.mark.parametrize("name", [None, 5, b"a", ["a"]])
def test_a_name_is_text(name):
    with pytest.raises(TypeError, match="the name of an item set is text, got"):
        check_set_name(name)


@pytest.mark.parametrize("value", [5, b"a", ["a"], True])
@pytest.mark.parametrize("side", ["allow", "deny"])
def test_an_expression_is_text(sets, value, side):
    with pytest.raises(TypeError, match=f"{side} must be an expression in text, got"):
        sets.resolve(**({"allow": None, "deny": None} | {side: value}))


def test_unknown_name(sets):
    with pytest.raises(InputError, match="unknown item set 'books'; defined: a, b, c"):
        sets.resolve("a & books", None)
    with pytest.raises(InputError, match="unknown item set 'x'; defined: none"):
        ItemSets(ItemTrie(np.zeros((1, 1), dtype=np.int32), [1]), SameRows(), {}).resolve(None, "x")
