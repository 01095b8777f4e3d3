"""Catalogues and histories that go on."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from store_engine.data.catalog import Catalog
from store_engine.data.histories import Histories
from store_engine.data.readers import EventRules, read_interactions
from store_engine.data.report import DataReport
from store_engine.errors import InputError

EVENTS = st.dictionaries(st.sampled_from("abcdef"), st.lists(st.integers(0, 9), max_size=5))


def histories(by_user):
    lengths = [len(rows) for rows in by_user.values()]
    rows = np.array([row for own in by_user.values() for row in own], dtype=np.int32)
    return Histories(tuple(by_user), rows, np.cumsum([0, *lengths]).astype(np.int64))


def as_dict(found):
    return {user_id: found[user].tolist() for user, user_id in enumerate(found.user_ids)}


@given(EVENTS, EVENTS)
def test_later_events_come_behind(old, new):
    want = {user: old.get(user, []) + new.get(user, []) for user in {**old, **new}}
    found = histories(old).followed_by(histories(new))
    assert as_dict(found) == want
    assert found.user_ids == tuple(want)  # old users first, in their order


@given(EVENTS, st.integers(0, 4))
def test_users_with_fewer_events_are_left_out(events, least):
    want = {user: rows for user, rows in events.items() if len(rows) >= least}
    found = histories(events)
    assert as_dict(found.of_users(np.diff(found.offsets) >= least)) == want


def test_known_items_keep_their_row():
    old = Catalog(("a", "b"), {"title": ("A", "B"), "brand": ("x", "")})
    new = Catalog(("c", "b"), {"brand": ("z", "y"), "title": ("C", "B2")})
    found = old.extended(new)
    assert found == Catalog(("a", "b", "c"), {"title": ("A", "B2", "C"), "brand": ("x", "y", "z")})
    assert old.extended(old) == old
    with pytest.raises(InputError, match="fields must be title, brand, got title"):
        old.extended(Catalog(("c",), {"title": ("C",)}))


def test_events_of_unknown_items_can_be_dropped_and_are_counted(tmp_path):
    catalog = Catalog(("a", "b"), {"title": ("A", "B")})
    path, report = tmp_path / "events.csv", DataReport()
    path.write_text("user_id,item_id,timestamp\nu,a,2\nu,x,1\nv,x,1\nu,b,0\nv,y,1\nw,a,1\nw,a,2\n")
    rules = EventRules(min_events=2, unknown_items="drop")
    found, num_dropped = read_interactions(path, catalog, rules=rules, report=report)
    assert as_dict(found) == {"u": [1, 0], "w": [0, 0]}
    assert (num_dropped, report.num_unknown) == (1, 3)
    assert "dropped 3 events of unknown items" in report.lines()
    with pytest.raises(InputError, match="unknown item id 'x'"):
        read_interactions(path, catalog, rules=EventRules(min_events=2))


def test_if_nothing_but_unknown_items_is_left_it_is_said(tmp_path):
    (tmp_path / "e.csv").write_text("user_id,item_id,timestamp\nu,x,2\n")
    with pytest.raises(InputError, match="no user has at least 1 events"):
        read_interactions(
            tmp_path / "e.csv",
            Catalog(("a",), {"title": ("A",)}),
            rules=EventRules(1, unknown_items="drop"),
        )
