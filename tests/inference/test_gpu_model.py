import copy

import pytest
import torch

from store_engine.inference.cache_attention import TreeAttention
from store_engine.inference.decoding_model import DecodingModel
from store_engine.inference.gpu_model import (
    BeamAttention,
    Embedded,
    GpuModel,
    PrefillAttention,
    Tokens,
    rope_table,
)
from store_engine.inference.kv_cache import KVCache
from store_engine.inference.prefill import prefill
from store_engine.inference.prefill_batch import PrefillBatch
from store_engine.kernels.add_rms_norm import add_rms_norm
from store_engine.kernels.tree_attention import BeamTree

LENGTHS = [1, 63, 100]
CONTEXT, BATCH = 128, 4  # one request more, which pads the batch
TREE = [([[0], [1], [2]], 0), ([[0, 3], [2, 4], [0, 5], [1, 6]], 3)]  # ancestors, first slot
SHAPES = {
    "llama": {},
    "one head": {"num_heads": 1, "num_kv_heads": 1, "head_dim": 20},
    "qwen3": {"qk_norm": True},
    "qwen2": {"attention_bias": "qkv"},
    "biases": {"attention_bias": "all"},
    "long positions": {"rope_theta": 500000.0},
}


@pytest.fixture
def inputs():
    """Tokens of the contexts, and what the two blocks of the beam tree begin with."""
    generator = torch.Generator().manual_seed(0)
    tokens = [torch.randint(20, 38, (length,), generator=generator) for length in LENGTHS]
    blocks = [torch.randn(3, len(seen), 32, generator=generator) for seen, _ in TREE]
    return tokens, [x.bfloat16() for x in blocks]


def run_the_models(model, inputs):
    """The states of a prefill, then of two blocks of the beam tree."""
    decoder, (tokens, blocks) = DecodingModel.for_torch(model), inputs
    cache = KVCache(decoder.config, torch.device("cpu"), decoder.dtype)
    lengths = torch.tensor(LENGTHS)
    cache.start(lengths, num_tree_slots=7)
    states = [prefill(decoder, cache, PrefillBatch(torch.cat(tokens), lengths))]
    for level, (x, (ancestors, begin)) in enumerate(zip(blocks, TREE, strict=True)):
        attend = TreeAttention(cache, torch.tensor(ancestors).expand(3, -1, -1), begin)
        positions = (lengths + level).repeat_interleave(x.shape[1])
        states.append(decoder.transformer(x.flatten(0, 1).to(decoder.dtype), positions, attend))
    return states


def run_ours(model, inputs):
    """The same with contexts and batch padded, in a cache that holds rubbish."""
    gpu, (tokens, blocks) = GpuModel.of(DecodingModel.for_torch(model), 1, "torch"), inputs
    config, dtype = model.config, gpu.history_rows.dtype
    heads = config.num_kv_heads, config.head_dim
    cache = torch.full((config.num_layers, 2, BATCH, CONTEXT + 7, *heads), 7.0, dtype=dtype)
    padded = torch.full((BATCH, CONTEXT), 1)
    for row, context in zip(padded, tokens, strict=False):
        row[: len(context)] = context
    lengths = torch.tensor([*LENGTHS, 1], dtype=torch.int32)
    first = torch.arange(BATCH)[:, None] * (CONTEXT + 7)
    table = rope_table(config, 256, torch.device("cpu"))

    def at(positions, slots):
        return Tokens(*table, positions.flatten().int(), slots.flatten().int())

    positions = torch.arange(CONTEXT).expand(BATCH, -1)
    ids = torch.from_numpy(gpu.input_ids(padded.flatten().numpy())).int()
    last = (torch.arange(BATCH) * CONTEXT + lengths - 1).int()
    attend = PrefillAttention(CONTEXT)
    run = gpu.transformer
    parents = torch.tensor([-1, -1, -1, 0, 2, 0, 1], dtype=torch.int32).repeat(BATCH, 1)
    counters = torch.zeros(BATCH * 4 * config.num_heads, dtype=torch.int32)
    states = [run(gpu.embed(ids), at(positions, first + positions), cache, attend, last)[:3]]
    for level, (x, (_, begin)) in enumerate(zip(blocks, TREE, strict=True)):
        width = x.shape[1]
        x = torch.cat([x, x[:1]]).flatten(0, 1).to(dtype)
        slots = first + CONTEXT + begin + torch.arange(width)
        tree = BeamTree(parents, begin, level + 1)
        attend = BeamAttention(lengths, tree, width, counters, "torch")
        positions = (lengths.long() + level)[:, None].expand(-1, width)
        states.append(run(Embedded(x), at(positions, slots), cache, attend)[: 3 * width])
    return states


@pytest.mark.parametrize("shape", SHAPES)
def test_computes_what_the_model_does(make_model, inputs, shape):
    model = make_model(**SHAPES[shape])
    with torch.inference_mode():
        for got, want in zip(run_ours(model, inputs), run_the_models(model, inputs), strict=True):
            torch.testing.assert_close(got, want, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
def test_is_as_exact_in_bfloat16_as_the_model(make_model, inputs, shape):
    model = make_model(**SHAPES[shape]).bfloat16()
    with torch.inference_mode():
        truth = run_the_models(copy.deepcopy(model).float(), inputs)
        theirs, ours = run_the_models(model, inputs), run_ours(model, inputs)
    for want, their, our in zip(truth, theirs, ours, strict=True):
        assert our.dtype == torch.bfloat16
        error, allowed = ((x.float() - want).square().mean().sqrt() for x in (our, their))
        assert error <= 1.5 * allowed + 1e-3


def test_a_code_of_none_is_embedded_as_some_row(make_model):
    gpu = GpuModel.of(DecodingModel.for_torch(make_model()), 1, "torch")
    codes = torch.tensor([0, 4, -1], dtype=torch.int32)
    table, rows = gpu.embed_codes(codes, 1)
    want = gpu.decoder.embed_codes(torch.tensor([0, 4, 0]), 1)
    assert torch.equal(add_rms_norm(table, None, torch.ones(32), 1e-5, rows)[1], want)
