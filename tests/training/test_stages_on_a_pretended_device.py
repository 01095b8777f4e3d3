"""Both stages, forward and backward, on a pretended device: no operation mixes devices."""

import pytest
import torch
from pretended_device import DeviceTensor, pretended_device

from store_engine.training.loop import _to_device
from store_engine.training.stages import Stage

pytestmark = pytest.mark.usefixtures("process_group")


def loss_and_gradients(stage: Stage, device=None):
    torch.manual_seed(0)
    module = stage.build()
    batch = stage.batch(1, 0, 2)
    if device is not None:
        device.put(module)
        batch = _to_device(batch, next(module.parameters()).device)
    loss = stage.loss(module, batch, 2)
    loss.total.backward()
    return loss, {name: p.grad for name, p in module.named_parameters()}


@pytest.mark.parametrize("name", ["tokenizer", "recommender", "all tasks"])
def test_a_step_of_a_stage_mixes_no_devices(name, stages, all_tasks, record_property):
    stage = {"tokenizer": stages[1], "recommender": stages[2], "all tasks": all_tasks}[name]
    want, want_gradients = loss_and_gradients(stage)
    with pretended_device() as gpu:
        got, gradients = loss_and_gradients(stage, gpu)
        report = gpu.report(name)
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
