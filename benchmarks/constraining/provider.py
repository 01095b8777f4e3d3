"""What every way to keep a beam inside a catalogue offers, and what those in PyTorch share."""

from typing import NamedTuple, Protocol

import torch
from torch import Tensor


class Step(NamedTuple):
    """The best extensions of each request's beams, best first."""

    scores: Tensor  # (batch, width) float32
    parents: Tensor  # (batch, width) int64
    tokens: Tensor  # (batch, width) int64


class Provider(Protocol):
    """One way to keep beam search inside a catalogue; built from one in SID order.

    `start` begins a decode, `step` extends every beam by one code, keeps the best and remembers
    where in the catalogue they stand.
    """

    nbytes: int

    def start(self, batch: int, width: int) -> None:
        """Puts one beam per request at the root."""

    def step(self, level: int, logits: Tensor) -> Step:
        """(batch, beam_width, codebook_size) float32 logits of the level -> its best beams."""


class TorchBeams:
    """The beams between two steps of a provider in PyTorch."""

    def start(self, batch: int, width: int) -> None:
        """See Provider."""
        self._scores, self._width = torch.zeros(batch, 1), width
        self._nodes = torch.zeros(batch, 1, dtype=torch.int64)

    def _keep(self, scores: Tensor) -> Tensor:
        """Keeps the best of (batch, beam_width, slots): (batch, width) places among all slots."""
        candidates = scores.flatten(1)
        best = candidates.topk(min(self._width, candidates.shape[1]), dim=1)
        self._scores = best.values
        return best.indices


class Unconstrained(TorchBeams):
    """log-softmax and top-k over all codes: no catalogue at all."""

    nbytes = 0

    def step(self, level: int, logits: Tensor) -> Step:
        """See Provider."""
        index = self._keep(self._scores[:, :, None] + logits.log_softmax(-1))
        size = logits.shape[2]
        return Step(self._scores, index // size, index % size)
