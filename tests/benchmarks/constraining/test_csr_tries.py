from collections import Counter

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.constraining.cases import Case, catalogue
from benchmarks.constraining.check import check
from benchmarks.constraining.csr_tries import CsrTorch, DenseMask
from benchmarks.constraining.decode import Logits
from benchmarks.constraining.ours import Ours
from store_engine._C import ItemTrie

CASES = [
    Case(1, "uniform", beam=3, batch=2),
    Case(5, "uniform", beam=7, batch=1, codebook_size=4),
    Case(2000, "zipf", beam=20, batch=3, codebook_size=63),
    Case(3000, "uniform", beam=64, batch=3, num_levels=3, codebook_size=16),
]
MAKERS = {
    "csr_torch": CsrTorch,
    "csr_torch_one_topk": lambda sids, sizes: CsrTorch(sids, sizes, has_one_topk=True),
    "dense_mask": DenseMask,
}


class Calls(TorchDispatchMode):
    """Counts operations by name."""

    def __init__(self):
        super().__init__()
        self.count = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_all_find_what_ours_finds(case):
    sids, sizes = catalogue(case, None)
    providers = {"ours": Ours(ItemTrie(sids, sizes), 1)}
    providers |= {name: make(sids, sizes) for name, make in MAKERS.items()}
    check(case, Logits(case.batch, sizes), providers)


@pytest.mark.parametrize(
    ("has_one_topk", "want"), [(False, [1, 2, 1, 1]), (True, [1, 1, 1, 1])], ids=["static", "ours"]
)
def test_csr_torch_selects_as_often_as_the_published_code(has_one_topk, want):
    """A top-k per beam on the dense level alone; a sparse level has one, over all beams."""
    case = Case(2000, "zipf", beam=5, batch=2, codebook_size=32)
    sids, sizes = catalogue(case, None)
    provider, logits = CsrTorch(sids, sizes, has_one_topk=has_one_topk), Logits(2, sizes)
    provider.start(case.batch, case.beam)
    tokens, topks = torch.zeros(2, 1, dtype=torch.int64), []
    for level in range(4):
        with Calls() as calls:
            tokens = provider.step(level, logits(level, tokens)).tokens
        topks.append(calls.count["topk"])
    assert topks == want
