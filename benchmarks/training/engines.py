"""What runs a training step: DeepSpeed, or plain PyTorch in its place."""

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks import ROOT
from benchmarks.training.task import Task
from store_engine.config import TrainConfig


class PlainEngine:
    """What DeepSpeed's engine does for one process, in plain PyTorch."""

    def __init__(self, module: nn.Module) -> None:
        self._module = module.train()
        self._optimizer = torch.optim.AdamW(module.parameters(), lr=1e-4, fused=True)

    def __call__(self, *batch: Any) -> Tensor:
        """The loss."""
        loss: Tensor = self._module(*batch)
        return loss

    def backward(self, loss: Tensor) -> None:
        """Adds the gradients."""
        loss.backward()

    def step(self) -> None:
        """Clips the gradients, updates the weights and drops the gradients."""
        nn.utils.clip_grad_norm_(self._module.parameters(), TrainConfig().grad_clip)
        self._optimizer.step()
        self._optimizer.zero_grad()


@contextlib.contextmanager
def engine_of(task: Task, module: nn.Module) -> Iterator[Any]:
    """DeepSpeed's engine, or the plain one where DeepSpeed is not installed."""
    if not task.has_deepspeed:
        yield PlainEngine(module)
        return
    # DeepSpeed takes a GPU where there is one, unless this says otherwise
    os.environ["DS_ACCELERATOR"] = torch.device(task.device).type
    from store_engine.training.distributed.deepspeed_setup import initialize, read_ds_config
    from store_engine.training.distributed.process_group import process_group

    train = TrainConfig(dtype=task.dtype)  # type: ignore[arg-type]
    with process_group():
        engine = initialize(
            module, read_ds_config(ROOT / "configs" / "zero0.json", train), train, lr=1e-4
        )
        engine.train()
        yield engine
