"""Given items scored beside a beam search: their paths are walked with it, in the same blocks.

A path costs only where it leaves the beams: a prefix that is one of them, or that paths share, is
run once.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from store_engine import _C
from store_engine.decoding.backends import NonFiniteLogitsError
from store_engine.inference.numpy_view import as_numpy
from store_engine.kernels.trie_topk import Beams

_MAX_CODES, _MAX_PREFIXES = 1 << 16, 1 << 40  # of a level; of a block, times codes


class Prefixes(NamedTuple):
    """Prefixes beside the beams of a level; (batch, num_prefixes) both."""

    codes: Tensor  # int64, the last code of each; -1 for none
    parents: Tensor  # int64, its parent in the block of the level before


class ForcedPaths:
    """The log-probabilities of given items, found level by level.

    Args:
        sids: (batch, num_items, num_levels) int64.
        is_wanted: (batch, num_items) bool; the others are no items and score -inf.
    """

    def __init__(self, sids: Tensor, is_wanted: Tensor) -> None:
        self._sids, self._is_wanted = sids, is_wanted
        # (batch, num_items) int64, where each one's prefix is in the block that is run
        self._places = torch.zeros_like(sids[:, :, 0]).masked_fill(~is_wanted, -1)
        self._scores = torch.zeros_like(self._places, dtype=torch.float32)

    @property
    def num_items(self) -> int:
        """Items per request, and the most prefixes that a level needs beside the beams."""
        return self._places.shape[1]

    def score(self, level: int, logits: Tensor) -> None:
        """Adds the log-probabilities of a level's codes.

        Args:
            level: The level.
            logits: (batch, num_run, codebook_size) of the block that was run.
        """
        codes = self._sids[:, :, level].contiguous()
        self._scores = self._scores + code_logprobs(logits, self._places, codes)

    def beside(self, level: int, beams: Beams) -> Prefixes:
        """Finds the prefixes to run for the next level that no beam is.

        Args:
            level: Level of the last code of the prefixes.
            beams: After the level, (batch, width).

        Returns:
            As few as the request with the most needs.
        """
        codes = self._sids[:, :, level]
        new, self._places = prefixes_beside(beams, self._places, codes)
        return new

    def result(self) -> Tensor:
        """Returns the sums over all levels, (batch, num_items) float32; -inf for no item.

        Raises:
            NonFiniteLogitsError: The model gave NaN or +inf behind some of the prefixes.
        """
        is_bad = (self._scores.isnan() & self._is_wanted).any(1)
        if bool(is_bad.any()):
            raise NonFiniteLogitsError(is_bad.cpu().nonzero()[:, 0].tolist())
        return self._scores


def prefixes_beside(beams: Beams, places: Tensor, codes: Tensor) -> tuple[Prefixes, Tensor]:
    """Finds the prefixes that paths need beside the beams, on a CPU in the C++ core.

    Args:
        beams: Of a level, (batch, width).
        places: (batch, num_paths) int64, the parent of each path's prefix in the block of the level
            before; -1 for no path.
        codes: (batch, num_paths) int64, its last code.

    Returns:
        The prefixes that no beam is, each once, in the order of the paths: as few columns as the
        request with the most needs. And (batch, num_paths) int64, where each path's prefix is in
        the block of the beams and of these behind them; -1 for no path.
    """
    if places.device.type != "cpu":
        return prefixes_beside_ref(beams, places, codes)
    args = (x.contiguous().numpy() for x in (beams.parents, beams.tokens, places, codes))
    new_codes, parents, places = map(torch.from_numpy, _C.prefixes_beside(*args))
    return Prefixes(new_codes, parents), places


def prefixes_beside_ref(beams: Beams, places: Tensor, codes: Tensor) -> tuple[Prefixes, Tensor]:
    """Defines `prefixes_beside` in PyTorch, for any device. Same arguments."""
    (batch, width), device, is_path = beams.tokens.shape, codes.device, places >= 0
    # a prefix is its request, its parent and its last code: these are in one block
    requests = torch.arange(batch, device=device)[:, None]
    parents = torch.cat([beams.parents, places], 1)
    keys = requests * _MAX_PREFIXES + parents * _MAX_CODES + torch.cat([beams.tokens, codes], 1)
    unique, group = keys.unique(return_inverse=True)
    columns = torch.arange(keys.shape[1], device=device).expand_as(keys)
    first = torch.full_like(unique, keys.shape[1])
    first.scatter_reduce_(0, group.flatten(), columns.flatten(), "amin")
    first = first[group[:, width:]]  # (batch, num_paths), where each one's prefix stands first
    is_new = (first == columns[:, width:]) & is_path
    ranks = is_new.cumsum(1) - 1
    new_places = width + ranks.gather(1, (first - width).clamp(min=0))
    new_places = torch.where(first < width, first, new_places).masked_fill(~is_path, -1)
    request, path = is_new.nonzero(as_tuple=True)
    shape = batch, int(is_new.sum(1).max())
    new = Prefixes(codes.new_full(shape, -1), codes.new_zeros(shape))
    for part, values in zip(new, (codes, places), strict=True):
        part[request, ranks[request, path]] = values[request, path]
    return new, new_places


def code_logprobs(logits: Tensor, beams: Tensor, codes: Tensor) -> Tensor:
    """Computes log-probabilities of codes, on a CPU in the C++ core.

    Args:
        logits: (batch, beam_width, codebook_size).
        beams: (batch, num_codes) int64, the beam that each code follows; -1 for none.
        codes: (batch, num_codes) int64.

    Returns:
        (batch, num_codes) float32: -inf for no beam, NaN where logits are NaN or +inf.
    """
    if logits.device.type == "cpu" and logits.dtype in (torch.float32, torch.bfloat16):
        arrays = (as_numpy(x.contiguous()) for x in (logits, beams, codes))
        return torch.from_numpy(_C.code_logprobs(*arrays, num_threads=torch.get_num_threads()))
    return code_logprobs_ref(logits, beams, codes)


def code_logprobs_ref(logits: Tensor, beams: Tensor, codes: Tensor) -> Tensor:
    """Defines `code_logprobs` in PyTorch, for any device and dtype. Same arguments."""
    logits, at = logits.float(), beams.clamp(min=0)
    log_sum = logits.logsumexp(2)
    log_sum = log_sum.masked_fill(~(logits.amax(2) < torch.inf), torch.nan)
    chosen = logits.gather(1, at[:, :, None].expand(-1, -1, logits.shape[2]))
    chosen = chosen.gather(2, codes[:, :, None])[:, :, 0]
    logprobs = chosen - log_sum.gather(1, at)
    return logprobs.masked_fill((beams < 0) | (log_sum.gather(1, at) == -torch.inf), -torch.inf)
