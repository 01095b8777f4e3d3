"""What users were shown finds its place in their histories, and its period in the split."""

import dataclasses
import random

import numpy as np
import pytest

from store_engine.config import DataConfig
from store_engine.data.catalog import Catalog
from store_engine.data.histories import TEST, TRAIN, VALID
from store_engine.data.impressions import read_impressions
from store_engine.data.readers import EventColumns, EventRules, read_interactions
from store_engine.data.split import split_histories
from store_engine.errors import InputError

IDS = tuple(f"N{n}" for n in range(1, 7))
CATALOG = Catalog(IDS, {"title": IDS})
BEHAVIORS = (
    "1\tA\t11/11/2019 9:00:00 AM\tN1 N2\tN3-1 N4-0\n"
    "2\tA\t11/11/2019 10:00:00 AM\tN1 N2\tN4-1 N5-0 N9-0\n"
    "3\tA\t11/12/2019 9:00:00 AM\tN1 N2\tN5-1 N1-0\n"
    "4\tA\t11/13/2019 9:00:00 AM\tN1 N2\tN2-0 N6-1\n"
    "5\tB\t11/11/2019 9:30:00 AM\t\tN1-1 N2-0\n"
    "6\tB\t11/11/2019 11:00:00 AM\t\tN3-0 N4-1\n"
    "7\tB\t11/12/2019 10:00:00 AM\t\tN5-0 N6-1\n"
)


def split_of(path, **settings):
    config = DataConfig(name="files", **settings)
    histories, _ = read_interactions(path, CATALOG, rules=EventRules.of(config))
    return split_histories(histories, config)


def read(folder, split, shown="shown.csv", events="events.csv"):
    return read_impressions(folder / shown, folder / events, EventColumns(), CATALOG, split)


def triples(found, num_users, last):
    return [doc.reshape(-1, 3).tolist() for doc in found.documents(num_users, last)]


def test_of_mind_s_log_by_hand(tmp_path):
    pytest.importorskip("duckdb", reason="the extra `prepare`")
    from data_files import write_files

    from store_engine.prepare.output import prepare
    from store_engine.prepare.readers.discover import Choices, discover
    from store_engine.prepare.rules import Rules

    news = "".join(f"{i}\tnews\tworld\tTitle {i}\tText\thttps://x.y\t[]\t[]\n" for i in IDS)
    source = write_files(tmp_path / "mind", {"behaviors.tsv": BEHAVIORS, "news.tsv": news})
    out = tmp_path / "out"
    prepare(discover([source], [], [], Choices()), Rules(), out, False, lambda step: None)
    assert 'impressions = "impressions.parquet"' in (out / "data.toml").read_text()
    split = split_of(out / "interactions.parquet")
    found = read(out, split, "impressions.parquet", "interactions.parquet")
    # A has N1 N2 N3 N4 to train on, B has N1: what B was shown first has no history
    of_a = [[2, 2, 1], [2, 3, 0], [3, 3, 1], [3, 4, 0]]
    assert triples(found, 2, TRAIN) == [of_a, []]
    assert triples(found, 2, VALID) == [[*of_a, [4, 4, 1], [4, 0, 0]], [[1, 2, 0], [1, 3, 1]]]


@pytest.mark.parametrize("split", ["leave_one_out", "by_user", "temporal"])
@pytest.mark.parametrize("is_iso", [False, True], ids=["numbers", "ISO 8601"])
def test_equals_a_plain_loop_and_knows_nothing_of_later_periods(split, is_iso, tmp_path):
    rng = random.Random(0)

    def stamp(time):
        return f"2024-01-01T00:{time // 60:02}:{time % 60:02}" if is_iso else str(time)

    events = [(f"u{rng.randrange(12)}", rng.randrange(6), rng.randrange(300)) for _ in range(150)]
    shown = [
        (f"u{rng.randrange(14)}", rng.randrange(7), rng.randrange(300), rng.randrange(2))
        for _ in range(400)
    ]
    lines = [f"{u},N{i + 1},{stamp(t)}" for u, i, t in events]
    (tmp_path / "events.csv").write_text("\n".join(["user_id,item_id,timestamp", *lines]) + "\n")
    lines = [f"{u},N{i + 1},{stamp(t)},{y}" for u, i, t, y in shown]
    head = "user_id,item_id,timestamp,label"
    (tmp_path / "shown.csv").write_text("\n".join([head, *lines]) + "\n")
    parts = split_of(tmp_path / "events.csv", split=split, valid_share=0.2, test_share=0.2)
    histories, found = parts.histories, read(tmp_path, parts)
    begins = {
        period: min(
            (
                sorted(t for u, _, t in events if u == user)[place]
                for n, user in enumerate(histories.user_ids)
                for place, p in enumerate(
                    parts.periods[histories.offsets[n] : histories.offsets[n + 1]]
                )
                if p >= period
            ),
        )
        for period in (VALID, TEST)
    }
    want = []
    for user, item, time, label in shown:
        if user not in histories.user_ids or item == 6:
            continue
        n = histories.user_ids.index(user)
        times = sorted(t for u, _, t in events if u == user)
        place, until = sum(t < time for t in times), sum(t <= time for t in times)
        own = parts.periods[histories.offsets[n] :]
        period = own[max(until - 1, 0)]
        if split == "temporal":
            period = max(period, *(p for p in (TRAIN, VALID, TEST) if time >= begins.get(p, 0)))
        if place:
            want.append((n, place, item, label, int(period)))
    columns = (found.users, found.places, found.rows, found.labels, found.periods)
    assert sorted(zip(*(c.tolist() for c in columns), strict=True)) == sorted(want)
    assert {TRAIN, VALID, TEST} == set(found.periods)
    # a document's places never reach beyond what is trained on
    for n, doc in enumerate(triples(found, histories.num_users, TRAIN)):
        num_train = len(parts.train[n])
        assert all(place <= num_train for place, _, _ in doc)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("A,N1,5,2", r"shown\.csv line 3: label must be 0 or 1, got '2'"),
        ("A,N1,soon,1", r"shown\.csv line 3: timestamp must be a finite number, got 'soon'"),
        ("A,N1,1600000000000,1", r"shown\.csv line 3: timestamp 1600000000000 looks like milli"),
        ("A,,5,1", r"shown\.csv line 3: item_id is empty"),
    ],
)
def test_what_is_wrong_is_told_with_its_line(row, message, tmp_path):
    events = "user_id,item_id,timestamp\n" + "".join(f"A,N{n},160000000{n}\n" for n in range(1, 6))
    (tmp_path / "events.csv").write_text(events)
    (tmp_path / "shown.csv").write_text(
        f"user_id,item_id,timestamp,label\nA,N1,1600000003,0\n{row}\n"
    )
    with pytest.raises(InputError, match=message):
        read(tmp_path, split_of(tmp_path / "events.csv"))


def test_a_period_takes_what_comes_before_it_alone(tmp_path):
    (tmp_path / "events.csv").write_text(
        "user_id,item_id,timestamp\n" + "".join(f"A,N{n},{n}\n" for n in range(1, 6))
    )
    (tmp_path / "shown.csv").write_text("user_id,item_id,timestamp,label\nA,N6,3,0\nA,N6,4,0\n")
    found = read(tmp_path, split_of(tmp_path / "events.csv"))
    assert found.periods.tolist() == [TRAIN, VALID]
    later = dataclasses.replace(found, periods=np.array([TEST, TEST], np.int8))
    assert triples(later, 1, VALID) == [[]]
