"""Paths beside the beams: every prefix once, whatever the beams hold."""

import torch

from store_engine.decoding.forced_paths import ForcedPaths
from store_engine.kernels.trie_topk import Beams


def beams_of(parents, tokens):
    parents, tokens = torch.tensor(parents), torch.tensor(tokens)
    return Beams(parents.float(), parents, tokens, parents, parents[:, 0], parents[:, 0] < -1)


def test_only_prefixes_that_no_beam_has_are_run_and_each_once():
    sids = torch.tensor([[[1, 0, 4], [2, 1, 3], [2, 1, 0], [2, 2, 0], [0, 0, 0]]] * 2)
    is_wanted = torch.tensor([[True] * 4 + [False], [True] + [False] * 4])
    forced = ForcedPaths(sids, is_wanted)
    logits = torch.randn(2, 1, 5)
    forced.score(0, logits)
    block = forced.beside(0, beams_of([[0, 0], [0, -1]], [[3, 1], [4, -1]]))
    assert block.codes.tolist() == [[2], [1]]  # 2 beside the beams 3 and 1; 1 beside 4
    assert block.parents.tolist() == [[0], [0]]
    below = torch.randn(2, 3, 5)
    forced.score(1, below)
    block = forced.beside(1, beams_of([[1, 0], [0, 0]], [[4, 0], [3, 2]]))
    assert block.codes.tolist() == [[0, 1, 2], [0, -1, -1]]
    assert block.parents.tolist() == [[1, 2, 2], [2, 0, 0]]
    last = torch.randn(2, 5, 5)
    forced.score(2, last)
    lp = [x.log_softmax(2) for x in (logits, below, last)]
    want = [
        lp[0][0, 0, 1] + lp[1][0, 1, 0] + lp[2][0, 2, 4],
        lp[0][0, 0, 2] + lp[1][0, 2, 1] + lp[2][0, 3, 3],
        lp[0][0, 0, 2] + lp[1][0, 2, 1] + lp[2][0, 3, 0],
        lp[0][0, 0, 2] + lp[1][0, 2, 2] + lp[2][0, 4, 0],
    ]
    torch.testing.assert_close(forced.result()[0, :4], torch.stack(want))
    assert forced.result()[0, 4] == -torch.inf
    assert (forced.result()[1, 1:] == -torch.inf).all()
