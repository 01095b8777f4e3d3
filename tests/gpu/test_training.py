"""Both stages on a pretended device: no operation mixes devices, losses are those of the CPU.

The budgets are what a step asks of the device today: copies and waits may become fewer, not more.
"""

import collections
import functools
from contextlib import closing

import pytest
import torch
from pretended_device import DEVICE, DeviceTensor, pretended_device
from stages import ALL_TASKS, ITEMS, make_stages

from store_engine.collaborative.partners import Partners
from store_engine.config import TrainConfig
from store_engine.data.load import load_dataset
from store_engine.data.split import leave_one_out
from store_engine.kernels.linear_cross_entropy import linear_cross_entropy
from store_engine.model import store_model
from store_engine.model.lora import add_lora
from store_engine.training import steps
from store_engine.training.host_batch import HostBatch
from store_engine.training.stages.stage import Stage
from store_engine.training.stages.tokenizer import TokenizerStage
from store_engine.training.steps import TrainSteps

pytestmark = pytest.mark.usefixtures("process_group")
NUM_PARTS = 8  # a small part of a step: the interpreter is slow
ITEM_ROWS = ("tokenizer.last_level=item", "recommender.tie_items=false")
MOST_WAITS = 2
# the options of a stage -> launches and copies of a step with two micro-batches
CASES = {
    "tokenizer": ((), (840, 7)),
    "partners": ((), (890, 7)),
    "recommender": ((), (530, 3)),
    "all tasks": (ALL_TASKS, (550, 5)),
    "heads": (ITEMS, (870, 11)),
    "item rows": (ITEM_ROWS, (690, 3)),
    "skip": (("recommender.skip=true", "model.dropout=0.1"), (580, 3)),
    "checkpointed": (("train.activation_checkpointing=true",), (610, 3)),
    "plain loss": (("train.fused_loss=false",), (490, 7)),
    "adapters": ((), (720, 3)),
}
ADAPTERS = TrainConfig(lora_rank=2, lora_dropout=0.1)


@functools.cache
def stage_named(name: str) -> Stage:
    """The stage of a case; its data and its plans are made once."""
    config, tokenizer, recommender = make_stages(CASES[name][0])
    if name == "partners":
        dataset = load_dataset(config.data)
        train = leave_one_out(dataset.histories).train
        partners = Partners(train, dataset.catalog.num_items, config.evidence)
        return TokenizerStage(config, tokenizer.texts, tokenizer.text_vocab_size, partners)
    return tokenizer if name == "tokenizer" else recommender


def build(name: str, device=None):
    """A stage's module with fresh weights, which are the same on every device."""
    torch.manual_seed(0)
    module = stage_named(name).build()
    if name == "adapters":
        add_lora(module, ADAPTERS)
    return module if device is None else device.put(module)


def loss_and_gradients(name: str, device=None):
    stage = stage_named(name)
    module, batch = build(name, device).eval(), stage.batch(1, 0, NUM_PARTS)
    if device is not None:
        batch = HostBatch(batch, DEVICE).to_device()
    loss = stage.loss(module, batch, NUM_PARTS)
    loss.total.backward()
    return loss, {name: p.grad for name, p in module.named_parameters()}


@pytest.mark.parametrize(
    ("name", "backend"),
    [(name, "torch") for name in CASES]
    + [(name, "triton") for name in ("tokenizer", "recommender", "all tasks")],
)
def test_losses_and_gradients_are_those_of_the_cpu(name, backend, monkeypatch, record_property):
    if backend == "triton" and torch.cuda.is_available():
        pytest.skip("there is a GPU: kernels are compiled")
    want, want_gradients = loss_and_gradients(name)
    chosen = functools.partial(linear_cross_entropy, backend=backend)
    monkeypatch.setattr(store_model, "linear_cross_entropy", chosen)
    with pretended_device() as gpu:
        got, gradients = loss_and_gradients(name, gpu)
        report = gpu.report(f"{name}, {backend}")
        kernels = ("_linear_cross_entropy_fwd_kernel", "_cross_entropy_rows_kernel")
        num_kernels = sum(gpu.launches[kernel] for kernel in kernels)
    assert (num_kernels > 0) == (backend == "triton")
    print(report)
    record_property("device", report)
    torch.testing.assert_close(got.total.host, want.total)
    assert torch.equal(got.work.host, want.work)
    for parameter, gradient in gradients.items():
        want_gradient = want_gradients[parameter]
        assert (gradient is None) == (want_gradient is None), parameter
        if gradient is not None:
            assert isinstance(gradient, DeviceTensor), parameter
            torch.testing.assert_close(gradient.host, want_gradient, atol=1e-5, rtol=1e-4)


class PlainEngine:
    """What the loop asks of DeepSpeed's engine, in plain PyTorch, with two micro-batches."""

    def __init__(self, module, device):
        self.module, self.device = module.train(), device
        trained = [p for p in module.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, foreach=False)
        self._num_batches = 0

    def __call__(self, *batch):
        return self.module(*batch)

    def gradient_accumulation_steps(self):
        return 2

    def backward(self, loss):
        (loss / 2).backward()

    def step(self):
        self._num_batches += 1
        if self._num_batches % 2 == 0:
            self.optimizer.step()
            self.optimizer.zero_grad()


def train(name: str, device=None):
    """The metrics of two steps; with a device, the last alone is counted."""
    stage, place = stage_named(name), torch.device("cpu") if device is None else DEVICE
    engine, metrics = PlainEngine(build(name, device), place), []
    with closing(TrainSteps(engine, stage, stage.config)) as todo:
        for step in range(2):
            if device is not None:
                device.forget()
            todo.run()
            for done in todo.done(all_steps=step == 1):
                found = {part: done.metrics[part] for part in ("loss", "lr", *stage.losses)}
                metrics.append(found)
    return metrics


@pytest.mark.parametrize("backend", ["torch", "triton"])
@pytest.mark.parametrize("per_row", [False, True], ids=["one slice", "slices"])
def test_a_bad_target_has_no_loss_and_makes_nobody_wait(backend, per_row):
    hidden, weight = torch.randn(6, 8), torch.randn(10, 8)
    targets = torch.tensor([1, 99, -100, 3, -5, 0])
    bounds = (torch.tensor([0, 0, 0, 2, 0, 0]), torch.tensor([4, 4, 4, 4, 4, 99]))
    bounds = bounds if per_row else (0, 4)
    is_bad = torch.tensor([False, True, False, False, True, per_row])
    kept = targets.masked_fill(is_bad, -100)
    inputs = [x.clone().requires_grad_() for x in (hidden, weight)]
    want = linear_cross_entropy(*inputs, kept, *bounds, reduction="none")
    gradients = torch.autograd.grad(want.sum(), inputs)
    with pretended_device() as gpu:
        moved = [x.to(DEVICE).requires_grad_() for x in (hidden, weight)]
        bounds = [x.to(DEVICE) for x in bounds] if per_row else bounds
        targets, gpu.waits = targets.to(DEVICE), collections.Counter()
        got = linear_cross_entropy(*moved, targets, *bounds, reduction="none", backend=backend)
        if backend == "triton":
            assert not gpu.waits
        assert torch.equal(got.host.isnan(), is_bad)
        found = torch.autograd.grad(got.nansum(), moved)
        torch.testing.assert_close(got.host.nan_to_num(0), want.detach())
        for gradient, wanted in zip(found, gradients, strict=True):
            torch.testing.assert_close(gradient.host, wanted)


def test_a_bad_target_is_named_when_its_step_is_read(monkeypatch):
    monkeypatch.setattr(steps, "peak_flops", lambda dtype, device: 1e12)
    stage = stage_named("recommender")
    make, order = stage.batch, []

    def spoilt(*args):
        batch = make(*args)
        order.append(int(batch.targets.codes.order[7]))
        batch.targets.codes.ids[7] = 10**6
        return batch

    monkeypatch.setattr(stage, "batch", spoilt)
    with pretended_device() as gpu:
        engine = PlainEngine(build("recommender", gpu), DEVICE)
        with closing(TrainSteps(engine, stage, stage.config)) as todo:
            todo.run()
            with pytest.raises(FloatingPointError) as error:
                list(todo.done(all_steps=True))
    assert f"is nan: target {order[0]} of micro-batch 0 is the first of 1" in str(error.value)


@pytest.mark.parametrize("name", CASES)
def test_a_step_of_the_optimiser_keeps_its_budget(name, monkeypatch, record_property):
    monkeypatch.setattr(steps, "peak_flops", lambda dtype, device: 1e12)
    overrides, (most_launches, most_copies) = CASES[name]
    if "model.dropout=0.1" in overrides:  # masks of a padded batch are others
        monkeypatch.setattr(steps, "_TOKENS", 1)
    want = train(name)
    with pretended_device() as gpu:
        got = train(name, gpu)
        launches, copies, waits = (sum(c.values()) for c in (gpu.launches, gpu.copies, gpu.waits))
        report = gpu.report(name)
        where = f"{report}: waits {dict(gpu.waits)}, copies {dict(gpu.copies)}"
    print(report)
    record_property("device", report)
    assert got == [pytest.approx(metrics, rel=2e-4) for metrics in want]
    assert copies <= most_copies, where
    assert waits <= MOST_WAITS, where
    assert launches <= most_launches, where
