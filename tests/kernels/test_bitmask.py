import pytest
import torch

from store_engine.kernels.bitmask import pack_bitmask


def test_pack_bitmask_is_little_endian():
    is_allowed = torch.zeros(34, dtype=torch.bool)
    is_allowed[[1, 31, 33]] = True
    assert pack_bitmask(is_allowed).tolist() == [2 - (1 << 31), 2]


@pytest.mark.parametrize("num_entries", [1, 32, 63, 1000])
def test_every_bit_comes_back(num_entries):
    is_allowed = torch.rand(3, num_entries) < 0.5
    words = pack_bitmask(is_allowed)
    assert words.shape == (3, -(-num_entries // 32))
    bits = (words[..., None] >> torch.arange(32)) & 1
    assert torch.equal(bits.flatten(1)[:, :num_entries].bool(), is_allowed)
    assert not bits.flatten(1)[:, num_entries:].any()
