"""Named sets of items, such as those in stock, and expressions over their names.

An expression holds names, `&` (and), `|` (or), `~` (not) and parentheses: "in_stock & ~adult". It
binds as in Python, `~` first, then `&`. The sets are rows of one trie; a set takes a bit per item.
"""

import ast
import functools
import operator
import threading
from collections import OrderedDict

import numpy as np
from numpy.typing import NDArray

from store_engine._C import ItemTrie, RowSet
from store_engine.errors import InputError

_MAX_LENGTH = 1000  # characters of an expression, which may come from a stranger's request
_MAX_RESOLVED = 64  # expressions whose set is kept


class ItemSets:
    """The sets that were defined for one trie. Safe to use from several threads.

    Args:
        trie: The catalogue.
    """

    def __init__(self, trie: ItemTrie) -> None:
        self._trie = trie
        self._sets: dict[str, RowSet] = {}
        self._resolved: OrderedDict[tuple[str | None, str | None], RowSet] = OrderedDict()
        self._lock = threading.Lock()

    def define(self, name: str, rows: NDArray[np.int64]) -> None:
        """Defines a set, or replaces it for the requests that follow.

        Args:
            name: A Python identifier.
            rows: (num_rows,) int64, in any order, repeats allowed.

        Raises:
            InputError: The name is no identifier.
        """
        if not name.isidentifier():
            raise InputError(f"the name of an item set must be an identifier, got {name!r}")
        row_set = RowSet.from_rows(self._trie, rows)
        with self._lock:
            self._sets[name] = row_set
            self._resolved.clear()

    def resolve(self, allow: str | None, deny: str | None) -> RowSet | None:
        """Returns the rows that are allowed and not denied; repeated questions cost nothing.

        Args:
            allow: An expression; None allows everything.
            deny: An expression; None denies nothing.

        Returns:
            The set, or None for everything.

        Raises:
            InputError: An expression does not parse, or a name is not defined.
        """
        if allow is None and deny is None:
            return None
        with self._lock:
            row_set = self._resolved.pop((allow, deny), None)
            if row_set is None:
                row_set = self._combine(allow, deny)
            self._resolved[allow, deny] = row_set
            if len(self._resolved) > _MAX_RESOLVED:
                self._resolved.popitem(last=False)
        return row_set

    def _combine(self, allow: str | None, deny: str | None) -> RowSet:
        # each is parsed alone, so that no text can reach beyond its own expression
        sets: list[RowSet] = []
        if allow is not None:
            sets.append(self._evaluate(_parse(allow), allow))
        if deny is not None:
            sets.append(~self._evaluate(_parse(deny), deny))
        return functools.reduce(operator.and_, sets)

    def _evaluate(self, node: ast.expr, expression: str) -> RowSet:
        match node:
            case ast.Name(id=name) if name in self._sets:
                return self._sets[name]
            case ast.Name(id=name):
                known = ", ".join(self._sets) or "none"
                raise InputError(f"unknown item set {name!r}; defined: {known}")
            case ast.UnaryOp(op=ast.Invert(), operand=operand):
                return ~self._evaluate(operand, expression)
            case ast.BinOp(left=left, op=ast.BitAnd(), right=right):
                return self._evaluate(left, expression) & self._evaluate(right, expression)
            case ast.BinOp(left=left, op=ast.BitOr(), right=right):
                return self._evaluate(left, expression) | self._evaluate(right, expression)
        raise InputError(_FORM.format(expression))


_FORM = "an item set must read like 'in_stock & ~(adult | sold_out)', got {!r}"


def _parse(expression: str) -> ast.expr:
    if len(expression) > _MAX_LENGTH:
        raise InputError(f"an item set's expression may have {_MAX_LENGTH} characters at most")
    try:
        return ast.parse(expression.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise InputError(_FORM.format(expression)) from error
