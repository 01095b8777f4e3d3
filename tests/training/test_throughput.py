import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from store_engine.config import ModelConfig
from store_engine.model.attention import PackedSequences
from store_engine.model.store_model import StoreModel
from store_engine.model.targets import IGNORE, Targets
from store_engine.model.unified_vocabulary import UnifiedVocabulary
from store_engine.training import throughput
from store_engine.training.throughput import (
    head_columns,
    matmul_peak,
    peak_flops,
    training_flops,
)

CODEBOOKS = (5, 7)
VOCABULARY = UnifiedVocabulary(11, CODEBOOKS)


def test_flops_are_those_that_torch_counts():
    config = ModelConfig(32, 2, 4, 2, 8, 48, dropout=0.0)
    model = StoreModel(config, 11, CODEBOOKS)
    sequences = PackedSequences(torch.tensor([0, 1]))  # one token: attention is a single pair
    targets = torch.tensor([4])
    with FlopCounterMode(display=False) as counter:
        model(torch.tensor([3]), sequences, targets).sum().backward()
    sorted_targets = Targets.of(targets, VOCABULARY)
    ours = training_flops(config, sequences, head_columns(sorted_targets, VOCABULARY))
    assert ours == pytest.approx(counter.get_total_flops(), rel=0.02)


def test_attention_counts_every_pair_once():
    config = ModelConfig(32, 2, 4, 2, 8, 48)
    ours = [
        training_flops(config, PackedSequences(torch.tensor(c)), 0) for c in ([0, 4], [0, 2, 4])
    ]
    pairs = 10 - 6
    assert ours[0] - ours[1] == 3 * config.num_layers * 4 * 32 * pairs


def test_head_columns_are_those_of_each_targets_own_vocabulary():
    targets = torch.tensor([0, 10, IGNORE, 11, 15, 16, 22])
    columns = head_columns(Targets.of(targets, VOCABULARY), VOCABULARY)
    assert columns == 2 * 11 + 2 * 5 + 2 * 7


def test_the_peak_is_that_of_the_fastest_product(monkeypatch):
    """Eight products of 768 x 768, each with a clock of its own; the first warms up."""
    seconds = [4.0, 2.0, 3.0, 0.5, 2.0, 2.0, 2.0, 2.0]
    ticks = iter([tick for i, s in enumerate(seconds) for tick in (10.0 * i, 10.0 * i + s)])
    shapes, mm = [], torch.mm
    monkeypatch.setattr(throughput.time, "perf_counter", lambda: next(ticks))
    monkeypatch.setattr(torch, "mm", lambda a, b: (shapes.append((a.shape, b.shape)), mm(a, b))[1])
    matmul_peak.cache_clear()
    peak = matmul_peak(torch.float32, torch.device("cpu"))
    assert peak == 2 * 768**3 / 0.5
    assert shapes == [((768, 768), (768, 768))] * len(seconds)
    assert matmul_peak(torch.float32, torch.device("cpu")) == peak  # measured once
    matmul_peak.cache_clear()


@pytest.mark.parametrize(
    ("name", "dtype", "want"),
    [
        ("NVIDIA H100 80GB HBM3", torch.bfloat16, 989e12),
        ("NVIDIA H100 PCIe", torch.bfloat16, 756e12),
        ("NVIDIA A100-SXM4-80GB", torch.bfloat16, 312e12),
        ("NVIDIA A100-SXM4-80GB", torch.float32, 7.0),
        ("NVIDIA GeForce RTX 4090", torch.bfloat16, 7.0),
    ],
)
def test_the_peak_of_a_known_gpu_is_its_data_sheets(name, dtype, want, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    monkeypatch.setattr(throughput, "matmul_peak", lambda dtype, device: 7.0)
    assert peak_flops(dtype, torch.device("cuda")) == want
