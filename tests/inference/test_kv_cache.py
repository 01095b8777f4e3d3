import pytest
import torch

from store_engine.config import ModelConfig
from store_engine.inference.kv_cache import KVCache

CONFIG = ModelConfig(
    hidden_size=32, num_layers=3, num_heads=4, num_kv_heads=2, head_dim=8, intermediate_size=48
)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_layout_of_a_batch(dtype):
    cache, lengths = KVCache(CONFIG, torch.device("cpu"), dtype), torch.tensor([5, 1, 9])
    cache.start(lengths, num_tree_slots=7)
    assert cache.layers.shape == (3, 2, 3, 9 + 7, 2, 8)
    assert cache.layers.dtype == dtype
    assert cache.first_tree_slot == 9
    assert cache.context_lengths.tolist() == cache.device_lengths.tolist() == [5, 1, 9]
    assert not cache.layers.any()


def test_memory_grows_and_is_kept():
    cache, held = KVCache(CONFIG, torch.device("cpu"), torch.float32), []
    for lengths, num_tree_slots in (([4], 2), ([30, 30], 10), ([1], 0), ([30, 30], 10)):
        cache.start(torch.tensor(lengths), num_tree_slots)
        held.append(cache.nbytes)
        assert cache.layers.nbytes <= cache.nbytes
    assert held == [held[0], held[1], held[1], held[1]]
    assert held[0] == 3 * 2 * (4 + 2) * 2 * 8 * 4
