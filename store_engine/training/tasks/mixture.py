"""All tasks of stage 2, mixed by how often an epoch passes over each one's data.

An epoch passes once over the training histories, `recommender.alignment` and `.reconstruction`
times over the catalogue, and sees `recommender.scoring` CTR examples per user.
"""

from functools import cached_property

import numpy as np

from store_engine.config import RecommenderConfig
from store_engine.data.packing import Document, IntArray, fill_rows
from store_engine.training.tasks.alignment import Alignment
from store_engine.training.tasks.next_item import NextItem
from store_engine.training.tasks.reconstruction import Reconstruction
from store_engine.training.tasks.scoring import Scoring
from store_engine.training.tasks.task import Task, TaskData


class Mixture:
    """The tasks that a run trains, and the plan of each epoch.

    Args:
        settings: How often an epoch passes over each task's data.
        data: What documents are made of.
    """

    def __init__(self, settings: RecommenderConfig, data: TaskData) -> None:
        self.tasks = active_tasks(settings, data)
        self._data = data
        groups = [task.loss_group for task in self.tasks]
        self._is_same_group = np.array([[a == b for b in groups] for a in groups])

    @cached_property
    def tokens_per_epoch(self) -> int:
        """Tokens of the first epoch; the others have nearly as many."""
        return sum(int(task.lengths(task.sample(0)).sum()) for task in self.tasks)

    def plan(self, epoch: int, num_steps: int) -> "Plan":
        """Samples an epoch's documents and distributes them over its steps.

        Raises:
            ValueError: There are fewer documents than steps.
        """
        return Plan(self.tasks, self._data, epoch, num_steps)

    def group_targets(self, num_targets: IntArray) -> IntArray:
        """Adds up targets by loss group: (num_tasks,) of each task -> of each task's group."""
        targets: IntArray = self._is_same_group @ num_targets
        return targets


class Plan:
    """The documents of an epoch, each part of one step.

    Args:
        tasks: What is mixed.
        data: Seeds the order.
        epoch: Counted from 0.
        num_steps: Steps of the epoch.
    """

    def __init__(self, tasks: tuple[Task, ...], data: TaskData, epoch: int, num_steps: int) -> None:
        self._tasks = tasks
        self._keys = [task.sample(epoch) for task in tasks]
        self._begins = np.cumsum([0, *map(len, self._keys)])
        lengths = [task.lengths(keys) for task, keys in zip(tasks, self._keys, strict=True)]
        self._lengths = np.concatenate(lengths)
        order = data.rng(epoch, "order").permutation(len(self._lengths))
        rows = fill_rows(self._lengths[order], num_steps)
        # per step the numbers of its documents, counted task after task over the whole epoch
        self._steps = [order[rows[i]] for i in data.rng(epoch, "steps").permutation(num_steps)]

    def num_documents(self, step: int) -> int:
        """Counts the documents of a step."""
        return len(self._steps[step])

    def num_targets(self, step: int) -> IntArray:
        """Counts the targets of each task in a step: (num_tasks,) int64."""
        documents, counts = self._steps[step], []
        for task, keys, begin in zip(self._tasks, self._keys, self._begins[:-1], strict=True):
            is_own = (documents >= begin) & (documents < begin + len(keys))
            counts.append(int(task.num_targets(keys[documents[is_own] - begin]).sum()))
        return np.array(counts, dtype=np.int64)

    def shard(self, step: int, shard: int, num_shards: int) -> list[Document]:
        """Writes the documents of one shard of a step; shards have nearly as many tokens.

        Raises:
            ValueError: The step has fewer documents than shards.
        """
        documents = self._steps[step]
        own = documents[fill_rows(self._lengths[documents], num_shards)[shard]]
        return [self._document(i) for i in own.tolist()]

    def _document(self, number: int) -> Document:
        task_id = int(np.searchsorted(self._begins, number, side="right")) - 1
        key = self._keys[task_id][number - self._begins[task_id]]
        return Document(*self._tasks[task_id].document(key), task_id)


def active_tasks(settings: RecommenderConfig, data: TaskData) -> tuple[Task, ...]:
    """Makes the tasks that the config switches on. A new task gets its line here."""
    tasks: list[Task] = [NextItem(data, settings)]
    if settings.alignment:
        tasks.append(Alignment(data, settings.alignment))
    if settings.reconstruction:
        tasks.append(Reconstruction(data, settings.reconstruction))
    if settings.scoring:
        tasks.append(Scoring(data, settings.scoring))
    return tuple(tasks)
