"""The optimiser steps of a stage, and their metrics.

A GPU runs behind the host, and must not wait for it. So a step's metrics are added up on the device
and copied without a wait; the host reads them when it has already handed over the next step.
"""

import math
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from store_engine.config import Config, TrainConfig
from store_engine.training.host_batch import HostBatch, prefetched
from store_engine.training.randomness import seed_torch
from store_engine.training.stages.stage import Stage
from store_engine.training.throughput import peak_flops

# a GPU's batches are padded to a multiple of this: few shapes to compile and to allocate for, and
# of a step of 8,192 tokens at most 3 % padding
_TOKENS = 256


class DoneStep(NamedTuple):
    """A step that is over."""

    number: int  # counted from 1
    metrics: dict[str, float]  # the same on every rank
    is_stop_asked: bool  # by any rank


class _PendingStep(NamedTuple):
    """A step whose metrics are on their way."""

    number: int
    began: float
    rate: float
    totals: Tensor  # on the host, once they are copied
    copied: torch.cuda.Event | None
    losses: list[Tensor]  # of the targets of each of this rank's micro-batches, on the device

    def why_not_finite(self) -> str:
        """Names this rank's first target with a bad loss; waits for the device."""
        for i, losses in enumerate(self.losses):
            bad = (~losses.isfinite()).nonzero()
            if len(bad):
                where = f"target {int(bad[0])} of micro-batch {i}"
                return f": {where} is the first of {len(bad)} that are bad, or that overflow"
        return ""

    def wait(self) -> list[float]:
        if self.copied is not None:
            self.copied.synchronize()
        totals: list[float] = self.totals.tolist()
        return totals


class TrainSteps:
    """Runs a stage's steps in order; every rank does.

    Args:
        engine: DeepSpeed's.
        stage: Batches and losses.
        config: The run's config.
        first_step: Steps done before.
    """

    def __init__(self, engine: Any, stage: Stage, config: Config, first_step: int = 0) -> None:
        self._engine, self._stage, self._config = engine, stage, config
        self._step, self._read_at = first_step, 0.0
        self._rank, self._num_ranks = (
            torch.distributed.get_rank(),
            torch.distributed.get_world_size(),
        )
        self._num_parts = engine.gradient_accumulation_steps()
        self._peak = peak_flops(next(engine.module.parameters()).dtype, engine.device)
        self._pending: deque[_PendingStep] = deque()
        self._is_ahead = engine.device.type != "cpu"
        batches = self._batches(first_step)
        self._next = prefetched(batches, engine.device) if self._is_ahead else batches

    def close(self) -> None:
        """Makes no more batches ahead."""
        self._next.close()

    def _batches(self, first_step: int) -> Generator[HostBatch]:
        """This rank's shards of all steps to come."""
        num_shards = self._num_ranks * self._num_parts
        for step in range(first_step, self._stage.num_steps):
            for i in range(self._num_parts):
                shard = self._stage.batch(step, i * self._num_ranks + self._rank, num_shards)
                if self._is_ahead:
                    shard = shard.padded(_TOKENS)
                yield HostBatch(shard, self._engine.device)

    def run(self, is_stop_asked: Callable[[], bool] = lambda: False) -> None:
        """Hands the next step over to the device.

        Args:
            is_stop_asked: Says at the step's end whether this rank is to stop; all ranks hear of it
                by the `DoneStep`.
        """
        began, engine, stage = time.perf_counter(), self._engine, self._stage
        num_shards = self._num_ranks * self._num_parts
        rate = learning_rate(self._config.train, stage.lr, self._step, stage.num_steps)
        for group in engine.optimizer.param_groups:
            group["lr"] = rate
        # the step's randomness is a function of the step: resuming needs no saved generator
        seed_torch(self._config.train.seed, stage.name, self._step, self._rank)
        sums = torch.zeros(3 + 2 * len(stage.losses), dtype=torch.float64, device=engine.device)
        losses = []
        for _ in range(self._num_parts):
            loss = stage.loss(engine, next(self._next).to_device(), num_shards)
            engine.backward(loss.total)
            engine.step()
            mean = loss.total.detach().double().view(1) / num_shards
            sums += torch.cat([mean, loss.work, loss.sums, loss.counts])
            losses.append(loss.losses)
        totals = F.pad(sums, (0, 1), value=float(is_stop_asked()))
        torch.distributed.all_reduce(totals)
        totals, copied = totals.to("cpu", non_blocking=True), None
        if engine.device.type == "cuda":
            copied = torch.cuda.Event()
            copied.record()
        self._step += 1
        self._pending.append(_PendingStep(self._step, began, rate, totals, copied, losses))

    def done(self, all_steps: bool = False) -> Iterator[DoneStep]:
        """Yields the steps that are over and were not yielded before.

        Args:
            all_steps: Waits for the last one too, whose successor has not been handed over.

        Raises:
            FloatingPointError: The loss of a step is not finite.
        """
        while len(self._pending) > (self._is_ahead and not all_steps):
            yield self._read(self._pending.popleft())

    def _read(self, step: _PendingStep) -> DoneStep:
        mean_loss, num_tokens, num_flops, *rest, num_asked = step.wait()
        if not math.isfinite(mean_loss):
            raise FloatingPointError(
                f"{self._stage.name}: the loss of step {step.number} is {mean_loss}"
                + step.why_not_finite()
            )
        now = time.perf_counter()
        # of a step that was handed over while another ran, its own share
        wall_s, self._read_at = now - max(step.began, self._read_at), now
        names = self._stage.losses
        parts = zip(names, rest[: len(names)], rest[len(names) :], strict=True)
        metrics = {
            "loss": mean_loss,
            **{name: total / count for name, total, count in parts if count},
            "lr": step.rate,
            "tokens_per_s": num_tokens / wall_s,
            "share_of_peak": num_flops / wall_s / (self._num_ranks * self._peak),
            "wall_s": wall_s,
        }
        return DoneStep(step.number, metrics, num_asked > 0)


def learning_rate(train: TrainConfig, peak: float, step: int, num_steps: int) -> float:
    """Computes the rate of a step: warm-up, then `cosine` or `wsd` to `min_lr` of the peak.

    `wsd` (warm-up, stable, decay) stays at the peak and falls in a straight line over the last
    `decay` of the steps. Source: MiniCPM, https://arxiv.org/abs/2404.06395.
    """
    warmup = max(1, round(train.warmup * num_steps))
    if step < warmup:
        return peak * (step + 1) / warmup
    if train.schedule == "wsd":
        decay = max(1, round(train.decay * num_steps))
        height = min(1.0, (num_steps - step) / decay)
    else:
        progress = (step - warmup) / max(1, num_steps - warmup)
        height = 0.5 * (1 + math.cos(math.pi * progress))
    return peak * (train.min_lr + (1 - train.min_lr) * height)
