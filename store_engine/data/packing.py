"""Documents into packed batches: one behind the other, no padding, the same on every machine.

A batch plan is a pure function of the seed and the epoch. Every rank computes the plan, which knows
only lengths, and reads the documents of its own shard. So the union over ranks is one set of
documents however many ranks there are, and a resumed run sees exactly the batches that an
uninterrupted one would have seen.
"""

import heapq
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

IntArray = NDArray[np.int64]


class Document(NamedTuple):
    """A token sequence and what it should predict."""

    tokens: IntArray  # (length,) unified token ids
    targets: IntArray  # (length,) the id that should follow each token, or -100
    task_id: int  # which loss this is part of


class PackedBatch(NamedTuple):
    """Documents one behind the other."""

    tokens: Tensor  # (num_tokens,) int64
    targets: Tensor  # (num_tokens,) int64
    cu_seqlens: Tensor  # (num_documents + 1,) int64
    target_tasks: Tensor  # (num_targets,) int64, the task of each position with a target


def pack(documents: Sequence[Document]) -> PackedBatch:
    """Lays documents one behind the other, longest first (similar lengths share a padding group).

    Raises:
        ValueError: There is no document.
    """
    if not documents:
        raise ValueError("a batch needs at least one document, got none")
    ordered = sorted(documents, key=lambda d: len(d.tokens), reverse=True)
    lengths = np.array([len(d.tokens) for d in ordered])
    targets = np.concatenate([d.targets for d in ordered])
    tasks = np.repeat([d.task_id for d in ordered], lengths)
    return PackedBatch(
        torch.from_numpy(np.concatenate([d.tokens for d in ordered])),
        torch.from_numpy(targets),
        torch.from_numpy(np.concatenate([[0], lengths.cumsum()])),
        torch.from_numpy(tasks[targets >= 0]),
    )


def fill_rows(lengths: IntArray, num_rows: int) -> list[IntArray]:
    """Packs documents into rows of one token budget, total / num_rows: no row is much fuller.

    Longest first, each into the row with the fewest tokens so far. With documents much shorter than
    a row the rows differ by less than the shortest document: over 99 % of the fullest row is real
    tokens everywhere (tests/data/test_packing.py). The usual best fit takes the *fullest* row that
    the document fits into. It fills as well but sorts by length: the longest histories would train
    together, and the short texts of another task in steps of their own. Here every row gets the
    same mix.

    Args:
        lengths: (num_documents,) tokens of each document; equal lengths keep their order.
        num_rows: At most the number of documents; no row is empty.

    Returns:
        Per row the positions of its documents in `lengths`.

    Raises:
        ValueError: There are fewer documents than rows.
    """
    if len(lengths) < num_rows:
        raise ValueError(f"{num_rows} rows need as many documents, got {len(lengths)}")
    rows: list[list[int]] = [[] for _ in range(num_rows)]
    loads = [(0, row) for row in range(num_rows)]
    order = np.argsort(-lengths, kind="stable")
    for document, length in zip(order.tolist(), lengths[order].tolist(), strict=True):
        load, row = loads[0]
        rows[row].append(document)
        heapq.heapreplace(loads, (load + length, row))
    return [np.array(row, dtype=np.int64) for row in rows]


def history_windows(
    offsets: IntArray, max_items: int, rng: np.random.Generator | None
) -> NDArray[np.int64]:
    """Cuts histories into windows of at most `max_items` events.

    Args:
        offsets: (num_users + 1,) where each user's events begin.
        max_items: Longest window.
        rng: Shifts the cuts of long histories, so that over the epochs every event is seen with
            every length of context; None cuts from the start.

    Returns:
        (num_windows, 2) begin and end of each, in order; together they hold every event once.
    """
    begins, ends = offsets[:-1], offsets[1:]
    first = np.minimum(ends - begins, max_items)  # events of each user's first window
    if rng is not None:
        is_long = ends - begins > max_items
        first[is_long] = rng.integers(1, max_items + 1, int(is_long.sum()))
    counts = np.where(ends > begins, 1 + -(-(ends - begins - first) // max_items), 0)
    user = np.repeat(np.arange(len(begins)), counts)
    nth = np.arange(len(user)) - np.repeat(counts.cumsum() - counts, counts)
    begin = np.where(nth == 0, begins[user], begins[user] + first[user] + (nth - 1) * max_items)
    end = np.minimum(begins[user] + first[user] + nth * max_items, ends[user])
    return np.stack([begin, end], axis=1)
