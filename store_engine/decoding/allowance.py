"""What each history of a call may be given."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from store_engine._C import RowSet
from store_engine.catalog.catalog_view import CatalogView
from store_engine.catalog.item_filter import ItemFilter
from store_engine.decoding.search_options import SearchOptions, sets_per_history
from store_engine.errors import InputError
from store_engine.inference.prefill_batch import check_rows

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Allowance:
    """The items that each history may be given, by the rows of one view's trie.

    Args:
        view: The catalogue.
        allowed: Per history the set that it may be given; None: everything.
        excluded: Per history what it may not be given.
    """

    view: CatalogView
    allowed: list[RowSet | None]
    excluded: list[Rows]

    @classmethod
    def of(
        cls,
        view: CatalogView,
        options: SearchOptions,
        histories: Sequence[Rows],
        exclude_history: bool,
    ) -> "Allowance":
        """Resolves the options of a call.

        Args:
            view: The catalogue.
            options: What was asked for.
            histories: Catalogue rows of each.
            exclude_history: Leave out the items of the history.

        Raises:
            InputError: An item set is not defined, a row is not in the catalogue, or there is not
                one list per history.
        """
        num = len(histories)
        allow = sets_per_history("allow", options.allow, num)
        deny = sets_per_history("deny", options.deny, num)
        allowed = [view.sets.resolve(*pair) for pair in zip(allow, deny, strict=True)]
        excluded = [np.zeros(0, dtype=np.int64)] * num
        if options.exclude is not None:
            excluded = check_rows(options.exclude, len(view.tokens), "exclude")
            if len(excluded) != num:
                raise InputError(
                    f"exclude must hold one list per history ({num}), got {len(excluded)}"
                )
        if exclude_history:
            excluded = [np.concatenate(pair) for pair in zip(excluded, histories, strict=True)]
        return cls(view, allowed, [view.trie_rows(rows) for rows in excluded])

    def item_filter(self, ids: Rows) -> ItemFilter | None:
        """Makes the filter of a batch; None where every item may be given.

        Args:
            ids: The histories of the batch.
        """
        if not any(self.allowed[i] is not None or len(self.excluded[i]) for i in ids):
            return None
        return self.filter_of(ids)

    def filter_of(self, ids: Rows) -> ItemFilter:
        """Makes the filter of a batch, also where it leaves nothing out."""
        return ItemFilter(self.view.trie, *self.of_batch(ids))

    def of_batch(self, ids: Rows) -> tuple[list[RowSet | None], list[Rows]]:
        """Returns `allowed` and `excluded` of some histories."""
        return [self.allowed[i] for i in ids], [self.excluded[i] for i in ids]
