"""Text to token: an item's text, then its codes, which are the targets."""

import numpy as np

from store_engine.data.packing import IntArray
from store_engine.model.store_model import IGNORE
from store_engine.training.tasks.task import ItemTask


class Alignment(ItemTask):
    """Items whose text says their codes."""

    name = "alignment"

    def lengths(self, keys: IntArray) -> IntArray:
        """Counts the text's tokens and all codes but the last."""
        content: IntArray = self._data.texts.content_lengths[keys[:, 0]]
        return content + (self._data.num_levels - 1)

    def num_targets(self, keys: IntArray) -> IntArray:
        """Counts the codes."""
        return np.full(len(keys), self._data.num_levels, dtype=np.int64)

    def document(self, key: IntArray) -> tuple[IntArray, IntArray]:
        """Writes the item's text and codes."""
        (row,) = key.tolist()
        content, codes = np.array(self._data.texts.content(row)), self._data.item_tokens[row]
        targets = np.r_[np.full(len(content) - 1, IGNORE), codes]
        return np.r_[content, codes[:-1]], targets
