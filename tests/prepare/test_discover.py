"""What the guess does with files that are damaged, foreign, ambiguous or named by the user."""

import os
import random

import pytest
from data_files import write_files

from store_engine.errors import InputError
from store_engine.prepare.guess import guess_lines
from store_engine.prepare.readers.discover import Choices, discover
from store_engine.prepare.readers.sniff import read_storage

EVENTS = "kunde,ware,wert\nx7,y1,3\nx7,y2,4\nx8,y1,5\n"
ITEMS = "item_id,title\na,Tea\nb,Fork\n"
GOOD = "user_id,item_id,timestamp\nu,a,1\nu,b,2\n"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "is empty"),
        (b" \n\n", "is empty"),
        (b"PK\x03\x04rest", "is a zip archive"),
        (b"\x1f\x8b\x08broken", "not a readable gzip file"),
        (b"\x28\xb5\x2f\xfdbroken", "not a readable zstd file"),
        (b"PAR1broken", "not a readable parquet file"),
        (b"a\0b,c\n1,2\n", "holds NUL bytes"),
        (b"\xfe\xff" + "a,b\n1,2\n".encode("utf-16-be"), "is UTF-16 of the big-endian kind"),
        (b"{ not json\n}", "not json of objects"),
        (b"[" * 100_000, "no layout fits|not json of objects"),
        (b'{"user": {"0": "a"}, "item": {"0": "b"}}', "is one object of columns"),
        (b"one word a line\n", "no layout fits|no file"),
        (b"a,a\n1,2\n3,4\n", "column a appears twice"),
        (b"user,item\r1,2\r3,4\r", "lines must end with LF or CR LF, not with CR alone"),
    ],
)
def test_file_of_no_layout_is_refused_in_one_line(content, expected, tmp_path):
    path = tmp_path / "file.txt"
    path.write_bytes(content)
    with pytest.raises(InputError, match=expected) as error:
        discover([path], [], [], Choices())
    assert "\n" not in str(error.value)


def test_random_bytes_end_in_an_input_error_or_a_guess(tmp_path):
    rng = random.Random(0)
    path = tmp_path / "x.csv"
    alphabet = [
        b",",
        b"\n",
        b'"',
        b"{",
        b"}",
        b"[",
        b"'",
        b"1",
        b"a",
        b"\t",
        b":",
        b"\xc3",
        b";",
        b"\\",
    ]
    for _ in range(400):
        path.write_bytes(b"".join(rng.choices(alphabet, k=rng.randrange(1, 60))))
        try:
            storage = read_storage(path)
        except InputError:
            continue
        assert all(len(row) == len(storage.columns) for row in storage.sample)


@pytest.mark.parametrize(
    "text",
    [
        "sep=;\nuser_id;item_id;timestamp\nu;a;1\nu;b;2\n",
        "sep=,\r\nuser_id,item_id,timestamp\r\nu,a,1\r\nu,b,2\r\n",
        "user_id,item_id,timestamp,\nu,a,1,\nu,b,2,\n",
        ",user_id,item_id,timestamp\n0,u,a,1\n1,u,b,2\n",
    ],
    ids=["Excel's mark", "Excel's mark, commas", "separators at the end", "a row's number"],
)
def test_what_programs_put_around_a_table_is_no_part_of_it(text, prepared):
    assert prepared({"e.csv": text, "i.csv": ITEMS}).events == [("u", "a", 1), ("u", "b", 2)]


def test_fifo_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="must be a regular file"):
        discover([tmp_path / "pipe"], [], [], Choices())


def test_goodreads_csv_with_numbers_of_its_own_is_not_taken_for_the_dump(prepared):
    csv = "user_id,book_id,is_read,rating,is_reviewed\n0,948,1,5,0\n0,947,1,5,1\n"
    with pytest.raises(InputError, match=r"numbers books by a map of its own"):
        prepared({"goodreads_interactions.csv": csv, "i.csv": "book_id,title\n948,A\n"})


def test_names_that_differ_in_capitals_only_are_no_silent_loss(prepared):
    files = {"e.csv": GOOD, "i.csv": "item_id,Title,title\na,Tea,x\nb,Fork,y\n"}
    with pytest.raises(InputError, match="differ in capitals only"):
        prepared(files)
    assert prepared(files, texts=("title",)).items == {"a": ("x",), "b": ("y",)}


def test_columns_of_any_name_can_be_said(prepared):
    files = {"e.csv": EVENTS, "i.csv": "ware,wort\ny1,Tee\ny2,Gabel\n"}
    with pytest.raises(InputError, match=r"no file holds events .* columns kunde, ware, wert"):
        prepared(files)
    said = {"user": "kunde", "item": "ware", "time": "wert", "texts": ("wort",)}
    result = prepared(files, events=["e.csv"], items=["i.csv"], **said)
    assert result.events == [("x7", "y1", 3), ("x7", "y2", 4), ("x8", "y1", 5)]
    assert result.items == {"y1": ("Tee",), "y2": ("Gabel",)}
    with pytest.raises(InputError, match="has no column 'when'; columns: kunde, ware, wert"):
        prepared(files, events=["e.csv"], items=["i.csv"], **(said | {"time": "when"}))


def test_columns_without_a_header_can_be_named(prepared):
    files = {"e.csv": "5,a,u,1\n4,b,u,2\n", "i.csv": ITEMS}
    names = ("rating", "item_id", "user_id", "timestamp")
    assert prepared(files, event_columns=names, events=["e.csv"], items=["i.csv"]).events == [
        ("u", "a", 1), ("u", "b", 2),
    ]  # fmt: skip
    with pytest.raises(InputError, match="has 4 columns, 2 are named"):
        prepared(files, event_columns=names[:2], events=["e.csv"], items=["i.csv"])


def test_two_files_of_events_must_be_named(prepared):
    files = {"old.csv": GOOD, "new.tsv": GOOD.replace(",", "\t"), "i.csv": ITEMS}
    with pytest.raises(InputError, match=r"several files could hold the events.*--events"):
        prepared(files)
    assert prepared(files, events=["new.tsv"], items=["i.csv"]).events


def test_files_that_are_named_together_are_one_table_or_an_error(prepared):
    more = GOOD.replace("u,", "v,")
    files = {"a.csv": GOOD, "b.csv": more, "c.tsv": more.replace(",", "\t"),
             "d.csv": "user_id,item_id,when\nw,a,1\n", "i.csv": ITEMS}  # fmt: skip
    result = prepared(files, events=["a.csv", "b.csv"], items=["i.csv"])
    assert [e[0] for e in result.events] == ["u", "u", "v", "v"]
    expected = (
        r"--events: \S+a\.csv \(text, ',' .*c\.tsv \(text, tab .* cannot be one table: convert"
    )
    with pytest.raises(InputError, match=expected):
        prepared(files, events=["a.csv", "b.csv", "c.tsv"], items=["i.csv"])
    expected = r"timestamp\) and \S+d\.csv \(.*when\) cannot be one table: .* prepare them apart"
    with pytest.raises(InputError, match=expected):
        prepared(files, events=["a.csv", "d.csv"], items=["i.csv"])


def test_parts_that_are_not_named_are_told(tmp_path):
    source = write_files(tmp_path, {"a.csv": GOOD, "b.csv": GOOD, "c.csv": GOOD, "i.csv": ITEMS})
    (source / "link").symlink_to("a.csv")
    found = discover([source], [source / "link"], [], Choices())
    assert [path.name for path in found.events.storage.files] == ["link"]
    (told,) = found.unread
    assert f"{source / 'b.csv'} and 1 more: of the columns of {source / 'link'}, but not" in told
    assert {path.name for path in found.unused} == {"b.csv", "c.csv"}
    both = [source / name for name in ("a.csv", "b.csv", "c.csv")]
    assert not discover([source], both, [], Choices()).unread
    assert not discover([source], both, [source / "i.csv"], Choices()).unused


def test_named_file_that_holds_no_events_is_no_silent_loss(prepared):
    files = {"users.dat": "1::F::1::10::48067\n2::M::1::10::48067\n", "e.csv": GOOD}
    with pytest.raises(InputError, match=r"--events: \S+users\.dat: is a file of movielens-1m"):
        prepared(files, events=["users.dat"], paths=["e.csv"])


def test_damaged_part_file_is_no_silent_loss(prepared):
    files = {"e/0.csv": GOOD, "e/1.csv": b"\0\0", "i.csv": ITEMS}
    with pytest.raises(InputError, match=r"1\.csv: holds NUL bytes"):
        prepared(files)


def test_foreign_file_in_a_folder_is_told(prepared):
    files = {"e.csv": GOOD, "i.csv": ITEMS, "photo.bin": b"\0\0\0"}
    assert [path.name for path in prepared(files).report.found.unused] == ["photo.bin"]


def test_folder_with_an_earlier_output_reads_the_sources_alone(prepared, tmp_path):
    first = prepared({"e.csv": GOOD, "i.csv": ITEMS})
    first.folder.rename(tmp_path / "source" / "prepared")
    assert prepared({}).events == first.events


def test_prepared_data_can_be_prepared_again(prepared, tmp_path):
    first = prepared({"e.csv": GOOD, "i.csv": ITEMS})
    first.folder.rename(tmp_path / "source" / "first")
    again = prepared({}, paths=["first"])
    assert (again.events, again.items) == (first.events, first.items)


@pytest.mark.parametrize("name", ["mind", "amazon-2023", "nonsense"])
def test_format_that_was_said_must_fit(name, prepared):
    with pytest.raises(InputError, match=r"--format must be one of|no file of the format"):
        prepared({"e.csv": "a,b\n1,2\n"}, format=name)


def test_events_that_name_their_items_make_the_catalogue(prepared):
    csv = (
        "customer,sku,product_name,date\nc,1,,2024-01-01\nc,2,Fork,2024-01-02\nd,1,Tea,2024-01-03\n"
    )
    result = prepared({"orders.csv": csv})
    assert (result.items, result.fields) == ({"1": ("Tea",), "2": ("Fork",)}, ("product_name",))


def test_ids_alone_are_titles_with_a_warning(prepared):
    result = prepared({"e.csv": GOOD})
    assert result.items == {"a": ("a",), "b": ("b",)}
    assert "their ids are their titles" in result.report.warnings[0]


def test_names_that_sql_or_a_shell_would_read_are_names(prepared, tmp_path):
    folder = "a'; DROP TABLE raw; --"
    files = {f"{folder}/e*[1]?.csv": 'user_id,item_id,time "x"\nu,a,1\n', f"{folder}/e11.csv": GOOD}
    result = prepared(files, events=[f"{folder}/e*[1]?.csv"], items=[], paths=[], time='time "x"')
    assert result.events == [("u", "a", 1)]


def test_folder_with_files(tmp_path):
    write_files(tmp_path, {"e.csv": GOOD, "i.csv": ITEMS, ".hidden": "x", "README.md": "x"})
    found = discover([tmp_path], [], [], Choices())
    assert (found.events.roles.user, found.items.roles.texts, found.unused) == (
        "user_id",
        ("title",),
        (),
    )


def test_a_link_to_a_file_is_no_second_file(tmp_path):
    source = write_files(tmp_path / "source", {"e.csv": GOOD})
    (source / "f.csv").symlink_to("e.csv")
    named = discover([source / "f.csv", source / "e.csv"], [], [], Choices())
    assert [path.name for path in named.events.storage.files] == ["f.csv"]
    found = discover([source], [], [], Choices())
    assert [path.name for path in found.events.storage.files] == ["e.csv"]


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("ordered_at", "2025-06-01T10:30:00+02:00", "ordered_at"),
        ("Shipping Date", "01/06/2025", "Shipping Date"),
        ("sent_at", "1700000000", "sent_at"),
        ("sold_at", "Berlin", ""),
        ("weight", "1700000000", ""),
        ("birth_date", "1980-06-01", ""),
        ("delivered_at", "2025-06-01", "delivered_at"),
        ("Bestelldatum", "13.06.2025 10:30", "Bestelldatum"),
        ("Rechnungsdatum", "13.06.2025", "Rechnungsdatum"),
        ("Geburtsdatum", "13.06.1980", ""),
    ],
)
def test_a_time_of_another_name_is_told_by_its_values(name, value, expected, tmp_path):
    path = tmp_path / "orders.csv"
    path.write_text(f"customer_id,product_id,{name}\nc,a,{value}\nc,b,{value}\nd,a,{value}\n")
    found = discover([path], [], [], Choices())
    assert found.events.roles.time == expected


@pytest.mark.parametrize(
    ("name", "value", "is_told"),
    [
        ("gekauft", "13.06.2025 10:30", True),
        ("weight", "1700000000", False),
        ("birth_date", "1980-06-01", False),
    ],
)
def test_dates_that_nobody_reads_are_told(name, value, is_told, tmp_path):
    path = tmp_path / "orders.csv"
    path.write_text(f"Kunde,Artikel,{name}\nc,a,{value}\nc,b,{value}\nd,a,{value}\n")
    found = discover([path], [], [], Choices())
    assert (found.events.roles.user, found.events.roles.item) == ("Kunde", "Artikel")
    assert (f"--time {name}" in "".join(guess_lines(found))) == is_told
