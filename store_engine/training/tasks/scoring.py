"""Click-through: `<bos>`, a history, a candidate's codes, `<eos>` -> the label NO or YES.

The labels are a level of codes of their own, so that the softmax over them is the binary
cross-entropy; <eos> asks for the label.
"""

import numpy as np
from numpy.typing import NDArray

from store_engine.data.packing import IntArray
from store_engine.errors import InputError
from store_engine.model.targets import IGNORE
from store_engine.training.tasks.task import TaskData, draw_passes

NUM_LABELS = 2  # 0 = NO, 1 = YES


class Scoring:
    """CTR examples: a history up to a cut, and a candidate that was clicked then or was not.

    Of what users were shown every item is as likely to be an example, so that the model learns how
    often a click is. Where that is not known, the event at the cut is a positive and another item,
    drawn at random, a negative; each is the candidate of about half of the examples. A key is the
    history's first event, the cut index, the candidate's row and its label.

    Args:
        data: What documents are made of.
        passes: CTR examples per user and epoch.

    Raises:
        InputError: The catalogue has one item, so there is no negative; or nothing was shown that
            may be learnt from.
    """

    name = "scoring"
    loss_group = "labels"

    def __init__(self, data: TaskData, passes: float) -> None:
        if data.texts.num_items < 2:
            raise InputError("recommender.scoring needs at least 2 items, got 1")
        if data.shown is not None and not len(data.shown.tokens):
            raise InputError(
                "data.impressions: nothing was shown to a user between the first and the last "
                "training event of that user"
            )
        self._data, self._passes = data, passes

    def sample(self, epoch: int) -> IntArray:
        """Draws users, cut indices, candidates and labels."""
        generator, shown = self._data.rng(epoch, self.name), self._data.shown
        if shown is None:
            return self._beside_random_items(generator)
        places, rows, labels = np.asarray(shown.tokens, dtype=np.int64).reshape(-1, 3).T
        num_of_user = np.diff(shown.offsets) // 3
        users = np.repeat(np.arange(len(num_of_user)), num_of_user)
        share = self._passes * np.count_nonzero(num_of_user) / len(rows)
        sampled = draw_passes(len(rows), share, generator)
        begin = self._data.histories.offsets[users[sampled]]
        return self._keys(begin, begin + places[sampled], rows[sampled], labels[sampled])

    def _beside_random_items(self, generator: np.random.Generator) -> IntArray:
        num_items = self._data.texts.num_items
        offsets, rows = self._data.histories.offsets, self._data.histories.tokens
        users = np.flatnonzero(np.diff(offsets) > 1)
        if not len(users):
            return np.empty((0, 4), np.int64)
        sampled = users[draw_passes(len(users), self._passes, generator)]
        cut = generator.integers(offsets[sampled] + 1, offsets[sampled + 1])
        positive = np.asarray(rows[cut], dtype=np.int64)
        negative = (positive + generator.integers(1, num_items, len(sampled))) % num_items
        is_positive = generator.random(len(sampled)) < 0.5
        candidate = np.where(is_positive, positive, negative)
        return self._keys(offsets[sampled], cut, candidate, is_positive.astype(np.int64))

    def _keys(
        self, begin: IntArray, cut: IntArray, candidate: IntArray, label: IntArray
    ) -> IntArray:
        begin = np.maximum(begin, cut - self._data.max_history)
        return np.stack([begin, cut, candidate, label], axis=1)

    def lengths(self, keys: IntArray) -> IntArray:
        """Counts <bos>, the codes of the history and the candidate, and <eos>."""
        lengths: IntArray = (keys[:, 1] - keys[:, 0] + 1) * self._data.tokens_per_item + 2
        return lengths

    def num_targets(self, keys: IntArray) -> IntArray:
        """Counts the label."""
        return np.ones(len(keys), dtype=np.int64)

    def document(self, key: IntArray) -> tuple[IntArray, IntArray]:
        """Writes a CTR example."""
        begin, cut, candidate, label = key.tolist()
        rows, texts = self._data.histories.tokens, self._data.texts
        tokens = ctr_example(
            self._data.items.read, rows[begin:cut], candidate, texts.bos_id, texts.eos_id
        )
        targets = np.full(len(tokens), IGNORE)
        targets[-1] = self._data.items.first_label + label
        return tokens, targets


def ctr_example(
    item_tokens: IntArray, history: NDArray[np.int32], candidate: int, bos_id: int, eos_id: int
) -> IntArray:
    """Writes the tokens of a CTR example; the label follows the last.

    Args:
        item_tokens: (num_items, tokens_per_item) unified ids of an item in a history.
        history: Catalogue rows, oldest first.
        candidate: Catalogue row.
        bos_id: Begins the example.
        eos_id: Asks for the label.
    """
    return np.r_[bos_id, item_tokens[history].ravel(), item_tokens[candidate], eos_id]
