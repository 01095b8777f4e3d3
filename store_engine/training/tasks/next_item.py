"""Token to token: a history, where every item is to be predicted from those before it.

transformer   `<bos> c11..c1n c21..c2n ...`, every position has the next code as its target
heads         the state before each item has the whole item as its target
"""

import numpy as np

from store_engine.config import RecommenderConfig
from store_engine.data.packing import IntArray, history_windows
from store_engine.model.targets import IGNORE
from store_engine.training.tasks.task import TaskData


class NextItem:
    """Windows of the training histories.

    A key is the first event of context, the first event to learn and the one after the last.

    Args:
        data: What documents are made of.
        settings: How windows overlap, and whether a window's first item is learnt.
    """

    name = "next_item"
    loss_group = "tokens"

    def __init__(self, data: TaskData, settings: RecommenderConfig) -> None:
        self._data, self._settings = data, settings

    def sample(self, epoch: int) -> IntArray:
        """Cuts every history into windows; over the epochs the cuts of long ones move."""
        data, overlap = self._data, self._settings.window_overlap
        offsets = data.histories.offsets
        windows = history_windows(offsets, data.max_history - overlap, data.rng(epoch, "windows"))
        begin = windows[:, 0]
        user_begin = offsets[np.searchsorted(offsets, begin, side="right") - 1]
        keys = np.column_stack([np.maximum(begin - overlap, user_begin), windows])
        keys[:, 1] = np.maximum(keys[:, 1], keys[:, 0] + (not self._settings.first_item_loss))
        return keys[keys[:, 1] < keys[:, 2]]

    def lengths(self, keys: IntArray) -> IntArray:
        """Counts the tokens of each window."""
        data = self._data
        lengths: IntArray = (keys[:, 2] - keys[:, 0]) * data.tokens_per_item
        return lengths - (data.tokens_per_item - data.targets_per_item)

    def num_targets(self, keys: IntArray) -> IntArray:
        """Counts the targets of the items to learn."""
        targets: IntArray = (keys[:, 2] - keys[:, 1]) * self._data.targets_per_item
        return targets

    def document(self, key: IntArray) -> tuple[IntArray, IntArray]:
        """Writes the window's items behind <bos>."""
        context, begin, end = key.tolist()
        data = self._data
        rows = np.asarray(data.histories.tokens[context:end])
        tokens = np.r_[data.texts.bos_id, data.items.read[rows].ravel()]
        targets = np.full((len(rows), data.tokens_per_item), IGNORE)
        targets[begin - context :, : data.targets_per_item] = data.items.written[
            rows[begin - context :]
        ]
        length = int(self.lengths(key[None])[0])
        return tokens[:length], targets.ravel()[:length]
