"""Token to text: `<bos>`, an item's codes, then its text and <eos>, which are the targets."""

import numpy as np

from store_engine.data.packing import IntArray
from store_engine.model.targets import IGNORE
from store_engine.training.tasks.task import ItemTask


class Reconstruction(ItemTask):
    """Items whose codes say their text."""

    name = "reconstruction"

    def lengths(self, keys: IntArray) -> IntArray:
        """Counts <bos>, the codes and the text without <eos>."""
        return self.num_targets(keys) + self._data.tokens_per_item

    def num_targets(self, keys: IntArray) -> IntArray:
        """Counts the text's tokens and <eos>: the content has <bos> in its place."""
        content: IntArray = self._data.texts.content_lengths[keys[:, 0]]
        return content

    def document(self, key: IntArray) -> tuple[IntArray, IntArray]:
        """Writes the item's codes and text."""
        (row,) = key.tolist()
        texts, codes = self._data.texts, self._data.items.read[row]
        text = np.r_[texts.content(row)[1:], texts.eos_id]  # without <bos>
        targets = np.r_[np.full(len(codes), IGNORE), text]
        return np.r_[texts.bos_id, codes, text[:-1]], targets
