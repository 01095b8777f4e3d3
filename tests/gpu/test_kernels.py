"""What the pretended device says that an op of kernels/ launches is what its Triton path does."""

import pytest
import torch
from pretended_device import KERNELS, DeviceTensor, pretended_device

from store_engine.kernels.add_rms_norm import add_rms_norm
from store_engine.kernels.code_logprobs import code_logprobs
from store_engine.kernels.qk_rope_cache import qk_rope_cache
from store_engine.kernels.rank_candidates import rank_candidates
from store_engine.kernels.rank_leaves import rank_leaves
from store_engine.kernels.score_evidence import Events, Votes, score_evidence
from store_engine.kernels.swiglu import swiglu
from store_engine.kernels.top_evidence import top_evidence
from store_engine.kernels.tree_attention import BeamTree, tree_attention
from store_engine.kernels.trie_select import trie_select
from store_engine.kernels.trie_topk import Beams, Level
from store_engine.kernels.triton import tree_attention as triton_path


def floats(*shape):
    return DeviceTensor(torch.ones(shape))


def ints(*shape, dtype=torch.int32):
    return DeviceTensor(torch.zeros(shape, dtype=dtype))


def beams():
    nodes = ints(2, 3)
    return Beams(floats(2, 3), nodes, nodes, nodes, ints(2), ints(2, dtype=torch.bool))


def select():
    return trie_select(floats(2, 3, 4), beams(), Level(ints(3), ints(2)), 3, backend="triton")


def rope():
    cache = floats(6, 1, 4), floats(6, 1, 4)
    where = floats(3, 2), floats(3, 2), ints(3), ints(3)
    return qk_rope_cache(floats(3, 16), None, None, *where, *cache, 1e-5, 2, backend="triton")


def votes():
    return Votes(ints(4), ints(6), floats(6), 2)


def events():
    return Events(ints(2, 3), floats(3))


def attend():
    tree = BeamTree(ints(2, 3), 0, 1)
    cache = floats(2, 303, 1, 4), floats(2, 303, 1, 4)
    counters = ints(12)
    args = floats(2, 3, 2, 4), *cache, ints(2), tree
    return tree_attention(*args, counters=counters, backend="triton")


OPS = {
    "add_rms_norm": lambda: add_rms_norm(
        floats(3, 8), floats(3, 8), floats(8), 1e-5, ints(3), backend="triton"
    ),
    "code_logprobs": lambda: code_logprobs(
        floats(2, 3, 4), ints(2, 3), ints(2, 3), floats(2, 3), backend="triton"
    ),
    "qk_rope_cache": rope,
    "rank_candidates": lambda: rank_candidates(
        floats(2, 3), floats(2, 3), ints(2, 3), ints(2, dtype=torch.bool), 2, backend="triton"
    ),
    "rank_leaves": lambda: rank_leaves(beams(), ints(4), 3, 1, backend="triton"),
    "score_evidence": lambda: score_evidence(votes(), events(), ints(2, 3), backend="triton"),
    "swiglu": lambda: swiglu(floats(3, 8), backend="triton"),
    "top_evidence": lambda: top_evidence(votes(), events(), ints(4), 3, backend="triton"),
    "tree_attention": attend,
    "trie_select": select,
}


@pytest.mark.skipif(torch.cuda.is_available(), reason="kernels are compiled, not interpreted")
@pytest.mark.parametrize("name", KERNELS)
def test_launches_are_those_of_the_kernels(name, monkeypatch):
    monkeypatch.setattr(triton_path, "MIN_PROGRAMS", 8)  # several splits
    with pretended_device() as gpu:
        OPS[name]()
        assert sum(gpu.launches.values()) == KERNELS[name], gpu.launches
