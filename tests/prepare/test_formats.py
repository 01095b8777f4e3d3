"""Every reader on a small file true to its format, against a truth written by hand."""

import datetime

import pytest
from data_samples import SAMPLES

from store_engine.config.toml_file import load_config
from store_engine.data.load import load_dataset


def _plain(value):
    return str(value) if isinstance(value, datetime.datetime) else value


@pytest.mark.parametrize("name", SAMPLES)
def test_format_is_found_and_read_exactly(name, prepared):
    sample = SAMPLES[name]
    result = prepared(sample.files)
    assert result.report.found.events.format == sample.format
    assert [tuple(map(_plain, row)) for row in result.events] == sample.events
    assert result.items == sample.items
    assert not result.report.bad


@pytest.mark.parametrize("name", ["csv", "movielens-1m", "goodreads", "no times"])
def test_trainer_reads_what_was_prepared(name, prepared):
    sample = SAMPLES[name]
    result = prepared(sample.files)
    config = load_config(result.folder / "data.toml", ["data.min_events=3"])
    # three events at least: two of the users here have fewer
    users = {user for user, _, _ in sample.events}
    kept = [u for u in dict.fromkeys(e[0] for e in sample.events)
            if sum(e[0] == u for e in sample.events) >= 3]  # fmt: skip
    if kept:
        dataset = load_dataset(config.data)
        assert list(dataset.histories.user_ids) == kept
        assert dataset.catalog.item_ids == tuple(sample.items)
    else:
        assert users
