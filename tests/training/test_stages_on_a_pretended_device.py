"""Both stages, forward and backward, on a pretended device: no operation mixes devices."""

import functools

import pytest
import torch
from pretended_device import DeviceTensor, pretended_device

from store_engine.kernels.linear_cross_entropy import linear_cross_entropy
from store_engine.model import store_model
from store_engine.training.loop import _to_device
from store_engine.training.stages import Stage

pytestmark = pytest.mark.usefixtures("process_group")
NUM_PARTS = 8  # a small part of a step: the interpreter is slow


def loss_and_gradients(stage: Stage, device=None):
    torch.manual_seed(0)
    module = stage.build()
    batch = stage.batch(1, 0, NUM_PARTS)
    if device is not None:
        device.put(module)
        batch = _to_device(batch, next(module.parameters()).device)
    loss = stage.loss(module, batch, NUM_PARTS)
    loss.total.backward()
    return loss, {name: p.grad for name, p in module.named_parameters()}


@pytest.mark.parametrize("backend", ["torch", "triton"])
@pytest.mark.parametrize("name", ["tokenizer", "recommender", "all tasks"])
def test_a_step_of_a_stage_mixes_no_devices(
    name, backend, stages, all_tasks, monkeypatch, record_property
):
    if backend == "triton" and torch.cuda.is_available():
        pytest.skip("there is a GPU: kernels are compiled")
    stage = {"tokenizer": stages[1], "recommender": stages[2], "all tasks": all_tasks}[name]
    want, want_gradients = loss_and_gradients(stage)
    chosen = functools.partial(linear_cross_entropy, backend=backend)
    monkeypatch.setattr(store_model, "linear_cross_entropy", chosen)
    with pretended_device() as gpu:
        got, gradients = loss_and_gradients(stage, gpu)
        report = gpu.report(f"{name}, {backend}")
        num_kernels = sum(n for name, n in gpu.launches.items() if "cross_entropy" in name)
    assert (num_kernels > 0) == (backend == "triton")
    print(report)
    record_property("device", report)
    torch.testing.assert_close(got.total.host, want.total)
    assert got.num_flops == want.num_flops
    for parameter, gradient in gradients.items():
        want_gradient = want_gradients[parameter]
        assert (gradient is None) == (want_gradient is None), parameter
        if gradient is not None:
            assert isinstance(gradient, DeviceTensor), parameter
            torch.testing.assert_close(gradient.host, want_gradient, atol=1e-5, rtol=1e-4)
