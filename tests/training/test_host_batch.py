import threading

import pytest
import torch
from pretended_device import DEVICE, pretended_device

from store_engine.model.attention import PackedSequences
from store_engine.training.host_batch import HostBatch, prefetched

CPU = torch.device("cpu")


def test_a_batch_goes_to_the_device_in_one_copy():
    sequences = PackedSequences(torch.tensor([0, 3, 5]))
    parts = torch.arange(3), torch.tensor([True]), torch.zeros(0, 2), torch.tensor(0.5)
    batch = (sequences, (parts, 7), torch.rand(2, 3, dtype=torch.float64).T)
    with pretended_device() as gpu:
        moved = HostBatch(batch, DEVICE).to_device()
        assert sum(gpu.copies.values()) == 1
        assert not gpu.waits
    assert moved[0].device == DEVICE
    assert moved[0].positions.host.tolist() == [0, 1, 2, 0, 1]
    assert moved[1][1] == 7
    for got, want in zip((*moved[1][0], moved[2]), (*parts, batch[2]), strict=True):
        assert got.dtype == want.dtype
        assert torch.equal(got.host, want)


def test_on_a_cpu_nothing_is_copied():
    batch = (torch.zeros(2), None)
    assert HostBatch(batch, CPU).to_device() is batch


def test_the_next_batch_is_made_while_one_is_worked_with():
    is_made = [threading.Event() for _ in range(3)]

    def batches():
        for number, event in enumerate(is_made):
            event.set()
            yield number

    for number, batch in enumerate(prefetched(batches(), CPU)):
        assert number == batch
        if number < 2:
            assert is_made[number + 1].wait(10)


def test_what_goes_wrong_in_the_thread_is_raised_in_its_turn():
    def batches():
        yield 0
        raise ValueError("no such batch")

    ahead = prefetched(batches(), CPU)
    assert next(ahead) == 0
    with pytest.raises(ValueError, match="no such batch"):
        next(ahead)


def test_closing_ends_the_thread():
    before = threading.active_count()
    ahead = prefetched(iter(range(1000)), CPU)
    assert [next(ahead), next(ahead)] == [0, 1]
    ahead.close()
    assert threading.active_count() == before
