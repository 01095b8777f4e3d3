from store_engine.data.report import DataReport


def test_an_ordinary_data_set_is_one_line():
    report = DataReport(num_items=2, num_events=12_000, num_users=30, num_empty={"title": 0})
    assert report.lines() == ["read 2 items and 12,000 events of 30 users"]


def test_what_was_dropped_missing_or_changed_has_a_line_each():
    report = DataReport(9, 80, 7, 2, 3, {"title": 0, "brand": 4}, 1, 5, ["a note"])
    assert report.lines()[1:] == [
        "dropped 2 users with fewer than 3 events",
        "4 of 9 items have no brand",
        "halves of surrogate pairs, replaced by U+FFFD: 1",
        "control characters, replaced by spaces: 5",
        "a note",
    ]
