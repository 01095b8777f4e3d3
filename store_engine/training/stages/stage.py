"""What a stage of training is.

A stage is a pure function of the config, the data and the step; `loop.train_stage` does the rest.
A step is sharded over all ranks and micro-batches. Losses are normalised by the counts of the whole
step, so that its gradient does not depend on the number of shards.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn


class StepLoss(NamedTuple):
    """The loss of one shard of a step."""

    total: Tensor  # scalar; its mean over all shards is the step's loss
    sums: Tensor  # (num_losses,) float32, detached
    counts: Tensor  # (num_losses,) float32, number of terms in each sum
    work: Tensor  # (2,) float64, real tokens and the FLOPs that forward and backward need
    losses: Tensor  # (num_targets,) float32, detached; NaN where a target is none


class Stage(Protocol):
    """What the training loop needs to know."""

    name: str
    losses: tuple[str, ...]  # what the log calls the parts of the loss
    num_steps: int
    steps_per_epoch: int
    lr: float

    def build(self) -> nn.Module:
        """Makes the module with fresh weights."""

    def batch(self, step: int, shard: int, num_shards: int) -> Any:
        """Makes one shard of the step's batch."""

    def loss(self, module: Callable[..., Any], batch: Any, num_shards: int) -> StepLoss:
        """Computes the loss of one shard."""


def sums_by_task(losses: Tensor, tasks: Tensor, num_tasks: int) -> Tensor:
    """Sums the losses of each task: (num_tasks,) float32."""
    return torch.zeros(num_tasks, device=losses.device).index_add_(0, tasks, losses.detach())


def work_of(num_tokens: int, num_flops: float) -> Tensor:
    """Returns the `StepLoss.work` of a shard."""
    return torch.tensor([num_tokens, num_flops], dtype=torch.float64)
