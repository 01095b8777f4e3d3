"""From a catalogue's SIDs to the items that are tokens of the model themselves."""

import numpy as np
from numpy.typing import NDArray

from store_engine.config import Config, RecommenderConfig
from store_engine.model.item_rows import ItemTokens
from store_engine.model.store_model import StoreModel
from store_engine.sid.sid_table import SidTable


def slot_order(sids: NDArray[np.integer]) -> NDArray[np.int64]:
    """Returns the catalogue row of every slot: items in the order of their SIDs, then rows."""
    return np.lexsort(sids.T[::-1]).astype(np.int64)


def code_sizes(table: SidTable) -> tuple[int, ...]:
    """Codes per level that has rows of codes: all but the level that is the item itself."""
    return table.codebook_sizes[: -1 if table.features is not None else None]


def item_tokens(settings: RecommenderConfig, table: SidTable) -> ItemTokens | None:
    """Makes the items of a model that reads or writes whole items; None: it knows codes alone."""
    has_rows, are_read = table.features is not None, settings.history == "items"
    head_size = settings.head_size if settings.decoder == "heads" else 0
    if not (has_rows or are_read or head_size):
        return None
    codes = table.sids[slot_order(table.sids)]
    return ItemTokens(
        codes[:, : len(code_sizes(table))],
        num_features=table.features.num_features if table.features is not None else 0,
        are_read=are_read,
        head_size=head_size,
        is_tied=settings.tie_items,
        residual_dropout=settings.residual_dropout,
        softmax_weight=settings.item_softmax,
    )


def recommender_model(config: Config, text_vocab_size: int, table: SidTable) -> StoreModel:
    """Makes the LLM of a run's stage 2, for decoding: with fresh weights, without labels."""
    return StoreModel(
        config.model,
        text_vocab_size,
        code_sizes(table),
        items=item_tokens(config.recommender, table),
        skip=config.recommender.skip,
    )
