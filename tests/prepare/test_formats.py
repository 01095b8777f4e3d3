"""Every reader on a small file true to its format, against a truth written by hand."""

import datetime

import pytest
from data_samples import SAMPLES

from store_engine.config.toml_file import load_config
from store_engine.data.load import load_dataset
from store_engine.errors import InputError
from store_engine.prepare.guess import guess_lines
from store_engine.prepare.output import look
from store_engine.prepare.readers.discover import Choices, discover
from store_engine.prepare.readers.line_ends import _is_mixed, _with_feeds
from store_engine.prepare.readers.windows_1252 import decode_windows_1252
from store_engine.prepare.rules import Rules


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


@pytest.mark.parametrize("ends", [("\r\n", "\n"), ("\n", "\r\n"), ("\r\n", "\r\n")])
@pytest.mark.parametrize("quote", ["", '"'])
def test_line_ends_may_be_mixed(prepared, ends, quote):
    lines = ["user_id;item_id;timestamp"]
    lines += [f"u{n % 3};{quote}i{n % 4}{quote};{n}" for n in range(24)]
    csv = "".join(line + ends[n % 5 == 3] for n, line in enumerate(lines))
    result = prepared(
        {"e.csv": csv, "i.csv": "item_id,title\n" + "".join(f"i{n},T\n" for n in range(4))}
    )
    assert sorted(result.events, key=lambda e: e[2]) == [
        (f"u{n % 3}", f"i{n % 4}", n) for n in range(24)
    ]
    is_told = any("both were read" in note for note in result.report.notes)
    assert is_told == (ends[0] != ends[1])


@pytest.mark.parametrize("ends", ["\r\n", "\n"])
@pytest.mark.parametrize("packed", ["", ".gz"])
@pytest.mark.parametrize("name", ["note", '"a\r\nnote"', '"a\nnote"'])
def test_line_ends_within_a_field_end_no_record(prepared, ends, packed, name):
    notes = ['"one\ntwo"', '"one\r\ntwo"', '"a ""quoted"" \n one"', "plain", '""']
    rows = [f"user_id,item_id,{name},timestamp"]
    rows += [f"u{n % 3},i{n % 4},{notes[n % 5]},{n}" for n in range(20)]
    items = "item_id,title" + ends + "".join(f'i{n},"T\n{n}"{ends}' for n in range(4))
    result = prepared({f"e.csv{packed}": ends.join(rows), "i.csv": items}, time="timestamp")
    assert [e[2] for e in sorted(result.events, key=lambda e: e[2])] == list(range(20))
    assert result.items == {f"i{n}": (f"T {n}",) for n in range(4)}
    assert not [note for note in result.report.notes if "CR LF" in note]


def test_part_files_of_which_each_has_its_line_end(prepared):
    """One file's fields hold the other end, which the second file's records have."""
    rows = [f'u{n % 2},i{n % 4},"x\n",{n}' for n in range(8)]
    header = "user_id,item_id,note,timestamp"
    files = {f"e{place}.csv": end.join([header, *rows[place * 4 : place * 4 + 4]]) + end
             for place, end in enumerate(("\r\n", "\n"))}  # fmt: skip
    result = prepared(
        {**files, "i.csv": "item_id,title\n" + "".join(f"i{n},T\n" for n in range(4))}
    )
    assert sorted(e[2] for e in result.events) == list(range(8))


@pytest.mark.parametrize("packed", ["", ".gz"])
@pytest.mark.parametrize("quoted", ["Tea", '"x; ""y"""'])
def test_the_semicolon_of_an_entity_ends_no_field(prepared, packed, quoted):
    titles = [quoted, "K&ouml;ln", "&#246;l &amp;auml;", "AT&T"]
    csv = "item_id;title;size\r\n" + "".join(f"i{n};{t};{n}\r\n" for n, t in enumerate(titles))
    files = {"e.csv": "user_id;item_id;time\n" + "".join(f"u;i{n};{n}\n" for n in range(4))}
    files[f"i.csv{packed}"] = csv
    result = prepared(files, texts=("title", "size"))
    want = ['x; "y"' if '"' in quoted else quoted, "Köln", "öl ä", "AT&T"]
    assert list(result.items.values()) == [(t, str(n)) for n, t in enumerate(want)]
    assert "2 rows have the ; of an HTML entity" in result.report.notes[0]


def test_a_broken_row_of_a_rewritten_file_is_told_by_its_own_name(prepared, tmp_path):
    items = "item_id;title;size\ni0;K&ouml;ln;1\n" + "i1;x;2\n" * 18 + "i2;x\n"
    with pytest.raises(InputError, match=rf"first: {tmp_path}/source/i.csv line 21"):
        prepared({"e.csv": "user_id;item_id;time\nu;i0;1\n", "i.csv": items})


def test_a_pair_may_lie_across_two_blocks():
    assert b"".join(_with_feeds([b"a\r", b"\nb\r", b"c\r\n", b"\r"])) == b"a\nb\rc\n\r"
    assert _is_mixed([b"a\r", b"\nb\n"]) and not _is_mixed([b"a\r", b"\nb\r\n"])


def test_every_byte_of_windows_1252_is_a_letter():
    """As the WHATWG has it: five bytes are controls, as are those of Latin-1."""
    for byte in range(256):
        try:
            expected = bytes([byte]).decode("cp1252")
        except UnicodeDecodeError:
            assert byte in (0x81, 0x8D, 0x8F, 0x90, 0x9D)
            expected = chr(byte)
        assert decode_windows_1252(bytes([byte])) == expected


def test_windows_1252_is_said_and_its_first_rows_are_a_dry_run(prepared, tmp_path, monkeypatch):
    """Also the bytes that it does not define, and letters far behind the first rows."""
    csv = b"user_id,item_id,timestamp\n" + b"".join(b"\x80\x81u,a\xe9,%d\n" % n for n in range(60))
    result = prepared({"e.csv": csv, "i.csv": b"item_id,title\na\xe9,\x93Tee\x94\n"})
    assert {e[:2] for e in result.events} == {("€\x81u", "aé")}
    assert result.items == {"aé": ("“Tee”",)}
    assert "a header, windows-1252" in "".join(guess_lines(result.report.found))
    monkeypatch.setattr("store_engine.prepare.output._LOOK_ROWS", 20)
    found = discover([tmp_path / "source"], [], [], Choices())
    report = look(found, Rules(), None, False)
    assert (report.num_read, report.bad, report.cut) == (20, [], ["events"])
