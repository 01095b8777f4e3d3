import torch

from benchmarks.measuring.memory import ExtraPeak, resident_bytes


def test_what_was_freed_again_counts():
    memory = ExtraPeak("cpu")
    torch.ones(64 << 20, dtype=torch.int8)  # 64 MiB, at once freed
    assert 60 < memory.mib() < 100


def test_what_was_there_before_does_not_count():
    held = torch.ones(64 << 20, dtype=torch.int8)
    assert ExtraPeak("cpu").mib() < 30
    assert held.sum() == 64 << 20


def test_a_gpu_counts_its_own_memory(monkeypatch):
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda: None)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda: 5 << 20)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 12 << 20)
    assert ExtraPeak("cuda").mib() == 7.0


def test_what_is_held_is_resident():
    before = resident_bytes()
    held = torch.ones(64 << 20, dtype=torch.int8)
    assert 60 << 20 < resident_bytes() - before < 100 << 20
    assert held.sum() == 64 << 20
