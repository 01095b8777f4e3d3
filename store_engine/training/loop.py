"""The training loop, one for both stages."""

import math
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from store_engine.config import Config, TrainConfig
from store_engine.errors import InputError
from store_engine.model.attention import PackedSequences
from store_engine.model.lora import add_lora, merge_lora
from store_engine.training.checkpoint import (
    Position,
    last_position,
    load_checkpoint,
    save_checkpoint,
    universal_config,
)
from store_engine.training.deepspeed_setup import (
    fill_parameters,
    full_weights,
    initialize,
    zero_init,
)
from store_engine.training.interruption import InterruptedTraining, StopRequest
from store_engine.training.log import TrainLog
from store_engine.training.randomness import seed_torch
from store_engine.training.stages import Stage
from store_engine.training.throughput import matmul_peak


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
        InputError: The last checkpoint is damaged or was written under another ZeRO stage, or
            the next one cannot be written.
        FloatingPointError: The loss or a weight is not finite; the last checkpoint stays.
        InterruptedTraining: SIGTERM came; a checkpoint was saved.
    """
    rank, num_ranks = torch.distributed.get_rank(), torch.distributed.get_world_size()
    checkpoints = run_dir / "checkpoints" / stage.name
    position = last_position(checkpoints)
    zero_stage = ds_config.get("zero_optimization", {}).get("stage", 0)
    if position is not None:
        if position.zero_stage != zero_stage:
            raise InputError(
                f"{checkpoints}: written under ZeRO-{position.zero_stage}, resumed with "
                f"ZeRO-{zero_stage}; go on with the --ds_config of before"
            )
        ds_config = universal_config(ds_config, position, num_ranks)
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
    log = TrainLog(
        run_dir / "train_log.jsonl",
        stage.name,
        first_step,
        stage.num_steps,
        is_silent=rank > 0,
        tensorboard=config.train.tensorboard,
    )
    with log, StopRequest(engine.device) as stop:
        for step in range(first_step, stage.num_steps):
            log.step(step + 1, train_step(engine, stage, config, step))
            is_due = (step + 1) % config.train.save_every == 0 or step + 1 == stage.num_steps
            must_stop = stop.is_asked()
            if is_due or must_stop:
                _check_weights(engine, f"{stage.name}: after step {step + 1}")
                position = Position(stage.name, step + 1, num_ranks, zero_stage)
                save_checkpoint(engine, checkpoints, position)
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
    num_shards = num_ranks * accumulation
    rate = learning_rate(config.train, stage.lr, step, stage.num_steps)
    for group in engine.optimizer.param_groups:
        group["lr"] = rate
    peak = matmul_peak(next(engine.module.parameters()).dtype, engine.device)
    totals = torch.zeros(3 + 2 * len(stage.tasks), dtype=torch.float64)
    # the step's randomness is a function of the step: resuming needs no saved generator
    seed_torch(config.train.seed, stage.name, step, rank)
    for i in range(accumulation):
        batch = _to_device(stage.batch(step, i * num_ranks + rank, num_shards), engine.device)
        loss = stage.loss(engine, batch, num_shards)
        engine.backward(loss.total)
        engine.step()
        totals[0] += loss.total.item() / num_shards
        totals[1] += loss.num_tokens
        totals[2] += loss.num_flops
        totals[3:] += torch.cat([loss.sums, loss.counts]).cpu()
    totals = totals.to(engine.device)
    torch.distributed.all_reduce(totals)
    totals = totals.cpu()
    mean_loss, num_tokens, num_flops = totals[:3].tolist()
    if not math.isfinite(mean_loss):
        raise FloatingPointError(f"{stage.name}: the loss of step {step + 1} is {mean_loss}")
    sums, counts = totals[3:].view(2, -1)
    wall_s = time.perf_counter() - began
    by_task = zip(stage.tasks, (sums / counts.clamp(min=1)).tolist(), counts.tolist(), strict=True)
    return {
        "loss": mean_loss,
        **{task: loss for task, loss, count in by_task if count},
        "lr": rate,
        "tokens_per_s": num_tokens / wall_s,
        "share_of_peak": num_flops / wall_s / (num_ranks * peak),
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
    """The rate of a step: linear warm-up, then `cosine` or `wsd` down to `min_lr` of the peak.

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


def _check_weights(engine: Any, when: str) -> None:
    """Refuses weights that are not finite: a loss shows them a step too late to keep them out.

    Raises:
        FloatingPointError: On every rank.
    """
    # under ZeRO-3 the rank's own part; what lies on NVMe is left to the loss
    held = (getattr(p, "ds_tensor", p) for p in engine.module.parameters())
    is_bad = torch.stack([~tensor.detach().isfinite().all() for tensor in held]).any().float()
    torch.distributed.all_reduce(is_bad)
    if is_bad.item() > 0:
        raise FloatingPointError(f"{when} a weight is not finite")
