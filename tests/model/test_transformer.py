import pytest
import torch

from store_engine.config import ModelConfig
from store_engine.model.attention import PackedSequences
from store_engine.model.transformer import Transformer

CONFIG = ModelConfig(
    hidden_size=32, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=8, intermediate_size=48
)


@pytest.mark.parametrize("outputs", [[0], [3, 5], [5, 0, 5], list(range(6))])
def test_only_the_outputs_asked_for(outputs):
    body, x, outputs = Transformer(CONFIG).eval(), torch.randn(6, 32), torch.tensor(outputs)
    sequences = PackedSequences(torch.tensor([0, 4, 6]))
    seen = {}

    def attend(layer_id, q, k, v):
        """Attends with all queries, then keeps those that were asked for."""
        seen[layer_id] = len(q), len(k)
        if len(q) == len(k):
            return sequences(layer_id, q, k, v)
        every_q = k.new_zeros(len(k), *q.shape[1:]).index_copy(0, outputs, q)
        return sequences(layer_id, every_q, k, v)[outputs]

    want = body(x, sequences.positions, sequences)[outputs]
    got = body(x, sequences.positions, attend, outputs)
    torch.testing.assert_close(got, want)
    assert seen == {0: (6, 6), 1: (len(outputs), 6)}
