import pytest
import torch

from store_engine.kernels.grouped_heads import fold_heads, unfold_heads


@pytest.mark.parametrize("batch", [0, 1, 3])
@pytest.mark.parametrize(("num_heads", "num_kv_heads"), [(1, 1), (6, 2), (6, 6), (9, 3)])
def test_the_heads_of_a_group_are_rows_of_their_key_head(batch, num_heads, num_kv_heads):
    q = torch.randn(batch, 5, num_heads, 4)
    rows, group = fold_heads(q, num_kv_heads), num_heads // num_kv_heads
    assert rows.shape == (batch, num_kv_heads, group * 5, 4)
    for head in range(num_heads):
        first = head % group * 5
        assert torch.equal(rows[:, head // group, first : first + 5], q[:, :, head])
    assert torch.equal(unfold_heads(rows, 5), q)
