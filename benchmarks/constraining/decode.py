"""One decode of a batch, step by step, on logits that look as a model's do."""

import time
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from benchmarks.constraining.cases import Case
from benchmarks.constraining.provider import Provider


class Logits:
    """What a model might say: a table per level, looked up by a beam's last code."""

    def __init__(self, batch: int, sizes: list[int]) -> None:
        generator = torch.Generator().manual_seed(1)
        self._first = 2 * torch.randn(batch, 1, sizes[0], generator=generator)
        self._tables = [
            2 * torch.randn(before, size, generator=generator) for before, size in pairwise(sizes)
        ]

    def __call__(self, level: int, tokens: Tensor) -> Tensor:
        """(batch, beam_width, codebook_size) for beams that end in `tokens`, -1 for none."""
        if level == 0:
            return self._first
        table = self._tables[level - 1]
        # each request reads other rows, so that their beams differ
        row = tokens.clamp(min=0) + 7 * torch.arange(len(tokens))[:, None]
        return table[row % len(table)]


@torch.inference_mode()
def decode(provider: Provider, logits: Logits, case: Case) -> tuple[Tensor, Tensor, list[float]]:
    """One decode: scores (batch, beam), SIDs (batch, beam, levels), and milliseconds per step."""
    provider.start(case.batch, case.beam)
    tokens = torch.zeros(case.batch, 1, dtype=torch.int64)
    sids = torch.zeros(case.batch, 1, 0, dtype=torch.int64)
    times = []
    for level in range(case.num_levels):
        of_beams = logits(level, tokens)
        begin = time.perf_counter()
        step = provider.step(level, of_beams)
        times.append(1e3 * (time.perf_counter() - begin))
        tokens = step.tokens
        parents = step.parents.clamp(min=0)[:, :, None].expand(-1, -1, level)
        sids = torch.cat([sids.gather(1, parents), tokens[:, :, None]], dim=2)
    return step.scores, sids, times


def mean_step(steps: list[float]) -> float:
    """Milliseconds per step of one decode, the first step left out."""
    return float(np.mean(steps[1:]))
