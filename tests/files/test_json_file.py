import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from store_engine.errors import InputError
from store_engine.files.json_file import (
    parse_json,
    read_json,
    read_json_lines,
    write_json,
    write_json_lines,
)

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
LEAF = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT
VALUES = st.dictionaries(TEXT, LEAF | st.lists(LEAF, max_size=3), max_size=3)


@given(VALUES)
@settings(max_examples=50)
def test_an_object_comes_back(tmp_path_factory, value):
    path = tmp_path_factory.getbasetemp() / "x.json"
    write_json(path, value)
    assert read_json(path) == value


@given(st.lists(VALUES, max_size=3))
@settings(max_examples=50)
def test_lines_come_back(tmp_path_factory, values):
    path = tmp_path_factory.getbasetemp() / "x.jsonl"
    write_json_lines(path, values)
    assert [value for _, value in read_json_lines(path)] == values


BAD = {
    "cut": b'{"a": 1',
    "empty": b"",
    "latin1": b'{"a": "\xe9"}',
    "utf16": '{"a": 1}'.encode("utf-16"),
    "bom": b'\xef\xbb\xbf{"a": 1}',
    "deep": b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "digits": b'{"a": ' + b"9" * 5000 + b"}",
    "surrogate": b'{"a": "\\ud800"}',
    "surrogate key": b'{"\\uDC00": 1}',
    "two": b"{} {}",
    "nul": b"\0",
}


@pytest.mark.parametrize("content", BAD.values(), ids=BAD)
def test_bad_json_is_one_error_with_path_and_line(content, tmp_path):
    path = tmp_path / "x.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"x\.json: not valid JSON: .") as error:
        read_json(path)
    assert "\n" not in str(error.value)
    path.write_bytes(b"{}\n" + content + b"\n")
    with pytest.raises(InputError, match=r"x\.json line 2: not valid JSON: ."):
        list(read_json_lines(path))


@pytest.mark.parametrize("content", [b"[]", b"1", b'"x"', b"null"])
def test_another_value_is_refused(content, tmp_path):
    path = tmp_path / "x.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"x\.json: must hold a JSON object"):
        read_json(path)
    with pytest.raises(InputError, match=r"x\.json line 1: must hold a JSON object"):
        list(read_json_lines(path))


@pytest.mark.parametrize("text", ['"\\ud83d\\ude00"', '"\\\\ud800"', '"é\\u00e9"'])
def test_escapes_of_whole_characters_are_read(text):
    assert parse_json(text.encode(), "here") == json.loads(text)


def test_sizes_are_bounded(tmp_path):
    path = tmp_path / "x.json"
    path.write_bytes(b'{"a": "' + b"x" * 100 + b'"}\n')
    assert read_json(path)
    with pytest.raises(InputError, match="at most 50 bytes"):
        read_json(path, max_bytes=50)
    with pytest.raises(InputError, match="line 1: must be at most 50 bytes"):
        list(read_json_lines(path, max_line_bytes=50))


@pytest.mark.parametrize("end", [b'{"b": 2}', b'{"b', b"\xff\xfe"], ids=ascii)
def test_a_last_line_without_its_end_is_left_out_when_a_kill_explains_it(end, tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'{"a": 1}\n' + end)
    assert [value for _, value in read_json_lines(path, may_be_cut=True)] == [{"a": 1}]
    path.write_bytes(b'{"a": 1}\n{"b\n{"c": 1}\n')
    with pytest.raises(InputError, match="line 2"):
        list(read_json_lines(path, may_be_cut=True))
