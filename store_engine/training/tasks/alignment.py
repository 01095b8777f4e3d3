"""Text to token: an item's text, then its codes, which are the targets; or the item itself."""

import numpy as np

from store_engine.data.packing import IntArray
from store_engine.model.targets import IGNORE
from store_engine.training.tasks.task import ItemTask


class Alignment(ItemTask):
    """Items whose text says their codes, or with heads the item."""

    name = "alignment"

    def lengths(self, keys: IntArray) -> IntArray:
        """Counts the text's tokens and all targets but the last."""
        content: IntArray = self._data.texts.content_lengths[keys[:, 0]]
        return content + (self._data.targets_per_item - 1)

    def num_targets(self, keys: IntArray) -> IntArray:
        """Counts the targets."""
        return np.full(len(keys), self._data.targets_per_item, dtype=np.int64)

    def document(self, key: IntArray) -> tuple[IntArray, IntArray]:
        """Writes the item's text and what follows from it."""
        (row,) = key.tolist()
        content, written = np.array(self._data.texts.content(row)), self._data.items.written[row]
        targets = np.r_[np.full(len(content) - 1, IGNORE), written]
        return np.r_[content, written[:-1]], targets
