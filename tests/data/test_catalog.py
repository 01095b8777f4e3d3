import numpy as np
import pytest

from store_engine.data.catalog import Catalog
from store_engine.errors import InputError

CATALOG = Catalog(
    ("a", "b", "ü\n3"), {"title": ("Ball", "", "Dé"), "categories": ("Toys > Balls", "Home", "")}
)


def test_rows_and_text():
    assert CATALOG.num_items == 3
    assert [CATALOG.row_of(i) for i in CATALOG.item_ids] == [0, 1, 2]


def test_unknown_item():
    with pytest.raises(InputError, match="unknown item id 'c'"):
        CATALOG.row_of("c")


def test_save_and_load(tmp_path):
    CATALOG.save(tmp_path / "items.jsonl")
    assert Catalog.load(tmp_path / "items.jsonl") == CATALOG
    assert [p.name for p in tmp_path.iterdir()] == ["items.jsonl"]


def test_a_failed_save_leaves_the_old_file(tmp_path):
    path = tmp_path / "items.jsonl"
    CATALOG.save(path)
    before = path.read_bytes()
    with pytest.raises(UnicodeEncodeError):
        Catalog(("a", "b"), {"title": ("fine", "\udc80")}).save(path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["items.jsonl"]


@pytest.mark.parametrize(
    ("item_ids", "fields", "message"),
    [
        ((), {"title": ()}, "at least one item"),
        (("a",), {}, "at least one text field"),
        (("a", "b"), {"title": ("x",)}, "field title must have one text per item"),
        (("a", "b", "a"), {"title": ("x",) * 3}, r"'a' appears twice \(rows 0 and 2\)"),
        (("a", ""), {"title": ("x",) * 2}, r"must not be empty \(catalogue row 1\)"),
    ],
    ids=["no items", "no fields", "short field", "duplicate", "empty id"],
)
def test_rejects_items(item_ids, fields, message):
    with pytest.raises(InputError, match=message):
        Catalog(item_ids, fields)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "at least one item"),
        (b'{"item_id": "a", "text": {"t": "x"}}\nnot json\n', "line 2: not valid JSON"),
        (b'{"item_id": "\xff", "text": {"t": "x"}}\n', "line 1: not valid JSON"),
        (b'{"item_id": 1, "text": {"t": "x"}}\n', "line 1: expected"),
        (b'{"item_id": "a", "text": {"t": null}}\n', "line 1: expected"),
        (
            b'{"item_id": "a", "text": {"t": "x"}}\n{"item_id": "b", "text": {"u": "x"}}\n',
            "line 2: fields must be t, got u",
        ),
    ],
    ids=["empty", "not json", "not utf-8", "number id", "null text", "other fields"],
)
def test_load_rejects(tmp_path, content, message):
    path = tmp_path / "items.jsonl"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message) as error:
        Catalog.load(path)
    assert str(path) in str(error.value)


def test_load_rejects_a_missing_file(tmp_path):
    with pytest.raises(InputError, match="No such file"):
        Catalog.load(tmp_path / "items.jsonl")


NO_TEXTS = ["ab", b"ab", None, 5, float("nan"), {"a": 1, "b": 2}, {"a", "b"}, [1, 2], ["a", None]]
NO_TEXTS += [
    ["a", b"b"],
    np.arange(2),
    np.array("a"),
    [["a"], ["b"]],
    ["a", float("nan")],
    object(),
]


@pytest.mark.parametrize("value", NO_TEXTS, ids=range(len(NO_TEXTS)))
def test_one_text_is_no_list_of_texts(value):
    for parts in (
        (value, {"title": ("x", "y")}),
        (("a", "b"), {"title": value}),
        (("a", "b"), value if not isinstance(value, dict) else [value]),
    ):
        with pytest.raises(TypeError):
            Catalog(*parts)
    if not isinstance(value, str):
        with pytest.raises(TypeError):
            CATALOG.row_of(value)


@pytest.mark.parametrize("make", [tuple, list, iter, np.array], ids=lambda make: make.__name__)
def test_texts_are_copied_once(make):
    catalog = Catalog(make(["a", "b"]), {"title": make(["x", "y"])})
    assert catalog == Catalog(("a", "b"), {"title": ("x", "y")})
