"""The training loop, one for both stages."""

import math
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from store_engine.config import Config, TrainConfig
from store_engine.errors import InputError
from store_engine.model.attention import PackedSequences
from store_engine.training.checkpoint import (
    Position,
    last_position,
    load_checkpoint,
    save_checkpoint,
)
from store_engine.training.deepspeed_setup import (
    fill_parameters,
    full_weights,
    initialize,
    zero_init,
)
from store_engine.training.interruption import InterruptedTraining, StopRequest
from store_engine.training.log import TrainLog
from store_engine.training.lora import add_lora, merge_lora
from store_engine.training.stages import Stage


def train_stage(
    stage: Stage,
    config: Config,
    ds_config: dict[str, Any],
    run_dir: Path,
    initial: Iterable[tuple[str, Tensor]] = (),
) -> dict[str, Tensor]:
    """Trains a stage to its end, going on from its last checkpoint if there is one.

    Args:
        stage: Batches and losses.
        config: The run's config.
        ds_config: DeepSpeed's config, complete (`read_ds_config`).
        run_dir: The run directory; checkpoints and the log go there.
        initial: Weights to start from, with their names; others keep their initialisation.

    Returns:
        The trained weights by name, whole and float32, on every rank.

    Raises:
        InputError: The last checkpoint is damaged or was written by another number of ranks.
        FloatingPointError: The loss is not finite; the last checkpoint stays.
        InterruptedTraining: SIGTERM came; a checkpoint was saved.
    """
    rank, num_ranks = torch.distributed.get_rank(), torch.distributed.get_world_size()
    checkpoints = run_dir / "checkpoints" / stage.name
    position = last_position(checkpoints)
    if position is not None and position.num_ranks != num_ranks:
        raise InputError(
            f"{checkpoints}: written by {position.num_ranks} ranks, resumed with {num_ranks}; "
            f"start as many as before"
        )
    torch.manual_seed(config.train.seed)
    with zero_init(ds_config):
        module = stage.build()
    fill_parameters(module, initial)
    if config.train.lora_rank:
        add_lora(module, config.train)
    engine = initialize(module, ds_config, config.train, stage.lr)
    first_step = 0
    if position is not None:
        load_checkpoint(engine, checkpoints)
        first_step = position.step
    engine.train()
    log_path = run_dir / "train_log.jsonl"
    with (
        TrainLog(log_path, stage.name, first_step, stage.num_steps, is_silent=rank > 0) as log,
        StopRequest(engine.device) as stop,
    ):
        for step in range(first_step, stage.num_steps):
            log.step(step + 1, train_step(engine, stage, config, step))
            is_due = (step + 1) % config.train.save_every == 0 or step + 1 == stage.num_steps
            must_stop = stop.is_asked()
            if is_due or must_stop:
                save_checkpoint(engine, checkpoints, Position(stage.name, step + 1, num_ranks))
            if must_stop:
                raise InterruptedTraining(f"{stage.name}: stopped after step {step + 1}, saved")
    weights = merge_lora(full_weights(engine), config.train)
    engine.destroy()
    return weights


def train_step(engine: Any, stage: Stage, config: Config, step: int) -> dict[str, float]:
    """One optimiser step; returns its figures, the same on every rank.

    Raises:
        FloatingPointError: The loss is not finite.
    """
    began = time.perf_counter()
    rank, num_ranks = torch.distributed.get_rank(), torch.distributed.get_world_size()
    accumulation = engine.gradient_accumulation_steps()
    num_parts = num_ranks * accumulation
    # the step's randomness is a function of the step: resuming needs no saved generator
    seeds = np.random.SeedSequence([config.train.seed, *stage.name.encode(), step, rank])
    torch.manual_seed(int(seeds.generate_state(1)[0]))
    rate = learning_rate(config.train, stage.lr, step, stage.num_steps)
    for group in engine.optimizer.param_groups:
        group["lr"] = rate
    totals = torch.zeros(2 + 2 * len(stage.tasks), dtype=torch.float64)
    for i in range(accumulation):
        batch = _to_device(stage.batch(step, i * num_ranks + rank, num_parts), engine.device)
        loss = stage.loss(engine, batch, num_parts)
        engine.backward(loss.total)
        engine.step()
        totals[0] += loss.total.item() / num_parts
        totals[1] += loss.num_tokens
        totals[2:] += torch.cat([loss.sums, loss.counts]).cpu()
    totals = totals.to(engine.device)
    torch.distributed.all_reduce(totals)
    totals = totals.cpu()
    mean_loss, num_tokens = totals[0].item(), totals[1].item()
    if not math.isfinite(mean_loss):
        raise FloatingPointError(f"{stage.name}: the loss of step {step + 1} is {mean_loss}")
    sums, counts = totals[2:].view(2, -1)
    wall_s = time.perf_counter() - began
    by_task = zip(stage.tasks, (sums / counts.clamp(min=1)).tolist(), counts.tolist(), strict=True)
    return {
        "loss": mean_loss,
        **{task: loss for task, loss, count in by_task if count},
        "lr": rate,
        "tokens_per_s": num_tokens / wall_s,
        "wall_s": wall_s,
    }


def _to_device(batch: Any, device: torch.device) -> Any:
    """Moves the tensors and sequences of a batch, a tuple of tuples, to where the model is."""
    if isinstance(batch, Tensor | PackedSequences):
        return batch.to(device)
    if isinstance(batch, tuple):
        moved = [_to_device(part, device) for part in batch]
        return type(batch)(*moved) if hasattr(batch, "_fields") else tuple(moved)
    return batch


def learning_rate(train: TrainConfig, peak: float, step: int, num_steps: int) -> float:
    """Linear warm-up, then a cosine down to `min_lr` of the peak."""
    warmup = max(1, round(train.warmup * num_steps))
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = (step - warmup) / max(1, num_steps - warmup)
    return peak * (train.min_lr + (1 - train.min_lr) * 0.5 * (1 + math.cos(math.pi * progress)))
