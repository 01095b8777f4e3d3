import warnings
from decimal import Decimal

import numpy as np
import pytest
from live_runs import catalog, make_run

from store_engine import Catalog, Engine, InputError
from store_engine.live.item_tokenizer import ItemTokenizer, as_catalog
from store_engine.live.text_check import TextCheck
from store_engine.runs.run import load_run
from store_engine.sid.new_sids import NewItemCodes

FIELDS = ("title", "brand")
SAME = " of new items got the same codes"


@pytest.mark.parametrize(
    ("items", "want"),
    [
        ({"a": {"title": "x", "brand": "y"}}, ("x", "y")),
        ({"a": {}}, ("", "")),
        ({"a": {"brand": None, "title": 3.0}}, ("3", "")),
        ({"a": {"title": ["x", "z"], "brand": Decimal("19.90")}}, ("x, z", "19.90")),
        (Catalog(("a",), {"brand": ("y",), "title": ("x",)}), ("x", "y")),
        (Catalog(("a",), {"title": ("x",)}), ("x", "")),
    ],
)
def test_items_in_any_form(items, want):
    found = as_catalog(items, FIELDS)
    assert found.item_ids == ("a",)
    assert tuple(found.fields) == FIELDS
    assert tuple(texts[0] for texts in found.fields.values()) == want


@pytest.mark.parametrize(
    ("items", "error", "message"),
    [
        ({}, InputError, "at least one item"),
        ({"": {"title": "x"}}, InputError, "must not be empty"),
        ({3: {"title": "x"}}, TypeError, "item_ids must be text"),
        (
            {"a": {"Title": "x"}},
            InputError,
            "unknown field 'Title'; the catalogue has title, brand",
        ),
        ({"a": {"title": b"\xff"}}, InputError, "not UTF-8"),
        ({"a": {"title": {1, 2}}}, InputError, "holds set"),
        ({"a": None}, TypeError, "must map fields"),
        (None, TypeError, "map item ids"),
        (["a"], TypeError, "map item ids"),
    ],
)
def test_refuses(items, error, message):
    with pytest.raises(error, match=message):
        as_catalog(items, FIELDS)


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        (["赤い、ランプと椅子", "彼はそれを見た、本当に"], "tokens a character"),
        (["red lamp " * 60, "blue chair"], "tokens of text"),
        (["zq xw jk", "wv qz kj", "xqj zzw v", "vvv qx jz"], SAME + ".*nearer than"),
        (["RED LAMP", "BLUE CHAIR", "GREEN TABLE", "GREY VASE"], "4 of 4 different texts" + SAME),
    ],
    ids=["script", "length", "one code", "capitals"],
)
def test_warns_of_texts_unlike_those_of_training(texts, words, tmp_path):
    engine = Engine.load(make_run(tmp_path / "run"))
    items = {f"new {n}": {"title": text} for n, text in enumerate(texts)}
    with pytest.warns(UserWarning, match=words):
        engine.add_items(items)


@pytest.mark.parametrize(
    "texts",
    [
        ["zq xw jk " * 3] * 5,
        ["x1", "x2", "x3", "x4"],
        [f"red wqxz {size}" for size in ("S", "M", "L", "XL")],
        ["zq xw jk", "wv qz kj", "zq xw jk", "wv qz kj", "zq xw jk"],
    ],
    ids=["equal", "short", "variants", "two texts"],
)
def test_the_same_codes_alone_tell_nothing_of_the_texts_form(texts, tmp_path):
    tokenizer = ItemTokenizer(load_run(make_run(tmp_path / "run")))
    read = tokenizer.read({f"new {n}": {"title": text} for n, text in enumerate(texts)})
    assert not [remark for remark in read.remarks if SAME in remark]


def test_a_catalogue_of_short_texts_says_nothing_of_longer_ones():
    """Its tokens per character are not counted, its distances are 0: nothing to compare with."""
    sample = Catalog(tuple("abcd"), {"title": ("tea", "oil", "rice", "soap")})
    check = TextCheck(sample, np.full(4, 3), np.zeros(4, np.float32))
    items = Catalog(tuple("efgh"), {"title": ("green tea", "olive oil", "wild rice", "soft soap")})
    codes = NewItemCodes(np.zeros((4, 2), np.int32), None, np.full(4, 0.1, np.float32))
    assert check.remarks(items, np.full(4, 4), codes) == ()


def test_says_nothing_of_texts_like_those_of_training(tmp_path):
    engine = Engine.load(make_run(tmp_path / "run"))
    items = catalog()
    texts = zip(*items.fields.values(), strict=True)
    new = {f"new {n}": dict(zip(FIELDS, text, strict=True)) for n, text in enumerate(texts)}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        engine.add_items(dict(list(new.items())[::6]))


def test_changes_beside_threads_that_recommend(tmp_path):
    """No call fails, and each sees a catalogue that there was."""
    import threading

    engine = Engine.load(make_run(tmp_path / "run"))
    sids = [[0, 0, 0]]
    stop, wrong = threading.Event(), []

    def ask():
        while not stop.is_set():
            try:
                found = engine.recommend([["item 1"]], 80, beam_width=80, exclude_history=False)
                ids = {item.item_id for item in found[0]}
                extra = ids - set(catalog().item_ids)
                if len(ids) != 60 + len(extra) or len(extra) > 1:
                    wrong.append(ids)
            except Exception as error:
                wrong.append(error)

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    for n in range(15):
        item = Catalog((f"new {n}",), {"title": ("x",), "brand": ("",)})
        engine.add_items(item, sids)
        engine.add_events([("u", f"new {n}", n)])
        engine.update_items(item, [[1, 1, 0]])
        engine.remove_items([f"new {n}"])
    engine.compact()
    stop.set()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert engine.sequence == 60
