"""From a catalogue's SIDs to the items that are tokens of the model themselves."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from store_engine.config import Config, RecommenderConfig
from store_engine.model.item_rows import ItemTokens
from store_engine.model.store_model import StoreModel
from store_engine.model.unified_vocabulary import UnifiedVocabulary
from store_engine.sid.sid_table import SidTable


@dataclass(frozen=True)
class ItemIds:
    """How items stand in documents.

    Args:
        vocabulary: Text tokens, the items' codes, the labels of tasks, and items.
        num_labels: Codes of the vocabulary's last level, which are labels; 0: there are none.
        read: (num_items, tokens_per_item) unified ids by catalogue row: an item of a history.
        written: (num_items, targets_per_item) unified ids by catalogue row: an item to predict.
            All codes, each a step of the transformer, or the one id that heads write.
    """

    vocabulary: UnifiedVocabulary
    num_labels: int
    read: NDArray[np.int64]
    written: NDArray[np.int64]

    @property
    def first_label(self) -> int:
        """The unified id of the first label."""
        return self.vocabulary.item_offset - self.num_labels


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


def item_ids(
    settings: RecommenderConfig, table: SidTable, text_vocab_size: int, num_labels: int = 0
) -> ItemIds:
    """Gives every item its tokens.

    Args:
        settings: How histories are read and items written.
        table: The items' SIDs.
        text_vocab_size: Number of text tokens.
        num_labels: Codes that tasks need for themselves.
    """
    sizes = code_sizes(table)
    items = item_tokens(settings, table)
    labels = (num_labels,) if num_labels else ()
    num_items = len(items) if items is not None else 0
    vocabulary = UnifiedVocabulary(text_vocab_size, (*sizes, *labels), num_items)
    offsets = np.array(vocabulary.level_offsets[: len(sizes)], dtype=np.int64)
    read = table.sids[:, : len(sizes)].astype(np.int64) + offsets
    if items is None:
        return ItemIds(vocabulary, num_labels, read, read)
    slots = np.empty((len(items), 1), dtype=np.int64)
    slots[slot_order(table.sids), 0] = np.arange(len(items))
    item = vocabulary.item_offset + slots
    if items.have_rows:
        read = np.hstack([read, item])
    written = item if items.head_size else read
    return ItemIds(vocabulary, num_labels, item if items.are_read else read, written)


def recommender_model(config: Config, text_vocab_size: int, table: SidTable) -> StoreModel:
    """Makes the LLM of a run's stage 2, for decoding: with fresh weights, without labels."""
    return StoreModel(
        config.model,
        text_vocab_size,
        code_sizes(table),
        items=item_tokens(config.recommender, table),
        skip=config.recommender.skip,
    )
