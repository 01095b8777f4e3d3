"""On the host: what kernels.py checks before it times."""

import pytest
import torch

from benchmarks.ops.cases import all_cases

SMALL = ("rows=4,", "beam=3", "T=64")
CASES = [
    case
    for case in all_cases("cpu", has_decode=True)
    if case.dtype is torch.float32 and any(shape in case.name for shape in SMALL)
]


def test_all_ops_but_three_have_a_small_shape():
    ops = {case.name.split(",")[0] for case in all_cases("cpu", has_decode=True)}
    tried = {case.name.split(",")[0] for case in CASES}
    assert ops - tried == {"masked_softmax", "beam_attention", "trie_topk"}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_an_op_agrees_with_its_reference(case):
    work = case.make()
    work.check()
    assert work.flops > 0 and work.num_bytes > 0
