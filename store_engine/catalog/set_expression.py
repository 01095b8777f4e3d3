"""Expressions over the names of item sets, such as 'in_stock & ~("Dog food" | adult)'.

An expression holds names, `&` (and), `|` (or), `~` (not) and parentheses; `~` binds first, then
`&`, then `|`. A name that is no identifier stands in quotes, single or double, without escapes.
Expressions come from requests of strangers: their length is bounded, and no step is recursive.
"""

import re
from typing import NamedTuple

from store_engine.errors import InputError

_MAX_LENGTH = 1000  # characters
_MAX_NAME_LENGTH = 200
_PRECEDENCE = {"|": 1, "&": 2, "~": 3}
_TOKEN = re.compile(
    r"""\s* (?: (?P<name> [^\W\d]\w*)
             | "(?P<double> [^"]+)"
             | '(?P<single> [^']+)'
             | (?P<sign> [&|~()]) )""",
    re.VERBOSE,
)


class Step(NamedTuple):
    """One step of an expression in postfix order: a name, or an operator on what stands before."""

    text: str
    is_name: bool


def check_set_name(name: str) -> None:
    """Refuses a name that no expression could hold.

    Raises:
        TypeError: The name is not text.
        InputError: The name is empty, too long, not printable, or holds both kinds of quotes.
    """
    if not isinstance(name, str):
        raise TypeError(f"the name of an item set is text, got {type(name).__name__}")
    if not 0 < len(name) <= _MAX_NAME_LENGTH or not name.isprintable():
        raise InputError(
            f"the name of an item set must have 1 to {_MAX_NAME_LENGTH} printable characters, "
            f"got {name[:_MAX_NAME_LENGTH]!r}"
        )
    if "'" in name and '"' in name:
        raise InputError(f"the name of an item set must not hold both ' and \", got {name!r}")


def parse_expression(expression: str) -> list[Step]:
    """Reads an expression into postfix order, by the shunting-yard algorithm.

    Raises:
        InputError: The expression is too long or does not parse.

    Source: E. W. Dijkstra, Algol 60 translation, 1961.
    """
    if len(expression) > _MAX_LENGTH:
        raise InputError(f"an item set's expression may have {_MAX_LENGTH} characters at most")
    steps: list[Step] = []
    waiting: list[str] = []  # operators and parentheses whose right side is not complete
    is_operand_next = True
    for token in _tokens(expression):
        # an operand starts with a name, "~" or "("; after one comes "&", "|" or ")"
        if is_operand_next != (token.is_name or token.text in "~("):
            raise _wrong_form(expression)
        if token.is_name:
            steps.append(token)
            is_operand_next = False
        elif token.text in "~(":
            waiting.append(token.text)
        elif token.text == ")":
            while waiting and waiting[-1] != "(":
                steps.append(Step(waiting.pop(), is_name=False))
            if not waiting:
                raise _wrong_form(expression)
            waiting.pop()
        else:
            rank = _PRECEDENCE[token.text]
            while waiting and _PRECEDENCE.get(waiting[-1], 0) >= rank:
                steps.append(Step(waiting.pop(), is_name=False))
            waiting.append(token.text)
            is_operand_next = True
    if is_operand_next or "(" in waiting:
        raise _wrong_form(expression)
    return steps + [Step(sign, is_name=False) for sign in reversed(waiting)]


def _tokens(expression: str) -> list[Step]:
    tokens, position, end = [], 0, len(expression.rstrip())
    while position < end:
        match = _TOKEN.match(expression, position, end)
        if match is None:
            raise _wrong_form(expression)
        name = match["name"] or match["double"] or match["single"]
        tokens.append(Step(name or match["sign"], is_name=name is not None))
        position = match.end()
    return tokens


def _wrong_form(expression: str) -> InputError:
    return InputError(
        f"an item set must read like 'in_stock & ~(adult | \"Dog food\")', got {expression!r}"
    )
