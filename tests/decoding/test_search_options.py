import inspect

import numpy as np
import pytest
from engines import catalog_of

from store_engine.decoding.engine import Engine
from store_engine.decoding.search_options import MAX_WIDTH, SearchOptions, sets_per_history
from store_engine.errors import InputError


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k": 0}, "k must be at least 1, got 0"),
        ({"k": -3}, "k must be at least 1, got -3"),
        ({"k": MAX_WIDTH + 1}, "k must be at most 100,000, got 100001"),
        ({"k": 10**30}, "k must be at most 100,000, got 10{30}"),
        ({"beam_width": 0}, "beam_width must be at least 1, got 0"),
        ({"beam_width": MAX_WIDTH + 1}, "beam_width must be at most 100,000, got 100001"),
        ({"beam_width": 9}, "beam_width must be at least k, got beam_width 9 < k 10"),
        ({"backend": "cuda"}, "backend must be .*'triton' or 'graph', got 'cuda'"),
        ({"backend": 1}, "backend must be 'auto', 'cpp', 'torch', 'triton' or 'graph', got 1"),
        ({"normalize": "vocab"}, "normalize must be 'codebook' or 'children', got 'vocab'"),
    ],
    ids=lambda x: str(x) if isinstance(x, dict) else "",
)
def test_refuses_values(options, message):
    with pytest.raises(InputError, match=message):
        SearchOptions(**options)


@pytest.mark.parametrize("value", [True, 10.0, "10", None, np.float32(3), np.bool_(True), [1], 1j])
@pytest.mark.parametrize("name", ["k", "beam_width"])
def test_numbers_are_integers(name, value):
    if name == "beam_width" and value is None:
        return  # the engine's
    with pytest.raises(TypeError, match=f"{name} must be an integer, got"):
        SearchOptions(**{name: value})


@pytest.mark.parametrize("value", [1, 0, "yes", None, np.int64(1)])
@pytest.mark.parametrize("name", ["exact", "exclude_history", "evidence"])
def test_flags_are_booleans(name, value):
    if name != "exact" and value is None:
        return  # the engine's
    with pytest.raises(TypeError, match=f"{name} must be True or False, got"):
        SearchOptions(**{name: value})


@pytest.mark.parametrize("value", [1, b"stock", [1], ["stock", b"x"], {"stock"}, iter(["stock"])])
@pytest.mark.parametrize("name", ["allow", "deny"])
def test_item_sets_are_expressions(name, value):
    with pytest.raises(TypeError, match=f"{name} must be an expression over item sets, or a list"):
        SearchOptions(**{name: value})


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"k": np.int64(3), "beam_width": np.uint8(7)},
        {"k": 1, "beam_width": 1, "exact": np.bool_(True)},
        {"k": MAX_WIDTH, "beam_width": MAX_WIDTH},
        {"allow": "a & b", "deny": ["a", None], "backend": "auto", "normalize": "children"},
        {"allow": ("a", None), "exclude": [["1"], []], "exclude_history": False},
    ],
    ids=str,
)
def test_accepts(options):
    made = SearchOptions(**options)
    assert all(getattr(made, name) is value for name, value in options.items())


@pytest.mark.parametrize(
    ("k", "beam_width", "default", "width"),
    [(10, None, 20, 20), (30, None, 20, 30), (10, 15, 20, 15), (10, 50, 20, 50)],
)
def test_width(k, beam_width, default, width):
    assert SearchOptions(k, beam_width=beam_width).width(default) == width


def test_sets_per_history():
    assert sets_per_history("allow", None, 2) == [None, None]
    assert sets_per_history("allow", "stock", 2) == ["stock", "stock"]
    assert sets_per_history("allow", ["stock", None], 2) == ["stock", None]
    with pytest.raises(InputError, match=r"deny must hold one item set per history \(2\), got 1"):
        sets_per_history("deny", ["stock"], 2)


@pytest.mark.parametrize("name", ["recommend", "recommend_rows"])
def test_methods_take_the_fields_as_arguments(name, make_engine):
    """Declared once, and seen by help() and editors."""
    own, *options = inspect.signature(getattr(Engine, name)).parameters.values()
    fields = inspect.signature(SearchOptions).parameters.values()
    assert own.name == "self"
    assert [(p.name, p.default) for p in options[1:]] == [(p.name, p.default) for p in fields]
    assert [p.kind.name for p in options[2:]] == ["KEYWORD_ONLY"] * 11
    method, history = getattr(make_engine(), name), {"recommend": ["item 1"]}.get(name, [1])
    by_name = method([history], k=3, exclude_history=True)
    assert str(by_name) == str(method([history], 3, exclude_history=True))
    assert str(by_name) == str(method(histories=[history], k=3, exclude_history=True))
    with pytest.raises(TypeError, match="no_such"):
        method([history], no_such=1)
    with pytest.raises(TypeError, match="positional"):
        method([history], 3, 20)  # is it a beam width?


LARGE = [10**6000, "x" * 10**6, ["x" * 10**6], np.arange(2), catalog_of(999)]


@pytest.mark.parametrize("value", LARGE, ids=["int", "str", "list", "array", "catalogue"])
@pytest.mark.parametrize("name", [*inspect.signature(SearchOptions).parameters])
def test_whatever_the_value_the_message_is_one_short_line(name, value):
    if name in ("exclude", "users") or (
        name in ("allow", "deny") and isinstance(value, str | list)
    ):
        return  # looked at where the items are known
    with pytest.raises((InputError, TypeError)) as caught:
        SearchOptions(**{name: value})
    assert len(str(caught.value)) < 400
    assert "\n" not in str(caught.value)
