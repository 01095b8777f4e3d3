"""Named sets of items, such as those in stock, over one trie. A set takes a bit per item."""

import functools
import operator
import threading
from collections import OrderedDict
from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from store_engine._C import ItemTrie, RowSet, Snapshot
from store_engine.catalog.row_map import RowMap
from store_engine.catalog.set_expression import parse_expression
from store_engine.errors import InputError

Definitions = Mapping[str, NDArray[np.int64]]  # name -> catalogue rows

_MAX_RESOLVED = 64  # expressions whose set is kept


class ItemSets:
    """The named sets of items over one trie; immutable, safe to use from threads.

    The set of a name, and of the latest expressions, is built when it is first asked for and kept.

    Args:
        trie: The items that there are.
        row_map: From catalogue rows to the trie's.
        definitions: Name -> (num_rows,) int64 catalogue rows. The mapping is copied; the arrays
            must not change.
    """

    def __init__(
        self,
        trie: ItemTrie | Snapshot,
        row_map: RowMap,
        definitions: Definitions,
    ) -> None:
        self._trie, self._row_map = trie, row_map
        self.definitions: Definitions = MappingProxyType(dict(definitions))
        self._sets: dict[str, RowSet] = {}
        self._resolved: OrderedDict[tuple[str | None, str | None], RowSet] = OrderedDict()
        self._lock = threading.Lock()

    def with_definition(self, name: str, rows: NDArray[np.int64]) -> "ItemSets":
        """Returns the same sets with one defined anew; the other names' sets are shared."""
        changed = ItemSets(self._trie, self._row_map, {**self.definitions, name: rows})
        with self._lock:
            changed._sets = {other: one for other, one in self._sets.items() if other != name}
        return changed

    def newest(self, num: int) -> list[RowSet]:
        """Returns the sets that were defined last, `num` at most."""
        with self._lock:
            return [self._named(name) for name in list(self.definitions)[-num:]]

    def resolve(self, allow: str | None, deny: str | None) -> RowSet | None:
        """Returns the rows that are allowed and not denied; a repeated call costs nothing.

        Args:
            allow: An expression; None allows everything.
            deny: An expression; None denies nothing.

        Returns:
            The set, or None for everything.

        Raises:
            TypeError: An expression is not text.
            InputError: An expression does not parse, or a name is not defined.
        """
        if allow is None and deny is None:
            return None
        for name, one in (("allow", allow), ("deny", deny)):
            if not isinstance(one, str | None):
                raise TypeError(f"{name} must be an expression in text, got {type(one).__name__}")
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
            sets.append(self._evaluate(allow))
        if deny is not None:
            sets.append(~self._evaluate(deny))
        return functools.reduce(operator.and_, sets)

    def _evaluate(self, expression: str) -> RowSet:
        stack: list[RowSet] = []
        for step in parse_expression(expression):
            if step.is_name:
                stack.append(self._named(step.text))
            elif step.text == "~":
                stack.append(~stack.pop())
            else:
                right, left = stack.pop(), stack.pop()
                stack.append(left & right if step.text == "&" else left | right)
        return stack.pop()

    def _named(self, name: str) -> RowSet:
        if name not in self._sets:
            rows = self.definitions.get(name)
            if rows is None:
                known = ", ".join(self.definitions) or "none"
                raise InputError(f"unknown item set {name!r}; defined: {known}")
            self._sets[name] = RowSet.from_rows(self._trie, self._row_map.to_trie(rows))
        return self._sets[name]
