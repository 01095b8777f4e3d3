"""The choice of the next beams in a trie as cases of kernels.py."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.ops.workload import Case, Work, op_work, short
from store_engine.kernels.trie_select import trie_select
from store_engine.kernels.trie_topk import Beams, Level, trie_topk, trie_topk_ref


def topk_case(batch: int, beam_width: int, num_items: int, codebook_size: int, device: str) -> Case:
    """trie_topk at the level where beams fan out: every node has a quarter of the codes."""

    def make() -> Work:
        level = fan_out(num_items, codebook_size, torch.int64, device)
        logits = torch.randn(batch, beam_width, codebook_size, device=device)
        beams = random_beams(batch, beam_width, level)

        def ours(logits: Tensor, scores: Tensor) -> Beams:
            return trie_topk(logits, beams._replace(scores=scores), level, beam_width)

        def unconstrained(logits: Tensor, scores: Tensor) -> Any:
            every = scores[:, :, None] + logits.log_softmax(-1)
            return every.flatten(1).topk(beam_width)

        def check() -> None:
            want = trie_topk_ref(logits, beams, level, beam_width)
            torch.testing.assert_close(ours(logits, beams.scores).scores, want.scores)

        # the logits, and the codes of a quarter of them
        moved = logits.numel() * 4.0 + logits.numel() / 4 * 8.0
        work = Work([logits, beams.scores], ours, unconstrained, check, 3.0 * logits.numel(), moved)
        return work._replace(other_name="unconstrained")

    shape = f"N={num_items},batch={batch},beam={beam_width},k={codebook_size}"
    return Case(f"trie_topk,{shape},float32", torch.float32, make)


def select_case(
    batch: int, beam_width: int, num_items: int, codebook_size: int, dtype: torch.dtype, device: str
) -> Case:
    """trie_select where beams fan out: every node has a quarter of the codes."""

    def make() -> Work:
        # a search on the device keeps its integers in 32 bits
        level = fan_out(num_items, codebook_size, torch.int32, device)
        logits = torch.randn(batch, beam_width, codebook_size, device=device).to(dtype)
        beams = random_beams(batch, beam_width, level)

        def run(logits: Tensor, scores: Tensor, backend: Any) -> Tensor:
            given = beams._replace(scores=scores)
            return trie_select(logits, given, level, beam_width, backend=backend).scores

        # the logits; a key written and read three times, and the code, of a quarter of them
        moved = logits.numel() * (logits.element_size() + (4 * 8 + 4) / 4)
        return op_work(run, [logits, beams.scores], moved, 5.0 * logits.numel())

    shape = f"N={num_items},batch={batch},beam={beam_width},k={codebook_size}"
    return Case(f"trie_select,{shape},{short(dtype)}", dtype, make)


def fan_out(num_items: int, codebook_size: int, integers: torch.dtype, device: str) -> Level:
    """A level where beams fan out: every node has about a quarter of the codes."""
    num_nodes = max(num_items * 4 // codebook_size, 1)
    is_child = torch.rand(num_nodes, codebook_size, device=device) < 0.25
    is_child[:, 0] |= ~is_child.any(1)  # every beam goes on
    begin = F.pad(is_child.sum(1).cumsum(0), (1, 0))
    return Level(begin.to(integers), is_child.nonzero()[:, 1].to(integers))


def random_beams(batch: int, beam_width: int, level: Level) -> Beams:
    """Beams at nodes of the level drawn at random, best first."""
    begin = level.child_begin
    scores = -torch.rand(batch, beam_width, device=begin.device).sort(1)[0]
    nodes = torch.randint(0, len(begin) - 1, (batch, beam_width), device=begin.device)
    nodes = nodes.to(begin.dtype)
    num_valid = torch.full_like(nodes[:, 0], beam_width)
    return Beams(scores, nodes, nodes, nodes, num_valid, num_valid < 0)
