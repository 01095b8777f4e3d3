import enum

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from store_engine.catalog.item_ids import check_histories, check_item_ids


class Color(enum.StrEnum):
    RED = "red"


class Loud(str):
    def __str__(self):
        return "loud"


IDS = st.lists(st.text())
WRONG_LISTS = {
    "text": ("12", r"exclude must be a list of item ids, got one str: did you mean \['12'\]\?"),
    "empty text": ("", "got one str"),
    "numpy text": (np.str_("12"), r"did you mean \['12'\]"),
    "bytes": (b"12", "got one bytes"),
    "bytearray": (bytearray(b"12"), "got one bytearray"),
    "None": (None, "got None"),
    "number": (12, "got int"),
    "no dimensions": (np.array("12"), "got ndarray"),
    "mapping": ({"12": 1}, "got dict"),
}
WRONG_IDS = {
    "int": (50, "exclude: item ids are text: got 50, did you mean '50'?"),
    "unknown int": (51, "exclude: item ids are text: got 51"),
    "numpy int": (np.int64(50), "exclude: item ids are text: got 50, did you mean '50'?"),
    "numpy scalar array": (np.array(50), "exclude: item ids are text: got 50, did you mean '50'?"),
    "float": (1.5, "exclude: item ids are text: got 1.5, did you mean '1.5'?"),
    "bool": (True, "exclude: item ids are text: got True"),
    "huge int": (10**5000, "exclude: item ids are text: got int"),
    "nan": (float("nan"), "exclude: item ids are text: got float"),
    "bytes": (b"50", "exclude: item ids are text: got bytes"),
    "None": (None, "exclude: item ids are text: got None"),
    "list": (["50"], "exclude: item ids are text: got list"),
    "array": (np.zeros((2, 2)), "exclude: item ids are text: got ndarray"),
}


@given(ids=IDS, make=st.sampled_from([list, tuple, iter, np.array, lambda ids: (i for i in ids)]))
def test_every_iterable_gives_the_same_ids(ids, make):
    ids = [i.rstrip("\0") for i in ids]  # a numpy string ends before its NULs
    got = check_item_ids(make(ids) if ids else [], "exclude")
    assert got == ids
    assert all(type(one) is str for one in got)


@given(histories=st.lists(IDS))
def test_iterators_of_iterators_are_read_once(histories):
    assert check_histories((iter(one) for one in histories), "histories") == histories
    assert check_histories(iter([tuple(one) for one in histories]), "histories") == histories


@given(text=st.text())
def test_text_is_never_a_list_of_ids(text):
    for check in (check_item_ids, check_histories):
        for wrong in (text, text.encode(errors="replace"), np.str_(text)):
            with pytest.raises(TypeError):
                check(wrong, "exclude")
    with pytest.raises(TypeError):
        check_histories([[text], text], "exclude")


@given(value=st.integers() | st.floats() | st.binary() | st.none() | st.booleans() | IDS)
def test_only_text_is_an_id(value):
    for check, wrong in ((check_item_ids, ["1", value]), (check_histories, [[], ["1", value]])):
        with pytest.raises(TypeError, match=r"^exclude(\[1\])?: item ids are text: got ") as error:
            check(wrong, "exclude")
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(("ids", "message"), WRONG_LISTS.values(), ids=WRONG_LISTS)
def test_refuses_what_is_no_list(ids, message):
    with pytest.raises(TypeError, match=message):
        check_item_ids(ids, "exclude")


@pytest.mark.parametrize(("item_id", "message"), WRONG_IDS.values(), ids=WRONG_IDS)
def test_refuses_what_is_no_id(item_id, message):
    with pytest.raises(TypeError) as error:
        check_item_ids(["7", item_id], "exclude", known={"50", "1.5"})
    assert str(error.value) == message


def test_a_hint_without_known_ids():
    with pytest.raises(TypeError, match=r"^exclude: item ids are text: got 51, did you mean '51'"):
        check_item_ids([51], "exclude")


def test_an_array_of_numbers():
    with pytest.raises(TypeError, match="got 50, did you mean '50'"):
        check_item_ids(np.array([50, 51]), "exclude")


def test_kinds_of_text():
    got = check_item_ids([np.str_("a"), Color.RED, Loud("b")], "exclude")
    assert got == ["a", "red", "b"]
    assert {type(one) for one in got} == {str}


def test_sets_where_the_order_has_no_meaning():
    assert sorted(check_item_ids({"a", "b"}, "exclude")) == ["a", "b"]
    assert check_histories([{"a"}, frozenset()], "exclude", is_ordered=False) == [["a"], []]
    assert check_item_ids({"a": 1}.keys(), "exclude") == ["a"]
    for histories in ({("a",)}, [{"a"}], [["b"], {"a": 1}.keys()]):
        with pytest.raises(TypeError, match=r"in order, got a (set|dict_keys)"):
            check_histories(histories, "histories")


@pytest.mark.parametrize(
    ("histories", "message"),
    [
        (["12"], r"list of lists of item ids, such as .* but histories\[0\] is the text '12'"),
        ([["1"], "x" * 999], r"but histories\[1\] is the text 'xxx.{1,40}'$"),
        ([["1"], None], r"histories\[1\] must be a list of item ids, got None"),
        ([["1"], [2]], r"histories\[1\]: item ids are text: got 2, did you mean '2'"),
        ([1, 2], r"histories\[0\] must be a list of item ids, got int"),
        ("12", "histories must be a list of lists of item ids, .* got one str"),
        (None, "histories must be a list of lists of item ids, .* got None"),
        ({"u": ["1"]}, "histories must be a list of lists of item ids, .* got dict"),
        (np.array(["1", "2"]), r"but histories\[0\] is the text '1'"),
    ],
    ids=range(9),
)
def test_histories_name_the_position(histories, message):
    with pytest.raises(TypeError, match=message):
        check_histories(histories, "histories")


def test_an_error_of_the_callers_iterator_is_the_callers():
    def ids():
        yield "1"
        raise RuntimeError("from the database")

    with pytest.raises(RuntimeError, match="from the database"):
        check_item_ids(ids(), "exclude")
