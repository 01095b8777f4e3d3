"""csv and tsv: what writers write is read back exactly, or refused with its line."""

import csv
import io

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from store_engine.data.tables.table import read_table
from store_engine.errors import InputError

CELLS = st.text(st.sampled_from('a",;\t\n\r\\ é\u2028\ufeff'), max_size=6)
ROWS = st.integers(2, 4).flatmap(
    lambda width: st.lists(st.lists(CELLS, min_size=width, max_size=width), min_size=1, max_size=6)
)


def read(path, names):
    table = read_table(path, names)
    return [list(row) for row in zip(*(table.columns[n].to_pylist() for n in names), strict=True)]


def written(rows, delimiter, line_end, quoting):
    """A file as Python's csv module writes it, and the columns' names."""
    names = [f"c{i}" for i in range(len(rows[0]))]
    text = io.StringIO(newline="")
    writer = csv.writer(text, delimiter=delimiter, lineterminator=line_end, quoting=quoting)
    writer.writerows([names, *rows])
    return text.getvalue(), names


def without_final_returns(rows, line_end):
    """What a carriage return before a line's end is part of: with LF as the end, CR LF ends it."""
    return [[*row[:-1], row[-1].rstrip("\r")] if line_end == "\n" else row for row in rows]


@given(ROWS, st.sampled_from(["\n", "\r\n"]), st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]))
def test_what_a_csv_writer_writes_is_read_back(tmp_path_factory, rows, line_end, quoting):
    text, names = written(rows, ",", line_end, quoting)
    path = tmp_path_factory.mktemp("csv") / "t.csv"
    path.write_bytes(text.encode())
    assert without_final_returns(read(path, names), line_end) == without_final_returns(
        rows, line_end
    )


@example([["", "\r"]], "\r\n", csv.QUOTE_MINIMAL)
@given(ROWS, st.sampled_from(["\n", "\r\n"]), st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]))
def test_what_a_tsv_writer_writes_is_read_back_or_refused_as_ambiguous(
    tmp_path_factory, rows, line_end, quoting
):
    text, names = written(rows, "\t", line_end, quoting)
    path = tmp_path_factory.mktemp("tsv") / "t.tsv"
    path.write_bytes(text.encode())
    try:
        got = read(path, names)
    except InputError as error:
        # a field with a line break and as many tabs on each line as a record has
        assert "one quoted field of several lines or several rows" in str(error)
        assert any("\n" in cell for row in rows for cell in row)
    else:
        assert without_final_returns(got, line_end) == without_final_returns(rows, line_end)


@given(
    st.text(st.sampled_from('a",\t\n\r\\1 '), max_size=40), st.sampled_from(["csv", "tsv", "item"])
)
def test_any_bytes_give_every_line_or_one_error(tmp_path_factory, body, suffix):
    delimiter = "," if suffix == "csv" else "\t"
    path = tmp_path_factory.mktemp("any") / f"t.{suffix}"
    path.write_bytes(f"a{delimiter}b\n{body}".encode())
    try:
        table = read_table(path, ["a", "b"])
    except InputError as error:
        assert str(error).startswith(f"{path} line ") and "\n" not in str(error)
        return
    numbers = list(table.numbers())
    rows = list(zip(*(c.to_pylist() for c in table.columns.values()), strict=True))
    assert len(numbers) == len(rows) and numbers == sorted(set(numbers))
    # every character but quotes, delimiters and line ends is in a cell, in its order
    kept = "".join("".join(row) for row in rows)
    assert "".join(kept.split()).replace('"', "").replace(delimiter, "") == "".join(
        body.split()
    ).replace('"', "").replace(delimiter, "")


GOOD = {
    "quote inside": ("t.csv", 'a,b\n1,5" nail\n', ["1", '5" nail']),
    "quote at the end": ("t.csv", 'a,b\n1,Vinyl 12"\n', ["1", 'Vinyl 12"']),
    "doubled": ("t.csv", 'a,b\n1,"He said ""hi"""\n', ["1", 'He said "hi"']),
    "backslash": ("t.csv", 'a,b\n1,"C:\\"\n', ["1", "C:\\"]),
    "header quoted": ("t.csv", '"a","b"\n1,2\n', ["1", "2"]),
    "BOM": ("t.csv", '\ufeff"a",b\n1,2\n', ["1", "2"]),
    "CR CR LF": ("t.csv", 'a,b\r\r\n1,"2"\r\r\n', ["1", "2"]),
    "CR CR LF, no quote": ("t.csv", "a,b\r\r\n1,2\r\r\n", ["1", "2"]),
    "CR in a field": ("t.csv", "a,b\n1,2\r3\n", ["1", "2\r3"]),
    "CR in a field, quotes elsewhere": ("t.csv", 'a,b\n"1",2\r3\n', ["1", "2\r3"]),
    "Excel's mark": ("t.csv", "sep=;\r\na;b\r\n1;2\r\n", ["1", "2"]),
    "Excel's mark, quotes": ("t.csv", '\ufeffsep=,\na,b\n1,"2"\n', ["1", "2"]),
    "blank lines": ("t.csv", "\n\na,b\n\n1,2\n\n", ["1", "2"]),
    "no last line end": ("t.csv", 'a,b\n1,"2"', ["1", "2"]),
    "other column twice": ("t.csv", "a,b,c,c\n1,2,3,4\n", ["1", "2"]),
    "pandas": ("t.tsv", 'a\tb\n1\t"He said ""hi"""\n', ["1", 'He said "hi"']),
    "pandas, a tab": ("t.tsv", 'a\tb\n1\t"x\ty"\n', ["1", "x\ty"]),
    "pandas, a line break": ("t.tsv", 'a\tb\n1\t"x\ny"\n', ["1", "x\ny"]),
    "empty string": ("t.tsv", 'a\tb\n1\t""\n', ["1", ""]),
    "only begins": ("t.tsv", 'a\tb\n1\t"Weird Al live\n', ["1", '"Weird Al live']),
    "begins and ends": ("t.tsv", 'a\tb\n1\t"A" and "B"\n', ["1", '"A" and "B"']),
    "quotes as letters": ("t.tsv", 'a\tb\n1\t"Heroes"\n', ["1", '"Heroes"']),
    "all quoted": ("t.tsv", '"a"\t"b"\n"1"\t"Heroes"\n', ["1", "Heroes"]),
    "numbers not quoted": ("t.tsv", '"a"\t"b"\n1\t"Heroes"\n', ["1", "Heroes"]),
    "recbole": ("t.item", 'a:token\tb:token_seq\n1\t"He said ""hi"""\n', ["1", 'He said "hi"']),
}


@pytest.mark.parametrize(("name", "text", "row"), GOOD.values(), ids=GOOD)
def test_conventions(tmp_path, name, text, row):
    path = tmp_path / name
    path.write_bytes(text.encode())
    assert read(path, ["a", "b"]) == [row]


def test_both_kinds_of_quotes_in_one_tsv(tmp_path):
    path = tmp_path / "t.tsv"
    path.write_text('a\tb\n1\t"He said ""hi"""\n2\t"Weird Al live\n3\t"Heroes" live\n')
    expected = [["1", 'He said "hi"'], ["2", '"Weird Al live'], ["3", '"Heroes" live']]
    assert read(path, ["a", "b"]) == expected


BAD = {
    "two strays": (
        "t.csv",
        'a,b,c\n0,Lamp,x\n1,"Weird Al live,y\n2,Red,z\n3,"Heroes live,w\n',
        " line 3: not valid csv: a stray quote: text follows a closing quote on line 5",
    ),
    "one stray": ("t.csv", 'a,b\n1,"x\n2,y\n', " line 2: not valid csv: a stray quote: it opens"),
    "stray at both ends": ("t.csv", 'a,b,c\n1,"x,y\n2,z"\n', " line 2: expected 3 columns, got 2;"),
    "backslash": ("t.csv", 'a,b\n1,"say \\"hi\\""\n', " line 2: not valid csv: a stray quote"),
    "space after quote": ("t.csv", 'a,b\n1,"x" \n', " line 2: not valid csv: a stray quote"),
    "quote after space": ("t.csv", 'a,b\n1, "x,y"\n', " line 2: expected 2 columns, got 3"),
    "ragged beside quotes": ("t.csv", 'a,b\n"1",2\n3\n', " line 3: expected 2 columns, got 1"),
    "CR alone": ("t.csv", "a,b\r1,2\r", " line 1: lines must end with LF or CR LF"),
    "CR among LF": ("t.csv", "a,b\n1,2\r3,4\n", " line 2: expected 2 columns, got 3"),
    "NUL": ("t.csv", "a,b\n1,2\0\n", " line 2: holds a NUL byte"),
    "UTF-16, no mark": ("t.tsv", "a\0\t\0b\0\n\0", " line 1: holds a NUL byte"),
    "no header": ("t.csv", "1,2\n3,4\n", " line 1: column a is missing; columns: 1, 2"),
    "tab, ragged": ("t.tsv", 'a\tb\n1\t"x\ty\n', " line 2: expected 2 columns, got 3"),
    "tab, ragged later": ("t.tsv", 'a\tb\n1\t"x"\n2\n', " line 3: expected 2 columns, got 1"),
    "tab, ambiguous": ("t.tsv", 'a\tb\n1\t"x\n2\ty"\n', " line 2: a quote begins a field, which"),
    "tab, backslash": ("t.tsv", 'a\tb\n1\t"say \\"hi\\""\n', " line 2: not valid tsv: a stray"),
    "R's write.table": ("t.tsv", '"a"\t"b"\n"1"\t"5\\" nail"\n', " line 2: not valid tsv: a stray"),
}


@pytest.mark.parametrize(("name", "text", "message"), BAD.values(), ids=BAD)
def test_what_does_not_fit_is_refused(tmp_path, name, text, message):
    path = tmp_path / name
    path.write_bytes(text.encode())
    with pytest.raises(InputError) as error:
        read_table(path, ["a", "b"])
    assert str(error.value).startswith(f"{path}{message}")
    assert "\n" not in str(error.value)


def test_a_record_that_could_be_several_is_noted(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text('a,b,c\n1,x,"y\n2,x,y"\n3,x,"two\nlines"\n')
    table = read_table(path, ["a"])
    assert len(table.columns["a"]) == 2
    (note,) = table.notes
    assert note.startswith(f"{path} line 2: a quoted field holds a line break") and "1 such" in note


def test_a_line_has_a_longest_length(tmp_path, monkeypatch):
    for module in ("lines", "delimited", "dialects"):
        monkeypatch.setattr(f"store_engine.data.tables.{module}.MAX_LINE_BYTES", 1000)
    limit = csv.field_size_limit(1000)
    try:
        for text in ("1," + "x" * 4000, '1,"' + "x\n" * 1000, '1,"' + "x" * 1000 + '"'):
            path = tmp_path / "t.csv"
            path.write_text(f"a,b\n{text}")
            with pytest.raises(InputError, match=r"t\.csv line 2: .*longer than 1,000"):
                read_table(path, ["a", "b"])
    finally:
        csv.field_size_limit(limit)


def test_many_chunks_agree_with_one(tmp_path, monkeypatch):
    path = tmp_path / "t.csv"
    path.write_text("a,b\n" + "".join(f'{i},"x""{i}"\n' for i in range(100)))
    whole = read(path, ["b", "a"])
    monkeypatch.setattr("store_engine.data.tables.delimited._ROWS_PER_CHUNK", 7)
    assert read(path, ["b", "a"]) == whole == [[f'x"{i}', str(i)] for i in range(100)]


@pytest.mark.parametrize("suffix", ["csv", "tsv"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL], ids=["few", "all"])
def test_the_separator_is_found(suffix, delimiter, quoting, tmp_path):
    rows = [[str(n), f"{n},90; a | b" if n % 2 else "5 cm", "1,99"] for n in range(30)]
    path = tmp_path / f"t.{suffix}"
    with path.open("w", newline="") as file:
        csv.writer(file, delimiter=delimiter, quoting=quoting).writerows(
            [["id", "title", "price"], *rows]
        )
    assert read(path, ["id", "title", "price"]) == rows


def test_lines_that_disagree_are_an_error_of_their_line(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("id;title\n1;Tea\n2;Tea;3\n3;x;y\n")
    with pytest.raises(InputError, match=r"t\.csv line 3: expected 2 columns, got 3"):
        read_table(path, ["id", "title"])


@pytest.mark.parametrize("title", ["K&ouml;ln", "&#246;l", "A &amp;auml; &szlig;", "&#xE4;"])
@pytest.mark.parametrize("other", ["Tea", '"a;b"'], ids=["plain", "quotes elsewhere"])
def test_the_semicolon_of_an_entity_ends_no_field(title, other, tmp_path):
    path = tmp_path / "t.csv"
    path.write_text(f"id;title;size\n1;{other};12\n2;{title};7\n3;x;&eacute;\n")
    table = read_table(path, ["id", "title", "size"])
    assert [column.to_pylist() for column in table.columns.values()] == [
        ["1", "2", "3"], [other.strip('"'), title, "x"], ["12", "7", "&eacute;"],
    ]  # fmt: skip
    assert "line 2" in table.notes[0] or "line 3" in table.notes[0]


@pytest.mark.parametrize("title", ["AT&T;x", "a&b;", "R&D;"])
def test_what_is_no_entity_ends_a_field(title, tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("id;title\n" + "1;Tea\n" * 20 + f"2;{title}\n")
    with pytest.raises(InputError, match="line 22: expected 2 columns, got 3"):
        read_table(path, ["id", "title"])


def test_a_column_without_a_name_is_shown(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("item_id,title\n1,x\n")
    with pytest.raises(InputError, match="column '' is missing"):
        read_table(path, [""])
