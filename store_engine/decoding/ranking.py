"""From what a search found to items: the k best catalogue rows of each request."""

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from store_engine.decoding.backends import SearchSpace
from store_engine.kernels.ragged import top_columns
from store_engine.kernels.trie_topk import Beams

# rows, -1 where a request has fewer than k left, and their log-probabilities, -inf there;
# (batch, k) both
Ranking = tuple[NDArray[np.int64], NDArray[np.float32]]


def rank_beams(space: SearchSpace, beams: Beams, k: int) -> Ranking:
    """Takes the items under the best leaves; those that share a SID follow in row order."""
    leaves = beams.nodes.cpu().numpy()
    batch, width = leaves.shape
    if space.item_filter is None:
        offsets, row = space.trie.item_trie.leaf_rows(leaves.reshape(-1))
    else:
        offsets, row = space.item_filter.core.leaf_rows(leaves)
    beam = np.arange(batch * width).repeat(np.diff(offsets))
    request = beam // width
    rank = np.arange(len(row)) - np.searchsorted(request, request)
    is_top = rank < k
    request, rank, row, beam = request[is_top], rank[is_top], row[is_top], beam[is_top]
    rows = np.full((batch, k), -1, dtype=np.int64)
    logprobs = np.full((batch, k), -np.inf, dtype=np.float32)
    rows[request, rank] = row
    logprobs[request, rank] = beams.scores.flatten().cpu().numpy()[beam]
    return rows, logprobs


def rank_scores(space: SearchSpace, scores: Tensor, k: int) -> Ranking:
    """Takes the best of scores (batch, num_items) by row; of equals the lower SID, then row."""
    trie, item_filter = space.arrays, space.item_filter
    scores = scores[:, trie.rows]
    if item_filter is not None:
        scores = scores.masked_fill(~item_filter.is_allowed(), -torch.inf)
    scores = F.pad(scores, (0, max(0, k - trie.num_items)), value=-torch.inf)
    columns = top_columns(scores, k)
    logprobs = scores.gather(1, columns)
    rows = F.pad(trie.rows, (0, k), value=-1)[columns]
    rows = rows.masked_fill(logprobs == -torch.inf, -1)
    return rows.cpu().numpy(), logprobs.cpu().numpy()
