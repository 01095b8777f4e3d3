import dataclasses

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from store_engine.config import ModelConfig
from store_engine.model.attention import PackedSequences
from store_engine.model.transformer import Block, Rope, Transformer, compile_layers

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


@pytest.mark.parametrize("changes", [{}, {"qk_norm": True, "attention_bias": "all"}], ids=str)
def test_a_layer_is_one_graph(changes):
    config = dataclasses.replace(CONFIG, **changes)
    sequences, x = PackedSequences(torch.tensor([0, 4, 6])), torch.randn(6, 32, requires_grad=True)
    sequences.prepare(x.dtype)
    torch._dynamo.reset()
    explained = torch._dynamo.explain(Block(config, 0))(
        x, Rope(sequences.positions, config, x.dtype), sequences
    )
    assert explained.graph_break_count == 0, explained.break_reasons
    assert explained.graph_count == 1


def test_compiled_layers_share_a_graph_and_compute_the_same(monkeypatch):
    config = dataclasses.replace(CONFIG, num_layers=3, dropout=0.0)
    counter = CompileCounterWithBackend("aot_eager")
    compile_block = Block.compile
    monkeypatch.setattr(Block, "compile", lambda self: compile_block(self, backend=counter))
    torch._dynamo.reset()
    body, sequences = Transformer(config), PackedSequences(torch.tensor([0, 4, 6]))
    sequences.prepare(torch.float32)

    def states_and_gradients():
        torch.manual_seed(0)
        states = body(torch.randn(6, 32), sequences.positions, sequences)
        return [states, *torch.autograd.grad(states.square().sum(), list(body.parameters()))]

    want = states_and_gradients()
    compile_layers(body)
    torch.testing.assert_close(states_and_gradients(), want)
    # the first layer's input needs no gradient, which is a graph of its own
    assert counter.frame_count <= 2
