"""The pretended device itself: it refuses what a GPU refuses, and counts what a GPU does."""

import pytest
import torch
from pretended_device import DEVICE, DeviceTensor, pretended_device
from torch import nn


@pytest.fixture
def gpu():
    with pretended_device() as device:
        yield device


MIXES = {
    "sum": lambda x, y: x + y,
    "product": lambda x, y: x @ y,
    "in place": lambda x, y: x.add_(y),
    "cat": lambda x, y: torch.cat([x, y]),
    "out": lambda x, y: torch.add(x, x, out=y),
    "gather": lambda x, y: x.gather(0, y.long()),
    "assignment": lambda x, y: x.index_put_((torch.zeros(1, dtype=torch.int64),), y),
    "index of the other": lambda x, y: y[x.long()],
}


@pytest.mark.parametrize("mix", MIXES.values(), ids=MIXES)
@pytest.mark.parametrize("is_inference", [False, True], ids=["grad", "inference"])
def test_mixed_devices_are_refused(gpu, mix, is_inference):
    with torch.inference_mode(is_inference), pytest.raises(RuntimeError, match="mixes devices"):
        mix(torch.zeros(2, 2).to(DEVICE), torch.zeros(2, 2))


def test_a_number_and_an_index_of_the_host_are_welcome(gpu):
    x = torch.arange(4.0).to(DEVICE)
    y = x * torch.tensor(2.0)
    y = y[torch.tensor([3, 1])]
    assert y.device == DEVICE
    assert y.cpu().tolist() == [6.0, 2.0]
    assert sum(gpu.copies.values()) == 3  # there, the index, back


WAITING = {
    "item": lambda x: x.sum().item(),
    "bool": lambda x: bool(x.any()),
    "nonzero": lambda x: x.nonzero(),
    "mask": lambda x: x[x > 0],
    "cpu": lambda x: x.cpu(),
    "list": lambda x: x.tolist(),
    "bincount": lambda x: x.bincount(),
    "lengths": lambda x: x.repeat_interleave(x),
}


@pytest.mark.parametrize("use", WAITING.values(), ids=WAITING)
@pytest.mark.parametrize("is_inference", [False, True], ids=["grad", "inference"])
def test_a_wait_is_counted(gpu, use, is_inference):
    with torch.inference_mode(is_inference):
        x = torch.tensor([0, 2, 1], device=DEVICE)
        assert not gpu.waits
        use(x)
    assert sum(gpu.waits.values()) == 1


def test_views_launch_nothing(gpu):
    x = torch.ones(4, 6, device=DEVICE)
    assert gpu.launches == {"ones": 1}
    x.view(2, 12)[:, 3:].transpose(0, 1).unsqueeze(0).expand(5, -1, -1)
    assert gpu.launches == {"ones": 1}


def test_gradients_are_the_hosts(gpu):
    torch.manual_seed(0)
    module, x = nn.Sequential(nn.Linear(3, 4), nn.SiLU(), nn.Linear(4, 1)), torch.randn(5, 3)
    module(x).sum().backward()
    want = [p.grad.clone() for p in module.parameters()]
    module.zero_grad()
    gpu.put(module)(x.to(DEVICE)).sum().backward()
    for parameter, grad in zip(module.parameters(), want, strict=True):
        assert isinstance(parameter.grad, DeviceTensor)
        torch.testing.assert_close(parameter.grad.host, grad)
