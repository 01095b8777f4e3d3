import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from store_engine.errors import InputError, meant_id, nearest, shown


@given(st.text())
def test_a_message_is_one_printable_line(text):
    message = str(InputError(text))
    assert message.isprintable()
    assert message == text or not text.isprintable()


@pytest.mark.parametrize(
    ("text", "want"),
    [("a\nb", "a\\nb"), ("\x1b[31m", "\\x1b[31m"), ("é 日本", "é 日本"), ("\ud800", "\\ud800")],
    ids=range(4),
)
def test_what_a_terminal_would_obey_is_escaped(text, want):
    assert str(InputError(text)) == want
    assert str(pickle.loads(pickle.dumps(InputError(text)))) == want


@pytest.mark.parametrize("length", [2000, 2001, 10**6])
def test_a_message_has_a_bounded_length(length):
    message = str(InputError("begin" + "x" * length + "end"))
    assert message.startswith("begin")
    assert message.endswith("end")
    assert len(message) <= 2100


class _Stubborn:
    def __repr__(self):
        raise RuntimeError("no")


VALUES = [
    10**6000,
    "x" * 10**6,
    ["y" * 10**6] * 10,
    {1: "z" * 10**6},
    _Stubborn(),
    float("nan"),
    None,
]
VALUES += [b"b" * 10**6, [[[[[[[[1]]]]]]]], object(), "short"]


@pytest.mark.parametrize("value", VALUES, ids=range(len(VALUES)))
def test_any_value_can_be_shown(value):
    assert 0 < len(shown(value)) <= 200


def test_the_nearest_name_is_found_whatever_its_capitals():
    known = ["user_id", "QTY", "Menge"]
    assert [nearest(name, known) for name in ("qty", "userid", "menge", "x")] == [
        "QTY", "user_id", "Menge", "",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("given", "known", "want"),
    [
        ("70", {"0000070"}, "0000070"),
        ("0000070", {"70"}, "70"),
        ("070", {"0000070"}, "0000070"),
        ("000", {"0"}, "0"),
        ("70.0", {"70"}, "70"),
        ("70.0", {"0070"}, "0070"),
        ("70", {"70.0"}, "70.0"),
        (" a\n", {"a"}, "a"),
        ("b00x", {"B00X"}, "B00X"),
        ("B00X", {"b00x"}, "b00x"),
        ("eve", {"Eve"}, "Eve"),
        ("70", {"71", "700", "0000071"}, ""),
        ("a", {"a", "A "}, ""),
        ("", {"0"}, ""),
        ("0" * 10**6, {"1"}, ""),
    ],
    ids=range(15),
)
def test_the_id_that_was_meant(given, known, want):
    assert meant_id(given, known) == want
