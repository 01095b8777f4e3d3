"""What a task of stage 2 is: it samples documents, says how long they are, and writes them.

An epoch's documents are planned by their keys and lengths alone; a document is written when its
step comes. To add a task, write a class like those beside this file and name it in `mixture.py`.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from store_engine.data.packing import IntArray
from store_engine.files.token_file import TokenFile
from store_engine.sid.dense_tokenizer import ItemTexts
from store_engine.sid.item_tokens import ItemIds
from store_engine.training.randomness import rng


class Task(Protocol):
    """One kind of documents. Everything is a function of the seed and the epoch."""

    @property
    def name(self) -> str:
        """The task's name in logs."""

    @property
    def loss_group(self) -> str:
        """Targets of all tasks of a group have the same weight; the groups' mean losses add up."""

    def sample(self, epoch: int) -> IntArray:
        """Draws the epoch's documents: their keys, (num_documents, key_size) int64."""

    def lengths(self, keys: IntArray) -> IntArray:
        """Counts the tokens of each document: (num_documents,) int64."""

    def num_targets(self, keys: IntArray) -> IntArray:
        """Counts the targets of each document: (num_documents,) int64."""

    def document(self, key: IntArray) -> tuple[IntArray, IntArray]:
        """Writes a document.

        Returns:
            (length,) int64 unified ids, and for each position the id that should follow, or IGNORE.
        """


@dataclass(frozen=True)
class TaskData:
    """What the tasks' documents are made of.

    Args:
        texts: The catalogue's texts.
        histories: What may be learnt from, one document of catalogue rows per user.
        items: How items stand in documents.
        max_history: Items of history that the recommender sees.
        seed: The run's seed.
        shown: Per user what was shown, and clicked or not (`Impressions.documents`); None: that is
            not known.
    """

    texts: ItemTexts
    histories: TokenFile
    items: ItemIds
    max_history: int
    seed: int
    shown: TokenFile | None = None

    @property
    def tokens_per_item(self) -> int:
        """Tokens of an item in a history."""
        return self.items.read.shape[1]

    @property
    def targets_per_item(self) -> int:
        """Targets of an item to predict."""
        return self.items.written.shape[1]

    def rng(self, epoch: int, purpose: str) -> np.random.Generator:
        """Makes the generator of one purpose in one epoch."""
        return rng(self.seed, "recommender", epoch, purpose)


class ItemTask:
    """The part that tasks over the catalogue share: a key is a catalogue row.

    Args:
        data: What documents are made of.
        passes: Passes over the catalogue per epoch.
    """

    name: str
    loss_group = "tokens"

    def __init__(self, data: TaskData, passes: float) -> None:
        self._data, self._passes = data, passes

    def sample(self, epoch: int) -> IntArray:
        """Draws items."""
        generator = self._data.rng(epoch, self.name)
        return draw_passes(self._data.texts.num_items, self._passes, generator)[:, None]


def draw_passes(count: int, passes: float, generator: np.random.Generator) -> IntArray:
    """Draws `passes` passes over `count` things; part of a pass is a random part of them."""
    num_chosen = round(passes * count)
    orders = [generator.permutation(count) for _ in range(-(-num_chosen // count))]
    return np.concatenate([*orders, np.empty(0, np.int64)])[:num_chosen].astype(np.int64)
