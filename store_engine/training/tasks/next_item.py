"""Token to token: `<bos> c11..c1n c21..c2n ...`, every position a target."""

import numpy as np

from store_engine.data.packing import IntArray, history_windows
from store_engine.training.tasks.task import TaskData


class NextItem:
    """Windows of the training histories. A key is the first event and the one after the last."""

    name = "next_item"
    loss_group = "tokens"
    num_labels = 0

    def __init__(self, data: TaskData) -> None:
        self._data = data

    def sample(self, epoch: int) -> IntArray:
        """Cuts every history into windows; over the epochs the cuts of long ones move."""
        generator = self._data.rng(epoch, "windows")
        return history_windows(self._data.histories.offsets, self._data.max_history, generator)

    def lengths(self, keys: IntArray) -> IntArray:
        """Counts the tokens of each window."""
        lengths: IntArray = (keys[:, 1] - keys[:, 0]) * self._data.num_levels
        return lengths

    def num_targets(self, keys: IntArray) -> IntArray:
        """Counts the targets: every position has one."""
        return self.lengths(keys)

    def document(self, key: IntArray) -> tuple[IntArray, IntArray]:
        """Writes the window's codes behind <bos>."""
        begin, end = key.tolist()
        codes = self._data.history_tokens(begin, end)
        return np.r_[self._data.texts.bos_id, codes[:-1]], codes
