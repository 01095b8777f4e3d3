"""What a person would write for a value: one rule, whatever file the value came from.

| value | text |
|---|---|
| nothing, NaN | "" |
| text | itself |
| bytes | decoded as UTF-8 |
| truth value | true, false |
| number | all digits of an integer; 1999.0 is 1999, 19.90 of a decimal stays 19.90 |
| list | its parts with ", " between; empty ones are left out |
| map, struct, object | `key: text` of each entry that has a text, with ", " between |

Dates and times arrive as ISO 8601 text (arrow_values.py).
"""

import math
import re
from decimal import Decimal

from store_engine.data.report import DataReport

_MAX_DEPTH = 64
_MAX_PLAIN_DIGITS = 40  # a decimal with more is written with an exponent
# C0 without tab, line feed and carriage return; DEL; C1 without NEL, which is white space
_CONTROLS = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f]")
_SURROGATES = re.compile("[\ud800-\udfff]")


def cell_text(value: object, depth: int = 0) -> str:
    """Writes a value as text.

    Args:
        value: None, str, bytes, bool, int, float, Decimal, a list of values, a dict, or a pair
            (a tuple of key and value: an entry of a map).
        depth: How many lists and dicts the value stands in.

    Raises:
        ValueError: It cannot be written: bytes are not UTF-8, the nesting is too deep, or there is
            no rule for its type. The message completes "COLUMN ...".
    """
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return _float_text(value)
    if isinstance(value, Decimal):
        return _decimal_text(value)
    if isinstance(value, bytes):
        return bytes_text(value)
    if depth == _MAX_DEPTH:
        raise ValueError(f"is nested deeper than {_MAX_DEPTH}")
    if isinstance(value, dict):
        value = list(value.items())
    if isinstance(value, list):
        return ", ".join(filter(None, (cell_text(part, depth + 1) for part in value)))
    if isinstance(value, tuple):
        key, text = (cell_text(part, depth + 1) for part in value)
        return f"{key}: {text}" if text else ""
    raise ValueError(f"holds {type(value).__name__}, which has no text")


def bytes_text(value: bytes) -> str:
    """Decodes bytes.

    Raises:
        ValueError: They are not UTF-8.
    """
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"holds bytes that are not UTF-8 (0x{value[error.start]:02x})") from error


def clean_text(text: str, report: DataReport) -> str:
    """Makes a text one line that every terminal and file can hold.

    Runs of white space become one space, control characters spaces, and halves of surrogate pairs,
    which JSON can spell but UTF-8 cannot hold, U+FFFD.

    Args:
        text: Any text.
        report: Counts what was replaced.
    """
    if not text.isprintable():  # true of a space, but of no control character and no surrogate
        text, num_stripped = _CONTROLS.subn(" ", text)
        text, num_replaced = _SURROGATES.subn("\ufffd", text)
        report.num_stripped += num_stripped
        report.num_replaced += num_replaced
    return " ".join(text.split())


def _float_text(value: float) -> str:
    if math.isnan(value):
        return ""
    if value.is_integer() and abs(value) < 1e22:  # what repr writes with an exponent from 1e16
        return str(int(value))
    return repr(value)


def _decimal_text(value: Decimal) -> str:
    if value.is_nan():
        return ""
    if not value.is_finite() or not -_MAX_PLAIN_DIGITS < value.adjusted() < _MAX_PLAIN_DIGITS:
        return str(value)
    return str(int(value)) if value == int(value) else format(value, "f")
