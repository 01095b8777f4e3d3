"""Tries in CSR form as PyTorch tensors: STATIC's bursts of slots, and a mask over all codes.

Both are written from the descriptions of their methods, as well as PyTorch allows; where one gives
us more than it would in practice, its docstring says so.
"""

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.constraining.provider import Step, TorchBeams


class Levels:
    """A trie in CSR form, level by level, as tensors; what the PyTorch rivals start from."""

    def __init__(self, sids: NDArray[np.int32], sizes: list[int]) -> None:
        is_first = np.ones(len(sids), dtype=bool)
        is_first[1:] = False
        parent = np.zeros(len(sids), dtype=np.int64)
        self.child_begin: list[Tensor] = []
        self.token: list[Tensor] = []
        for level in range(len(sizes)):
            is_first[1:] |= sids[1:, level] != sids[:-1, level]
            children = np.flatnonzero(is_first)
            num_parents = int(parent[-1]) + 1
            begin = np.searchsorted(parent[children], np.arange(num_parents + 1))
            self.child_begin.append(torch.from_numpy(begin))
            self.token.append(torch.from_numpy(sids[children, level].astype(np.int64)))
            parent = np.cumsum(is_first) - 1


class CsrTorch(TorchBeams):
    """STATIC's method in PyTorch: dense tables for two levels, then bursts of slots from CSR.

    On a sparse level every beam gathers as many slots as the level's largest node has children, and
    one top-k is over the slots of all beams. On the second level, which is dense, every code is a
    slot: a first top-k keeps as many per beam as there are beams, which is exact. The authors'
    PyTorch code (github.com/youtube/static-constraint-decoding) does the same; ours is written
    anew and no step of it is slower. With `has_one_topk` the first top-k is left out: our
    improvement, quicker on a CPU.
    Source: arXiv 2602.22647.
    """

    DENSE_LEVELS = 2

    def __init__(
        self, sids: NDArray[np.int32], sizes: list[int], *, has_one_topk: bool = False
    ) -> None:
        self._has_one_topk = has_one_topk
        levels = Levels(sids, sizes)
        self._dense: list[Tensor] = []  # per level (num_nodes, codebook_size): the child, or 0
        self._is_child: list[Tensor] = []  # of the same shape
        for level in range(min(self.DENSE_LEVELS, len(sizes))):
            begin, token = levels.child_begin[level], levels.token[level]
            parent = torch.arange(len(begin) - 1).repeat_interleave(begin.diff())
            table = torch.zeros(len(begin) - 1, sizes[level], dtype=torch.int32)
            table[parent, token] = torch.arange(len(token), dtype=torch.int32)
            self._dense.append(table)
            self._is_child.append(torch.zeros_like(table, dtype=torch.bool))
            self._is_child[level][parent, token] = True
        self._begin, self._most = levels.child_begin, []
        self._token = []
        for begin, token in zip(levels.child_begin, levels.token, strict=True):
            self._most.append(int(begin.diff().max()))
            # the last node's burst ends past its children
            self._token.append(F.pad(token.int(), (0, self._most[-1])))
        sparse = [*self._begin[self.DENSE_LEVELS :], *self._token[self.DENSE_LEVELS :]]
        self.nbytes = sum(x.nbytes for x in (*self._dense, *self._is_child, *sparse))

    def step(self, level: int, logits: Tensor) -> Step:
        """See Provider."""
        extend = self._extend_dense if level < len(self._dense) else self._extend_sparse
        parents, tokens, self._nodes = extend(level, logits.log_softmax(-1))
        return Step(self._scores, parents, tokens)

    def _extend_dense(self, level: int, logprobs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Parents, tokens and nodes of the best beams, whose slots are all codes."""
        if level == 0:
            tokens = self._keep(torch.where(self._is_child[0], logprobs[:, 0], -torch.inf))
            return torch.zeros_like(tokens), tokens, self._dense[0][0, tokens].long()
        logprobs = torch.where(self._is_child[level][self._nodes], logprobs, -torch.inf)
        code = None
        if not self._has_one_topk:
            logprobs, code = logprobs.topk(min(self._width, logprobs.shape[2]), dim=2)
        index = self._keep(self._scores[:, :, None] + logprobs)
        parents, tokens = index // logprobs.shape[2], index % logprobs.shape[2]
        if code is not None:
            tokens = code.flatten(1).gather(1, index)
        nodes = self._dense[level][self._nodes.gather(1, parents), tokens].long()
        return parents, tokens, nodes

    def _extend_sparse(self, level: int, logprobs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The same, where a beam's slots are a burst from its node's first child on."""
        begin = self._begin[level]
        first = begin[self._nodes]
        slot = torch.arange(self._most[level])
        is_child = slot < (begin[self._nodes + 1] - first)[:, :, None]
        child = first[:, :, None] + slot
        token = self._token[level][child]
        logprobs = torch.where(is_child, logprobs.gather(2, token.long()), -torch.inf)
        index = self._keep(self._scores[:, :, None] + logprobs)
        tokens = token.flatten(1).gather(1, index).long()
        return index // len(slot), tokens, child.flatten(1).gather(1, index)


class DenseMask(TorchBeams):
    """A mask over all codes of every beam, written from the trie, then log-softmax and top-k."""

    def __init__(self, sids: NDArray[np.int32], sizes: list[int]) -> None:
        levels = Levels(sids, sizes)
        self._begin, self._token = levels.child_begin, levels.token
        self.nbytes = sum(x.nbytes for x in (*self._begin, *self._token))

    def step(self, level: int, logits: Tensor) -> Step:
        """See Provider."""
        size = logits.shape[2]
        first = self._begin[level][self._nodes].flatten()
        count = self._begin[level][self._nodes + 1].flatten() - first
        beam = torch.arange(len(count)).repeat_interleave(count)
        before = count.cumsum(0) - count
        child = torch.arange(len(beam)) + (first - before)[beam]
        code = self._token[level][child]
        mask = torch.full((len(count), size), -torch.inf)
        mask[beam, code] = 0.0
        scores = self._scores[:, :, None] + logits.log_softmax(-1) + mask.view(logits.shape)
        index = self._keep(scores)
        parents, tokens = index // size, index % size
        # the chosen children: find each among its parent's
        key = beam * size + code  # ascends
        chosen = torch.arange(len(logits))[:, None] * logits.shape[1] + parents
        place = torch.searchsorted(key, chosen * size + tokens).clamp(max=len(key) - 1)
        self._nodes = child[place]
        return Step(self._scores, parents, tokens)
