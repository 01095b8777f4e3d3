import numpy as np
import pytest

from benchmarks.quality.click_events import TEST, TRAIN, VALID, load_events, measure


@pytest.fixture
def folder(tmp_path):
    """Ten ratings of two films by three users, in no order; one moment has two of them."""
    (tmp_path / "ml-100k.item").write_text(
        "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n"
        "7\tToy Story\t1995\tAnimation\n9\tHeat\t1995\tAction\n"
    )
    moments = [5, 1, 2, 3, 4, 9, 8, 7, 6, 8]
    lines = ["user_id:token\titem_id:token\trating:float\ttimestamp:float"]
    for i, moment in enumerate(moments):
        lines.append(f"u{i % 3}\t{(7, 9)[i % 2]}\t{1 + i % 5}\t{moment}")
    (tmp_path / "ml-100k.inter").write_text("\n".join(lines) + "\n")
    return tmp_path


def test_events_are_split_by_time_alone(folder):
    catalog, events = load_events(folder)
    assert catalog.item_ids == ("7", "9")
    assert (np.diff(events.users) >= 0).all()
    assert events.offsets.tolist() == [0, 4, 7, 10]
    for begin, end in zip(events.offsets[:-1], events.offsets[1:], strict=True):
        assert (np.diff(events.times[begin:end]) > 0).all()
    periods = events.periods[np.argsort(events.times)]
    # both events at moment 8 begin the validation, nothing parts them
    assert periods.tolist() == [TRAIN] * 7 + [VALID] * 2 + [TEST]
    assert events.labels.sum() == 4  # ratings 4 and 5, twice each


def test_figures_are_of_one_period(folder):
    _, events = load_events(folder)
    chances = np.where(events.periods == TRAIN, 0.5, events.labels * 0.8 + 0.1)
    assert measure(chances, events, VALID)["auc"] == 1.0
    assert measure(chances, events, TRAIN)["auc"] == 0.5
