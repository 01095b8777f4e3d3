"""The decoders that benchmarks/trie.py compares, each behind the same three methods.

A provider is built from a catalogue in SID order. `start` begins a decode, `step` extends every
beam by one code, keeps the best and remembers where in the catalogue they stand. The rivals are
written from the descriptions of their methods, as well as PyTorch allows; where one gives us more
than it would in practice, its docstring says so.
"""

import time
from typing import NamedTuple, Protocol

import marisa_trie
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from transformers import PrefixConstrainedLogitsProcessor

from benchmarks.peers.dict_trie import DictTrie
from store_engine._C import BeamStep, ItemFilter, ItemTrie, LiveTrie, RowSet, Snapshot, beam_step


class Step(NamedTuple):
    """The best extensions of each request's beams, best first."""

    scores: Tensor  # (batch, width) float32
    parents: Tensor  # (batch, width) int64
    tokens: Tensor  # (batch, width) int64


class Provider(Protocol):
    """One way to keep beam search inside a catalogue."""

    nbytes: int

    def start(self, batch: int, width: int) -> None:
        """Puts one beam per request at the root."""

    def step(self, level: int, logits: Tensor) -> Step:
        """(batch, beam_width, codebook_size) float32 logits of the level -> its best beams."""


class Ours:
    """The C++ core, on a trie or on a snapshot of a live one, with a filter or without."""

    def __init__(
        self, trie: ItemTrie | Snapshot, threads: int, item_filter: ItemFilter | None = None
    ) -> None:
        self.trie, self._threads, self._filter = trie, threads, item_filter
        self.nbytes = trie.nbytes

    def start(self, batch: int, width: int) -> None:
        """See Provider."""
        zeros = np.zeros((batch, 1), dtype=np.int64)
        ones = np.ones(batch, dtype=np.int64)
        self._beams = BeamStep(zeros.astype(np.float32), zeros, zeros, zeros, ones)
        self._width = width

    def step(self, level: int, logits: Tensor) -> Step:
        """See Provider."""
        beams = self._beams
        self._beams = beam_step(
            self.trie,
            level,
            logits.numpy(),
            beams.scores,
            beams.nodes,
            beams.num_valid,
            self._width,
            item_filter=self._filter,
            num_threads=self._threads,
        )
        return Step(*map(torch.from_numpy, self._beams[:3]))


def live_snapshot(sids: NDArray[np.int32], sizes: list[int], num_changes: int) -> Snapshot:
    """The catalogue as a snapshot, half of its changes additions, half removals, none merged."""
    rng = np.random.default_rng(4)
    is_late = np.zeros(len(sids), dtype=bool)
    is_late[rng.choice(len(sids), num_changes // 2, replace=False)] = True
    ids = np.arange(len(sids))
    # what is removed again has the same SIDs as some items that stay
    twins = rng.choice(ids[~is_late], num_changes // 2, replace=False)
    base = np.concatenate([sids[~is_late], sids[twins]])
    base_ids = np.concatenate([ids[~is_late], len(sids) + np.arange(len(twins))])
    live = LiveTrie(base, base_ids, sizes, max_changes=2 * num_changes + 1)
    live.remove(len(sids) + np.arange(len(twins)))
    live.add(np.ascontiguousarray(sids[is_late]), ids[is_late])
    return live.snapshot()


class RandomFilter:
    """One set of allowed items for all requests, and some of these excluded for each."""

    def __init__(
        self, trie: ItemTrie | Snapshot, batch: int, share: float, num_excluded: int
    ) -> None:
        rng = np.random.default_rng(2)
        self.trie, self._batch = trie, batch
        self._allowed = np.flatnonzero(rng.random(trie.num_items) < share)
        self._allow = RowSet.from_rows(trie, self._allowed)
        self._excluded = rng.choice(self._allowed, (batch, num_excluded))

    def make(self) -> ItemFilter:
        """The filter of a batch; the set of allowed items is shared by all batches."""
        offsets = np.arange(self._batch + 1) * self._excluded.shape[1]
        exclude = (offsets, self._excluded.flatten())
        return ItemFilter(self.trie, self._batch, allow=self._allow, exclude=exclude)

    def time_ms(self) -> float:
        """Milliseconds that make() takes."""
        begin = time.perf_counter()
        self.make()
        return 1e3 * (time.perf_counter() - begin)

    def rows_left(self, request: int) -> NDArray[np.int64]:
        """What the filter lets through."""
        return np.setdiff1d(self._allowed, self._excluded[request])


def best(scores: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """The largest of (batch, candidates), and where they stand."""
    top = scores.topk(min(width, scores.shape[1]), dim=1)
    return top.values, top.indices


class Unconstrained:
    """log-softmax and top-k over all codes: no catalogue at all."""

    nbytes = 0

    def start(self, batch: int, width: int) -> None:
        """See Provider."""
        self._scores, self._width = torch.zeros(batch, 1), width

    def step(self, level: int, logits: Tensor) -> Step:
        """See Provider."""
        scores = (self._scores[:, :, None] + logits.log_softmax(-1)).flatten(1)
        self._scores, index = best(scores, self._width)
        size = logits.shape[2]
        return Step(self._scores, index // size, index % size)


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


class CsrTorch:
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

    def start(self, batch: int, width: int) -> None:
        """See Provider."""
        self._scores, self._width = torch.zeros(batch, 1), width
        self._nodes = torch.zeros(batch, 1, dtype=torch.int64)

    def step(self, level: int, logits: Tensor) -> Step:
        """See Provider."""
        extend = self._extend_dense if level < len(self._dense) else self._extend_sparse
        self._scores, parents, tokens, self._nodes = extend(level, logits.log_softmax(-1))
        return Step(self._scores, parents, tokens)

    def _extend_dense(self, level: int, logprobs: Tensor) -> tuple[Tensor, ...]:
        """Scores, parents, tokens and nodes of the best beams, whose slots are all codes."""
        if level == 0:
            logprobs = torch.where(self._is_child[0], logprobs[:, 0], -torch.inf)
            scores, tokens = best(logprobs, self._width)
            return scores, torch.zeros_like(tokens), tokens, self._dense[0][0, tokens].long()
        logprobs = torch.where(self._is_child[level][self._nodes], logprobs, -torch.inf)
        code = None
        if not self._has_one_topk:
            logprobs, code = logprobs.topk(min(self._width, logprobs.shape[2]), dim=2)
        scores, index = best((self._scores[:, :, None] + logprobs).flatten(1), self._width)
        parents, tokens = index // logprobs.shape[2], index % logprobs.shape[2]
        if code is not None:
            tokens = code.flatten(1).gather(1, index)
        nodes = self._dense[level][self._nodes.gather(1, parents), tokens].long()
        return scores, parents, tokens, nodes

    def _extend_sparse(self, level: int, logprobs: Tensor) -> tuple[Tensor, ...]:
        """The same, where a beam's slots are a burst from its node's first child on."""
        begin = self._begin[level]
        first = begin[self._nodes]
        slot = torch.arange(self._most[level])
        is_child = slot < (begin[self._nodes + 1] - first)[:, :, None]
        child = first[:, :, None] + slot
        token = self._token[level][child]
        logprobs = torch.where(is_child, logprobs.gather(2, token.long()), -torch.inf)
        scores, index = best((self._scores[:, :, None] + logprobs).flatten(1), self._width)
        tokens = token.flatten(1).gather(1, index).long()
        return scores, index // len(slot), tokens, child.flatten(1).gather(1, index)


class DenseMask:
    """A mask over all codes of every beam, written from the trie, then log-softmax and top-k."""

    def __init__(self, sids: NDArray[np.int32], sizes: list[int]) -> None:
        levels = Levels(sids, sizes)
        self._begin, self._token = levels.child_begin, levels.token
        self.nbytes = sum(x.nbytes for x in (*self._begin, *self._token))

    def start(self, batch: int, width: int) -> None:
        """See Provider."""
        self._scores, self._width = torch.zeros(batch, 1), width
        self._nodes = torch.zeros(batch, 1, dtype=torch.int64)

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
        self._scores, index = best(scores.flatten(1), self._width)
        parents, tokens = index // size, index % size
        # the chosen children: find each among its parent's
        key = beam * size + code  # ascends
        chosen = torch.arange(len(logits))[:, None] * logits.shape[1] + parents
        place = torch.searchsorted(key, chosen * size + tokens).clamp(max=len(key) - 1)
        self._nodes = child[place]
        return Step(self._scores, parents, tokens)


class TransformersHook:
    """transformers' prefix_allowed_tokens_fn over a trie of Python dictionaries."""

    def __init__(self, sids: NDArray[np.int32], sizes: list[int]) -> None:
        before = resident_bytes()
        self._dicts = DictTrie(sids.tolist())
        self.nbytes = max(0, resident_bytes() - before)

    def start(self, batch: int, width: int) -> None:
        """See Provider."""
        self._scores, self._width = torch.zeros(batch, 1), width
        self._codes = torch.zeros(batch, 1, 0, dtype=torch.int64)

    def allowed(self, _: int, codes: Tensor) -> list[int]:
        """The codes that continue a prefix."""
        return self._dicts.following(codes)

    def step(self, level: int, logits: Tensor) -> Step:
        """See Provider."""
        batch, beams, size = logits.shape
        processor = PrefixConstrainedLogitsProcessor(self.allowed, beams)
        logprobs = logits.log_softmax(-1).view(-1, size)
        constrained = processor(self._codes.view(batch * beams, level), logprobs)
        scores = self._scores[:, :, None] + constrained.view(batch, beams, size)
        self._scores, index = best(scores.flatten(1), self._width)
        parents, tokens = index // size, index % size
        kept = self._codes.gather(1, parents[:, :, None].expand(-1, -1, level))
        self._codes = torch.cat([kept, tokens[:, :, None]], dim=2)
        return Step(self._scores, parents, tokens)


class MarisaHook(TransformersHook):
    """The same hook over a marisa-trie of strings, one character per code, as GENRE does it.

    The library lists whole keys only, so a prefix's next codes come from all keys below it; those
    of the root are kept. Source: the MarisaTrie of facebookresearch/GENRE, from its description.
    """

    def __init__(self, sids: NDArray[np.int32], sizes: list[int]) -> None:
        self._trie = marisa_trie.Trie("".join(map(chr, sid)) for sid in (sids + 1).tolist())
        self._first = sorted(set(sids[:, 0].tolist()))
        self.nbytes = len(self._trie.tobytes())

    def allowed(self, _: int, codes: Tensor) -> list[int]:
        """The codes that continue a prefix."""
        if len(codes) == 0:
            return self._first
        prefix = "".join(map(chr, (codes + 1).tolist()))
        return list({ord(key[len(prefix)]) - 1 for key in self._trie.keys(prefix)})


def resident_bytes() -> int:
    """Memory of this process that is resident now."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096
