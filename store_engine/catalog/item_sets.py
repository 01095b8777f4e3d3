"""Named sets of items, such as those in stock, and expressions over their names.

An expression holds names, `&` (and), `|` (or), `~` (not) and parentheses: "in_stock & ~adult". It
binds as in Python, `~` first, then `&`. A set takes a bit per item.
"""

import ast
import functools
import operator
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from store_engine._C import ItemTrie, RowSet, Snapshot
from store_engine.errors import InputError

_MAX_LENGTH = 1000  # characters of an expression, which may come from a stranger's request
_MAX_RESOLVED = 64  # expressions whose set is kept


class ItemSets:
    """The sets over one trie, each made when it is first asked for. Safe to use from threads.

    Args:
        trie: The items that there are.
        definitions: Name -> (num_rows,) int64 catalogue rows, which may be redefined at any time:
            by another array, never in place.
        trie_rows: The rows of the trie that catalogue rows stand at; some may be gone.
    """

    def __init__(
        self,
        trie: ItemTrie | Snapshot,
        definitions: Mapping[str, NDArray[np.int64]],
        trie_rows: Callable[[NDArray[np.int64]], NDArray[np.int64]],
    ) -> None:
        self._trie, self._definitions, self._trie_rows = trie, definitions, trie_rows
        self._sets: dict[str, tuple[NDArray[np.int64], RowSet]] = {}
        self._resolved: OrderedDict[tuple[str | None, str | None], RowSet] = OrderedDict()
        self._lock = threading.Lock()

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
            if any(rows is not self._definitions[name] for name, (rows, _) in self._sets.items()):
                self._sets.clear()
                self._resolved.clear()
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
            case ast.Name(id=name):
                return self._named(name)
            case ast.UnaryOp(op=ast.Invert(), operand=operand):
                return ~self._evaluate(operand, expression)
            case ast.BinOp(left=left, op=ast.BitAnd(), right=right):
                return self._evaluate(left, expression) & self._evaluate(right, expression)
            case ast.BinOp(left=left, op=ast.BitOr(), right=right):
                return self._evaluate(left, expression) | self._evaluate(right, expression)
        raise InputError(_FORM.format(expression))

    def _named(self, name: str) -> RowSet:
        rows = self._definitions.get(name)
        if rows is None:
            known = ", ".join(self._definitions) or "none"
            raise InputError(f"unknown item set {name!r}; defined: {known}")
        if name not in self._sets:
            self._sets[name] = rows, RowSet.from_rows(self._trie, self._trie_rows(rows))
        return self._sets[name][1]


_FORM = "an item set must read like 'in_stock & ~(adult | sold_out)', got {!r}"


def _parse(expression: str) -> ast.expr:
    if len(expression) > _MAX_LENGTH:
        raise InputError(f"an item set's expression may have {_MAX_LENGTH} characters at most")
    try:
        return ast.parse(expression.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise InputError(_FORM.format(expression)) from error
