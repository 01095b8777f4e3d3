"""`--positive "quantity > 0 and event = 'purchase'"`: which events count, as a small language.

    expression  = all ("or" all)*
    all         = part ("and" part)*
    part        = "(" expression ")" | column operator value
    column      = a word, or any name in double quotes
    operator    = > >= < <= = == !=
    value       = a number, a word, or a text in single quotes

Nothing of it is evaluated as code: it is parsed here and becomes SQL of quoted names and literals.
"""

import math
import re
from collections.abc import Collection
from typing import NamedTuple

from store_engine.errors import InputError
from store_engine.prepare.numbers import number_sql
from store_engine.prepare.readers.storage import identifier, literal

_TOKEN = re.compile(
    r"\s*(?:(?P<op>>=|<=|==|!=|<>|[><=])|(?P<paren>[()])|(?P<name>\"(?:[^\"]|\"\")+\")"
    r"|(?P<text>'(?:[^']|'')*')|(?P<word>[^\s()<>=!'\"]+))"
)
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?")
_MAX_TOKENS = 200


class Positive(NamedTuple):
    """A parsed expression.

    Attributes:
        sql: True, false, or NULL where a value is missing or no number; of raw's columns.
        columns: Names that it reads, each once.
        numbers: SQL of each column that it compares with a number, by name.
    """

    sql: str
    columns: tuple[str, ...]
    numbers: dict[str, str]


def tested(name: str) -> str:
    """Writes the SQL of raw's column that holds what the files have in a column."""
    return identifier(f"tested_{name}")


def parse_positive(text: str, with_comma: Collection[str] = ()) -> Positive:
    """Parses an expression.

    Args:
        text: The expression.
        with_comma: Columns whose decimal mark is a comma.

    Raises:
        InputError: It is none; says where and what was expected.
    """
    parser = _Parser(text, with_comma)
    sql = parser.either()
    parser.end()
    return Positive(sql, tuple(dict.fromkeys(parser.columns)), parser.numbers)


class _Parser:
    """Recursive descent over the tokens."""

    def __init__(self, text: str, with_comma: Collection[str]) -> None:
        self._text, self._with_comma = text, with_comma
        self.columns, self.numbers = list[str](), dict[str, str]()
        self._tokens: list[tuple[str, str]] = []
        place = 0
        while text[place:].strip():
            match = _TOKEN.match(text, place)
            if match is None or len(self._tokens) == _MAX_TOKENS:
                raise self._error(
                    f"a column, an operator or a value at {text[place:].strip()[:20]!r}"
                )
            kind = str(match.lastgroup)
            self._tokens.append((kind, match[kind]))
            place = match.end()
        self._tokens.append(("end", ""))

    def either(self) -> str:
        parts = [self._all()]
        while self._takes("word", "or"):
            parts.append(self._all())
        return parts[0] if len(parts) == 1 else f"({' OR '.join(parts)})"

    def end(self) -> None:
        if self._tokens[0][0] != "end":
            raise self._error(f"'and', 'or' or the end, got {self._tokens[0][1]!r}")

    def _all(self) -> str:
        parts = [self._part()]
        while self._takes("word", "and"):
            parts.append(self._part())
        return parts[0] if len(parts) == 1 else f"({' AND '.join(parts)})"

    def _part(self) -> str:
        if self._takes("paren", "("):
            inner = self.either()
            if not self._takes("paren", ")"):
                raise self._error(f"')', got {self._tokens[0][1]!r}")
            return inner
        kind, column = self._next()
        if kind not in ("word", "name"):
            raise self._error(f"a column, got {column!r}")
        name = column[1:-1].replace('""', '"') if kind == "name" else column
        self.columns.append(name)
        kind, operator = self._next()
        if kind != "op":
            raise self._error(f"one of > >= < <= = != after {name!r}, got {operator!r}")
        kind, value = self._next()
        operator = {"==": "=", "!=": "<>"}.get(operator, operator)
        if kind == "word" and _NUMBER.fullmatch(value):
            if not math.isfinite(float(value)):
                raise self._error(f"a finite number, got {value!r}")
            self.numbers[name] = number_sql(tested(name), name in self._with_comma)
            return f"({self.numbers[name]} {operator} {literal(value)}::DOUBLE)"
        if kind not in ("word", "text"):
            raise self._error(f"a number, a word or a text in single quotes, got {value!r}")
        if operator not in ("=", "<>"):
            raise self._error(f"a number after {operator}, got {value!r}")
        text = value[1:-1].replace("''", "'") if kind == "text" else value
        compared = f"lower(trim({tested(name)}))"
        return f"({compared} {operator} {literal(text.strip().lower())})"

    def _next(self) -> tuple[str, str]:
        """The next token, which is taken unless it is the end."""
        return self._tokens.pop(0) if len(self._tokens) > 1 else self._tokens[0]

    def _takes(self, kind: str, text: str) -> bool:
        found = self._tokens[0]
        if found[0] == kind and found[1].lower() == text:
            self._tokens.pop(0)
            return True
        return False

    def _error(self, expected: str) -> InputError:
        return InputError(f"--positive {self._text[:200]!r}: expected {expected}")
