import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from store_engine.config import DataConfig
from store_engine.data.catalog import Catalog
from store_engine.data.histories import TEST, TRAIN, VALID, Histories
from store_engine.data.readers import EventRules, read_interactions
from store_engine.data.split import Split, by_user, leave_one_out, split_histories, temporal
from store_engine.errors import InputError

SEQUENCES = st.lists(st.lists(st.integers(0, 9), min_size=3, max_size=8), min_size=1, max_size=12)


def of(sequences, periods=None):
    rows = np.array([row for own in sequences for row in own], dtype=np.int32)
    offsets = np.cumsum([0, *map(len, sequences)]).astype(np.int64)
    ids = tuple(f"u{user}" for user in range(len(sequences)))
    return Histories(ids, rows, offsets, None if periods is None else np.int8(periods))


def events_of(histories):
    return [histories[user].tolist() for user in range(histories.num_users)]


def examples_of(found):
    seen = [history.tolist() for history in found.histories]
    return list(zip(seen, found.targets.tolist(), strict=True))


def test_leave_one_out():
    split = leave_one_out(of([[5, 6, 7, 8], [1, 2, 3]]))
    assert split.protocol == "leave-one-out"
    assert split.train.user_ids == ("u0", "u1")
    assert events_of(split.train) == [[5, 6], [1]]
    assert examples_of(split.valid) == [([5, 6], 7), ([1], 2)]
    assert examples_of(split.test) == [([5, 6, 7], 8), ([1, 2], 3)]
    assert events_of(split.before_test) == [[5, 6, 7], [1, 2]]
    assert split.test.targets.dtype == split.test.histories[0].dtype == np.int32


def test_needs_three_events():
    with pytest.raises(ValueError, match="3 events per user, got 2 for user 'u1'"):
        leave_one_out(of([[0, 0, 0], [0, 0]]))


@given(SEQUENCES, st.integers(0, 5))
@settings(max_examples=50)
def test_by_user(sequences, seed):
    split = by_user(of(sequences), (0.3, 0.3), seed)
    train, valid, test = [], [], []
    for events in range(split.histories.num_users):
        part = split.periods[split.histories.offsets[events]]
        (train, valid, test)[part].append(events)
    assert events_of(split.train) == [s if u in train else [] for u, s in enumerate(sequences)]
    assert events_of(split.before_test) == [[] if u in test else s for u, s in enumerate(sequences)]
    assert examples_of(split.valid) == [(sequences[u][:-1], sequences[u][-1]) for u in valid]
    assert examples_of(split.test) == [(sequences[u][:-1], sequences[u][-1]) for u in test]


def test_a_users_part_depends_on_nobody_else():
    everybody = of([[1, 2, 3]] * 400)
    some = everybody.of_users(np.arange(400) % 3 > 0)
    parts = [
        dict(zip(h.user_ids, by_user(h, (0.1, 0.2), 0).periods[h.offsets[:-1]], strict=True))
        for h in (everybody, some)
    ]
    assert parts[1].items() <= parts[0].items()
    shares = np.bincount(list(parts[0].values())) / 400
    assert np.abs(shares - [0.7, 0.1, 0.2]).max() < 0.06  # three standard deviations
    assert (
        by_user(everybody, (0.1, 0.2), 1).periods != by_user(everybody, (0.1, 0.2), 0).periods
    ).any()


def test_temporal():
    # u1 has nothing before the test, u2 nothing in it, u3 nothing to train on, u4 skips validation
    sequences = [[5, 6, 7, 8, 9], [1, 2, 3], [4, 5, 6], [7, 8, 9], [1, 2, 3]]
    periods = [0, 0, 1, 2, 2, 2, 2, 2, 0, 0, 1, 1, 1, 2, 0, 0, 2]
    split = temporal(of(sequences, periods))
    assert events_of(split.train) == [[5, 6], [], [4, 5], [], [1, 2]]
    assert events_of(split.before_test) == [[5, 6, 7], [], [4, 5, 6], [7, 8], [1, 2]]
    assert examples_of(split.valid) == [([5, 6], 7), ([4, 5], 6)]
    assert examples_of(split.test) == [([5, 6, 7], 8), ([7, 8], 9), ([1, 2], 3)]


@given(
    st.lists(
        st.tuples(st.integers(0, 5), st.integers(0, 9), st.integers(0, 60)), min_size=8, max_size=60
    )
)
@settings(max_examples=30, deadline=None)
def test_points_in_time_are_the_same_for_all(tmp_path_factory, events):
    path = tmp_path_factory.mktemp("events") / "events.csv"
    lines = [f"u{user},{item},{time}" for user, item, time in events]
    path.write_text("\n".join(["user_id,item_id,timestamp", *lines]) + "\n")
    catalog = Catalog(tuple("0123456789"), {"title": ("",) * 10})
    rules = EventRules(1, held_out=(0.25, 0.25))
    try:
        found, _ = read_interactions(path, catalog, rules=rules)
    except InputError as error:
        assert "times that differ" in str(error)
        return
    in_order = sorted(time for _, _, time in events)
    cuts = [in_order[round(len(events) * share)] for share in (0.5, 0.75)]
    want: dict[str, list[int]] = {}
    for user, _, time in sorted(events, key=lambda event: event[2]):
        period = VALID if time >= cuts[0] else TRAIN
        want.setdefault(f"u{user}", []).append(TEST if time >= cuts[1] else period)
    for user, user_id in enumerate(found.user_ids):
        begin, end = found.offsets[user : user + 2]
        assert found.periods[begin:end].tolist() == want[user_id]


@pytest.mark.parametrize("name", ["leave_one_out", "by_user", "temporal"])
@given(SEQUENCES, st.integers(0, 3))
@settings(max_examples=40, deadline=None)
def test_no_test_event_reaches_what_is_made_before(name, sequences, seed):
    """Other items in place of all that only the test may see change nothing of the rest."""
    histories = of(sequences)
    times = np.random.default_rng(seed).random(histories.num_events)
    for a, b in zip(histories.offsets, histories.offsets[1:], strict=False):
        times[a:b].sort()
    periods = np.int8(times > 0.4) + np.int8(times > 0.7)
    histories = dataclasses.replace(histories, periods=periods.astype(np.int8))
    config = DataConfig(name="files", split=name, valid_share=0.3, test_share=0.3, seed=seed)
    try:
        split = split_histories(histories, config)
    except InputError:
        return
    rows = np.where(split.periods == TEST, histories.rows + 100, histories.rows).astype(np.int32)
    other = split_histories(dataclasses.replace(histories, rows=rows), config)
    assert (split.test.targets != other.test.targets).all()
    for part in ("train", "before_test"):
        assert events_of(getattr(split, part)) == events_of(getattr(other, part))
    assert examples_of(split.valid) == examples_of(other.valid)
    # nor does validation reach what training sees
    rows = np.where(split.periods > TRAIN, histories.rows + 100, histories.rows).astype(np.int32)
    other = split_histories(dataclasses.replace(histories, rows=rows), config)
    assert events_of(split.train) == events_of(other.train)


@pytest.mark.parametrize(
    ("config", "histories", "message"),
    [
        ({"split": "by_user", "test_share": 0.0001}, of([[1, 2, 3]] * 3), "nobody for the"),
        ({"split": "temporal"}, of([[1, 2, 3]]), "needs events whose times were read"),
        ({"split": "temporal"}, of([[1, 2, 3]], [0, 0, 2]), "nobody for the validation: 1 users"),
        ({"split": "temporal"}, of([[1, 2], [3]], [1, 2, 2]), "nobody for the validation"),
    ],
    ids=["no test user", "no times", "no validation", "nothing to train on"],
)
def test_refuses(config, histories, message):
    with pytest.raises(InputError, match=message):
        split_histories(histories, DataConfig(name="files", **config))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"valid_share": 0.5, "test_share": 0.5}, "must leave something to train on"),
        ({"name": "synthetic", "split": "temporal"}, "needs events with times"),
        ({"test_share": 0.0}, "data.test_share must be in"),
    ],
    ids=["shares", "synthetic", "none"],
)
def test_the_config_refuses(values, message):
    with pytest.raises(InputError, match=message):
        DataConfig(**values)


def test_a_split_is_made_when_it_is_asked_for():
    split = leave_one_out(of([[1, 2, 3]]))
    assert isinstance(split, Split) and not {"train", "valid", "test"} & vars(split).keys()
