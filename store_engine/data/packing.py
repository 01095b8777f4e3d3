"""Documents into packed batches: one behind the other, no padding, the same on every machine.

A batch plan is a pure function of the seed and the epoch. Every rank computes the whole plan and
takes its own share, so the union over ranks is one set of documents however many ranks there are,
and a resumed run sees exactly the batches that an uninterrupted one would have seen.
"""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

IntArray = NDArray[np.int64]


class Document(NamedTuple):
    """A token sequence and what it should predict."""

    tokens: IntArray  # (length,) joint ids
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


def history_windows(
    offsets: IntArray, max_items: int, rng: np.random.Generator | None
) -> list[tuple[int, int]]:
    """Cuts histories into windows of at most `max_items` events.

    Args:
        offsets: (num_users + 1,) where each user's events begin.
        max_items: Longest window.
        rng: Shifts the cuts of long histories, so that over the epochs every event is seen with
            every length of context; None cuts from the start.

    Returns:
        (begin, end) event ranges, in order; together they hold every event once.
    """
    windows: list[tuple[int, int]] = []
    for begin, end in zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True):
        cut = begin
        if end - begin > max_items and rng is not None:
            cut += int(rng.integers(1, max_items + 1))
            windows.append((begin, cut))
        windows += [(i, min(i + max_items, end)) for i in range(cut, end, max_items)]
    return windows


def split_by_tokens(lengths: IntArray, num_parts: int) -> list[slice]:
    """Splits a sequence of documents into `num_parts` runs of nearly equal token counts.

    Args:
        lengths: (num_documents,) tokens of each document.
        num_parts: At most the number of documents; no part is empty.

    Raises:
        ValueError: There are fewer documents than parts.
    """
    if len(lengths) < num_parts:
        raise ValueError(f"{num_parts} parts need as many documents, got {len(lengths)}")
    ends = lengths.cumsum()
    cuts = np.searchsorted(ends, np.arange(1, num_parts) * ends[-1] / num_parts) + 1
    # every part keeps at least one document
    for i in range(len(cuts)):
        low = cuts[i - 1] + 1 if i else 1
        cuts[i] = min(max(cuts[i], low), len(lengths) - (num_parts - 1 - i))
    bounds = [0, *cuts.tolist(), len(lengths)]
    return [slice(a, b) for a, b in itertools.pairwise(bounds)]


def deal(documents: Sequence[Document], num_parts: int) -> list[list[Document]]:
    """Deals documents to `num_parts` ranks or micro-batches, longest first, to balance tokens."""
    ordered = sorted(documents, key=lambda d: len(d.tokens), reverse=True)
    return [list(ordered[i::num_parts]) for i in range(num_parts)]
