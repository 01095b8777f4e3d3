import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from store_engine.errors import InputError


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
