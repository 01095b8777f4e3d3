import pytest
import torch

from benchmarks.ops.selection_cases import fan_out, random_beams


@pytest.mark.parametrize("integers", [torch.int32, torch.int64], ids=str)
def test_every_node_has_children_and_every_beam_a_node(integers):
    level = fan_out(2000, 16, integers, "cpu")
    counts = level.child_begin.diff()
    assert level.child_begin.dtype == level.tokens.dtype == integers
    assert len(counts) == 2000 * 4 // 16
    assert counts.min() >= 1
    assert 3.5 < counts.float().mean() < 4.5
    assert level.child_begin[-1] == len(level.tokens)
    beams = random_beams(3, 20, level)
    assert beams.nodes.dtype == beams.num_valid.dtype == integers
    assert (beams.scores.diff(dim=1) <= 0).all()
    assert beams.nodes.min() >= 0 and beams.nodes.max() < len(counts)
