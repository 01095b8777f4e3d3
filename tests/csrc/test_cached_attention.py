"""The C++ core's attention and norm against their definitions in PyTorch, in float64."""

import os
import subprocess
import sys
from typing import NamedTuple

import numpy as np
import pytest
import torch

from store_engine._C import CachedAttention, rms_norm, simd_targets

# (rounding of one result, relative to values of about 1)
TOLERANCE = {torch.float32: 3e-6, torch.bfloat16: 2e-2}
# heads, key heads, head_dim; whether q and k have norms
SHAPES = [
    ((4, 4, 64), False),
    ((9, 3, 64), True),
    ((4, 2, 8), False),
    ((2, 1, 20), True),
    ((3, 1, 130), False),
]
NUM_SLOTS = 150


class Block(NamedTuple):
    """Tokens of three requests."""

    sizes: list[int]
    first_slots: list[int]
    num_context: list[int]
    ancestors: np.ndarray | None = None

    @property
    def begins(self):
        return np.cumsum([0, *self.sizes])

    def seen_by(self, request, nth):
        """The slots that a request's n-th token sees."""
        context = range(self.num_context[request])
        if self.ancestors is None:
            return [*context, *range(len(context), len(context) + nth + 1)]
        return [*context, *self.ancestors[self.begins[request] + nth].tolist()]

    def arrays(self):
        arrays = (self.begins, np.array(self.first_slots), np.array(self.num_context))
        return arrays if self.ancestors is None else (*arrays, self.ancestors)


def tree(width, depth, seed=0):
    """A block whose beams see random slots of blocks before, and themselves."""
    before = np.random.default_rng(seed).integers(90, 110, (3 * width, depth - 1))
    itself = np.tile(110 + np.arange(width), 3)[:, None]
    return Block([width] * 3, [110] * 3, [1, 81, 48], np.hstack([before, itself]))


BLOCKS = {
    "contexts": Block([1, 81, 70], [0, 0, 0], [0, 0, 0]),
    "known contexts": Block([7, 64, 1], [3, 48, 100], [3, 48, 100]),
    "first beams": tree(20, 1),
    "beams": tree(40, 4),
    "one beam": tree(1, 16),
}


def to_numpy(tensor):
    return (tensor.view(torch.uint16) if tensor.dtype == torch.bfloat16 else tensor).numpy()


class Case:
    """Random input of one call."""

    def __init__(self, shape, dtype, block, has_norms=False, seed=0):
        generator = torch.Generator().manual_seed(seed)
        self.num_heads, self.num_kv_heads, self.head_dim = shape
        self.block, num_tokens = block, int(block.begins[-1])
        cache_shape = (2, 2, 3, NUM_SLOTS, *shape[1:])
        self.cache = torch.randn(cache_shape, generator=generator).to(dtype)
        columns = (shape[0] + 2 * shape[1]) * shape[2]
        self.qkv = torch.randn(num_tokens, columns, generator=generator).to(dtype)
        angles = 7 * torch.rand(num_tokens, shape[2] // 2, generator=generator)
        self.cosine, self.sine = angles.cos(), angles.sin()
        self.norms = {}
        if has_norms:
            weights = 0.5 + torch.rand(2, shape[2], generator=generator)
            self.norms = {"q_norm": weights[0], "k_norm": weights[1]}

    def run(self, last_only=False, num_threads=1):
        """Layer 1 of the core: its result, and the cache afterwards."""
        dtype = self.cache.dtype
        cache = self.cache.clone()
        attend = CachedAttention(
            to_numpy(cache), self.num_heads, *self.block.arrays(), num_threads=num_threads
        )
        num_rows = self.cache.shape[2] if last_only else len(self.qkv)
        shape = (num_rows, self.num_heads * self.head_dim)
        out = torch.full(shape, torch.nan, dtype=dtype)
        norms = {name: weight.numpy() for name, weight in self.norms.items()}
        rope = self.cosine.numpy(), self.sine.numpy()
        options = norms | {"norm_eps": 1e-5, "last_only": last_only}
        attend(1, to_numpy(self.qkv), *rope, to_numpy(out), **options)
        return out, cache

    def expected(self):
        """The definition, of one token after the other."""
        heads, kv_heads, head_dim = self.num_heads, self.num_kv_heads, self.head_dim
        q, k, v = (
            self.qkv.double()
            .view(-1, heads + 2 * kv_heads, head_dim)
            .split([heads, kv_heads, kv_heads], 1)
        )
        q, k = self._turned(q, "q_norm"), self._turned(k, "k_norm")
        cache, begins = self.cache.clone(), self.block.begins
        for request, first in enumerate(self.block.first_slots):
            tokens = slice(begins[request], begins[request + 1])
            slots = slice(first, first + self.block.sizes[request])
            cache[1, :, request, slots] = torch.stack([k[tokens], v[tokens]]).to(cache.dtype)
        out = torch.empty(len(q), heads, head_dim, dtype=torch.float64)
        for request, size in enumerate(self.block.sizes):
            for nth in range(size):
                seen = cache[1, :, request, self.block.seen_by(request, nth)].double()
                keys, values = seen.repeat_interleave(heads // kv_heads, dim=2)
                token = begins[request] + nth
                scores = torch.einsum("hd,shd->hs", q[token], keys) * head_dim**-0.5
                out[token] = torch.einsum("hs,shd->hd", scores.softmax(-1), values)
        return out.flatten(1), cache

    def _turned(self, x, norm):
        if norm in self.norms:
            x = x * (x.square().mean(-1, keepdim=True) + 1e-5).rsqrt() * self.norms[norm]
        first, second = x.chunk(2, -1)
        cosine, sine = self.cosine[:, None], self.sine[:, None]
        return torch.cat([first * cosine - second * sine, second * cosine + first * sine], -1)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize(("shape", "has_norms"), SHAPES, ids=str)
@pytest.mark.parametrize("block", BLOCKS)
def test_equals_the_definition(block, shape, dtype, has_norms):
    case = Case(shape, dtype, BLOCKS[block], has_norms)
    out, cache = case.run()
    want, want_cache = case.expected()
    tolerance = TOLERANCE[dtype]
    torch.testing.assert_close(out.double(), want, atol=tolerance, rtol=tolerance)
    torch.testing.assert_close(cache, want_cache, atol=tolerance, rtol=tolerance)
    for request, first in enumerate(case.block.first_slots):
        others = torch.ones(NUM_SLOTS, dtype=torch.bool)
        others[first : first + case.block.sizes[request]] = False
        assert torch.equal(cache[:, :, request, others], case.cache[:, :, request, others])
    assert torch.equal(cache[0], case.cache[0])


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("block", ["contexts", "known contexts"])
def test_the_last_tokens_alone(block, dtype):
    case = Case((9, 3, 64), dtype, BLOCKS[block])
    every, last = case.run()[0], case.run(last_only=True)[0]
    assert torch.equal(last, every[case.block.begins[1:] - 1])


@pytest.mark.parametrize("block", BLOCKS)
def test_threads_and_batch_change_no_bit(block):
    case = Case((4, 2, 8), torch.bfloat16, BLOCKS[block])
    out, cache = case.run()
    for num_threads in (2, 5):
        others = case.run(num_threads=num_threads)
        assert torch.equal(others[0], out)
        assert torch.equal(others[1], cache)
    alone = Case((4, 2, 8), torch.bfloat16, BLOCKS[block])  # request 1 without the others
    begin, end = alone.block.begins[1:3]
    alone.cache = alone.cache[:, :, 1:2].contiguous()
    alone.qkv, alone.cosine, alone.sine = (
        x[begin:end] for x in (alone.qkv, alone.cosine, alone.sine)
    )
    ancestors = alone.block.ancestors
    alone.block = Block(
        *([getattr(alone.block, name)[1]] for name in ("sizes", "first_slots", "num_context")),
        None if ancestors is None else ancestors[begin:end],
    )
    assert torch.equal(alone.run()[0], out[begin:end])


def test_what_a_token_does_not_see_has_no_part():
    case = Case((4, 2, 8), torch.float32, BLOCKS["beams"])
    out, _ = case.run()
    seen = torch.zeros(3, NUM_SLOTS, dtype=torch.bool)
    for request in range(3):
        for nth in range(case.block.sizes[request]):
            seen[request, case.block.seen_by(request, nth)] = True
    case.cache[:, :, ~seen] = torch.finfo(torch.float32).max
    assert torch.equal(case.run()[0], out)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("size", [1, 8, 16, 63, 576, 1000])
@pytest.mark.parametrize("num_threads", [1, 3])
def test_rms_norm_equals_the_definition(size, dtype, num_threads):
    x = torch.randn(7, size, generator=torch.Generator().manual_seed(0)).to(dtype)
    weight, out = torch.linspace(-1, 2, size), torch.empty_like(x)
    rms_norm(to_numpy(x), weight.numpy(), to_numpy(out), 1e-5, num_threads=num_threads)
    wide = x.double()
    want = wide * (wide.square().mean(1, keepdim=True) + 1e-5).rsqrt() * weight
    tolerance = 1e-6 if dtype == torch.float32 else 2**-8  # half of bfloat16's last place
    torch.testing.assert_close(out.double(), want, atol=1e-6, rtol=tolerance)


def test_rms_norm_rounds_as_pytorch_and_keeps_nan():
    x = torch.tensor([[1.0, float("nan")], [3.0e38, 1.0]]).bfloat16()
    out = torch.empty_like(x)
    rms_norm(to_numpy(x), np.ones(2, np.float32), to_numpy(out), 1e-5)
    assert out[0].isnan().all()
    values = torch.randn(1, 4096).bfloat16()
    out = torch.empty_like(values)
    weight = torch.randn(4096)
    rms_norm(to_numpy(values), weight.numpy(), to_numpy(out), 1e-5)
    scale = float(np.float32(1) / np.sqrt(np.float32(values.double().square().mean() + 1e-5)))
    want = (values.float() * scale * weight).bfloat16()
    assert (out != want).float().mean() < 0.01  # the scale may differ in its last place


def all_results():
    """Every block on this process's instruction set."""
    outs = [Case((9, 3, 64), torch.float32, block).run()[0] for block in BLOCKS.values()]
    return torch.cat(outs).numpy().tobytes()


@pytest.mark.parametrize("simd", simd_targets())
def test_every_instruction_set_agrees(simd):
    environment = {**os.environ, "STORE_ENGINE_SIMD": simd}
    done = subprocess.run([sys.executable, __file__], env=environment, capture_output=True)
    got, want = (np.frombuffer(x, np.float32) for x in (done.stdout, all_results()))
    np.testing.assert_allclose(got, want, atol=3e-6, rtol=1e-5)


def make(cache_shape=(2, 2, 3, 150, 2, 8), num_heads=4, **changes):
    """A `CachedAttention` of contexts, one of its arguments changed."""
    arrays = {
        "begins": np.array([0, 2, 3, 4]),
        "first_slots": np.array([0, 5, 0]),
        "num_context": np.array([0, 5, 0]),
    }
    cache = np.zeros(cache_shape, np.float32)
    return CachedAttention(cache, num_heads, **(arrays | changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cache_shape": (2, 3, 3, 150, 2, 8)}, r"num_layers, 2, batch"),
        ({"cache_shape": (2, 2, 3, 150, 2, 7)}, "head_dim must be even, got 7"),
        ({"num_heads": 3}, "multiple of num_kv_heads 2, got 3"),
        ({"num_heads": 0}, "multiple of num_kv_heads 2, got 0"),
        ({"begins": np.array([0, 2, 3])}, r"begins must have shape \(batch \+ 1,\)"),
        ({"begins": np.array([1, 2, 3, 4])}, "begin with 0"),
        ({"begins": np.array([0, 2, 2, 4])}, "request 1: begins must ascend"),
        ({"begins": np.array([0, 2, 3, 4000])}, r"request 2: its tokens' slots .* 150"),
        ({"begins": np.array([0, 2, 3, 2**62])}, "request 2: its tokens' slots"),
        ({"first_slots": np.array([0, 150, 0])}, "request 1: its tokens' slots"),
        ({"first_slots": np.array([-1, 5, 0])}, "request 0: its tokens' slots"),
        ({"num_context": np.array([0, 6, 0])}, "num_context must be first_slots, got 6"),
        ({"ancestors": np.zeros((4, 1), np.int64)}, r"num_context must be in \[1, num_slots\]"),
        ({"num_threads": 0}, "num_threads"),
    ],
    ids=str,
)
def test_rejects(changes, message):
    with pytest.raises(ValueError, match=message):
        make(**changes)


@pytest.mark.parametrize(
    ("ancestors", "message"),
    [
        (np.full((4, 1), 150), "got 150"),
        (np.full((4, 1), -1), "got -1"),
        (np.zeros((3, 1), np.int64), r"\(num_tokens, depth\)"),
        (np.zeros((4, 17), np.int64), "depth in"),
        (np.zeros((4, 0), np.int64), "depth in"),
        (np.zeros(4, np.int64), "depth in"),
    ],
    ids=str,
)
def test_rejects_ancestors(ancestors, message):
    with pytest.raises(ValueError, match=message):
        make(ancestors=ancestors, num_context=np.array([1, 5, 1]))


def test_rejects_wrong_calls():
    attend = make()
    zeros = lambda *shape: np.zeros(shape, np.float32)  # noqa: E731
    right = {"qkv": zeros(4, 64), "cosine": zeros(4, 4), "sine": zeros(4, 4), "out": zeros(4, 32)}
    attend(1, **right)
    for layer in (-1, 2):
        with pytest.raises(ValueError, match=r"layer must be in \[0, 2\)"):
            attend(layer, **right)
    for name, array in right.items():
        with pytest.raises(ValueError, match=f"{name} must have shape"):
            attend(0, **(right | {name: array[:2]}))
        with pytest.raises(TypeError):
            attend(0, **(right | {name: array.astype(np.float64)}))
    num_requests = 3
    with pytest.raises(ValueError, match=r"out must have shape \(num_tokens, num_heads"):
        attend(0, **(right | {"out": zeros(num_requests, 32)}))
    with pytest.raises(ValueError, match=r"out must have shape \(batch, .*as last_only is set"):
        attend(0, **right, last_only=True)
    attend(0, **(right | {"out": zeros(num_requests, 32)}), last_only=True)
    bits = {name: right[name].astype(np.uint16) for name in ("qkv", "out")}
    with pytest.raises(TypeError, match="dtype of the cache"):
        attend(0, **(right | bits))
    with pytest.raises(ValueError, match="q_norm must have shape"):
        attend(0, **right, q_norm=zeros(7))
    frozen = zeros(4, 32)
    frozen.flags.writeable = False
    with pytest.raises(ValueError, match="writ"):
        attend(0, **(right | {"out": frozen}))
    with pytest.raises(ValueError, match="out must have shape"):
        rms_norm(zeros(2, 3), zeros(3), zeros(3, 2), 1e-5)


def test_the_cache_outlives_its_name():
    attend = make()
    out = np.full((4, 32), np.nan, np.float32)
    ones = np.ones((4, 64), np.float32)
    attend(0, ones, np.ones((4, 4), np.float32), np.zeros((4, 4), np.float32), out)
    assert np.isfinite(out).all()


if __name__ == "__main__":
    sys.stdout.buffer.write(all_results())
