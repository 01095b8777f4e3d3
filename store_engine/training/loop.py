"""The training loop, one for both stages."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from store_engine.config import Config, TrainConfig
from store_engine.errors import InputError
from store_engine.model.lora import add_lora, merge_lora
from store_engine.model.transformer import compile_layers
from store_engine.runs.run_paths import RunPaths
from store_engine.training.distributed.checkpoint import (
    load_checkpoint,
    read_best_weights,
    save_best_weights,
    save_checkpoint,
    universal_config,
)
from store_engine.training.distributed.deepspeed_setup import (
    fill_parameters,
    full_weights,
    initialize,
    is_compiled,
    zero_init,
)
from store_engine.training.distributed.process_group import (
    InterruptedTraining,
    StopRequest,
    wait_for_first,
)
from store_engine.training.distributed.progress import Best, TrainProgress, read_progress
from store_engine.training.log import VALIDATION, TrainLog, last_rise
from store_engine.training.stages.stage import Stage
from store_engine.training.steps import TrainSteps

Weights = dict[str, Tensor]  # whole and float32, by name


@dataclass(frozen=True)
class Training:
    """What a stage's training needs beside the stage.

    Args:
        config: The run's config.
        ds_config: DeepSpeed's config, complete (`read_ds_config`).
        run_dir: The run directory; checkpoints and the log go there.
        validate: Measures weights on validation data, the higher the better; every rank calls it
            every `train.eval_every` steps or epochs, and may do a share. None measures nothing.
    """

    config: Config
    ds_config: dict[str, Any]
    run_dir: Path
    validate: Callable[[Weights], float] | None = None

    def checkpoints(self, stage: Stage) -> Path:
        """Returns the folder of a stage's checkpoints."""
        return RunPaths(self.run_dir).checkpoints / stage.name


def train_stage(
    stage: Stage, training: Training, initial: Iterable[tuple[str, Tensor]] = ()
) -> Weights:
    """Trains a stage to its end, going on from its last checkpoint if there is one.

    Args:
        stage: Batches and losses.
        training: Everything else.
        initial: Weights to start from, with their names; others keep their initialisation.

    Returns:
        The trained weights by name, whole and float32, on every rank: the last ones, or with
        `train.keep = "best"` those that measured best.

    Raises:
        InputError: The last checkpoint is damaged or was written under another ZeRO stage, or
            the next one cannot be written.
        FloatingPointError: The loss or a weight is not finite; the last checkpoint stays.
        InterruptedTraining: SIGTERM or SIGINT came; a checkpoint was saved.
    """
    train, checkpoints = training.config.train, training.checkpoints(stage)
    eval_steps = train.eval_every * (stage.steps_per_epoch if train.eval_unit == "epochs" else 1)
    engine, progress = _open_engine(stage, training, initial)
    engine.train()
    log = TrainLog(
        RunPaths(training.run_dir).log,
        stage.name,
        progress.step,
        stage.num_steps,
        is_silent=torch.distributed.get_rank() > 0,
        tensorboard=train.tensorboard,
    )
    steps = TrainSteps(engine, stage, training.config, progress.step)
    with log, closing(steps), StopRequest() as stop, _say_what_is_kept(checkpoints):
        while progress.step < stage.num_steps and not _is_hopeless(progress, train):
            steps.run(stop.is_asked)
            progress = progress._replace(step=progress.step + 1)
            is_last = progress.step == stage.num_steps
            is_measured = training.validate and (progress.step % eval_steps == 0 or is_last)
            is_saved = progress.step % train.save_every == 0 or is_last
            must_stop = False
            for done in steps.done(is_measured or is_saved):
                if is_measured and done.number == progress.step:
                    with log.paused():
                        progress, score = _validate(engine, training, checkpoints, progress)
                    done.metrics[VALIDATION] = score
                log.step(done.number, done.metrics)
                must_stop = must_stop or done.is_stop_asked
            if must_stop:
                for done in steps.done(all_steps=True):
                    log.step(done.number, done.metrics)
            if is_saved or must_stop or _is_hopeless(progress, train):
                _check_weights(engine, progress)
                save_checkpoint(engine, checkpoints, progress)
            if must_stop:
                raise InterruptedTraining(
                    f"{stage.name}: stopped after step {progress.step}, saved"
                )
        if progress.best is not None:
            log.say(_in_words(progress, stage, train, last_rise(log.values(VALIDATION))))
    if train.keep == "best" and progress.best is not None:
        weights = read_best_weights(checkpoints, progress.best.step)
    else:
        weights = merge_lora(full_weights(engine), train)
    engine.destroy()
    return weights


@contextmanager
def _say_what_is_kept(checkpoints: Path) -> Iterator[None]:
    """Adds to the news of a loss or weight that is not finite what there is to go back to."""
    try:
        yield
    except FloatingPointError as error:
        saved = read_progress(checkpoints)
        kept = f"the checkpoint of step {saved.step} is kept" if saved else "there is no checkpoint"
        raise FloatingPointError(f"{error}; {kept}") from error


def _open_engine(
    stage: Stage, training: Training, initial: Iterable[tuple[str, Tensor]]
) -> tuple[Any, TrainProgress]:
    """Builds the engine, and loads the last checkpoint if there is one."""
    train, ds_config = training.config.train, training.ds_config
    zero_stage = ds_config.get("zero_optimization", {}).get("stage", 0)
    num_ranks, checkpoints = torch.distributed.get_world_size(), training.checkpoints(stage)
    now = TrainProgress(stage.name, 0, num_ranks, zero_stage, torch.get_num_threads())
    saved = read_progress(checkpoints)
    if saved is not None:
        if (saved.stage, saved.zero_stage) != (stage.name, zero_stage):
            raise InputError(
                f"{checkpoints}: stage {saved.stage}, written under ZeRO-{saved.zero_stage}, "
                f"resumed with ZeRO-{zero_stage}; go on with the --ds_config of before"
            )
        ds_config = universal_config(ds_config, saved, num_ranks)
    torch.manual_seed(train.seed)
    with zero_init(ds_config):
        module = stage.build()
    fill_parameters(module, initial)
    if train.lora_rank:
        add_lora(module, train)
    if is_compiled(train, zero_stage):
        compile_layers(module)
    engine = initialize(module, ds_config, train, stage.lr)
    if saved is None:
        return engine, now
    load_checkpoint(engine, checkpoints)
    return engine, now._replace(step=saved.step, best=saved.best)


def _validate(
    engine: Any, training: Training, checkpoints: Path, progress: TrainProgress
) -> tuple[TrainProgress, float]:
    """Measures the weights, and keeps them if they are the best so far. Every rank calls it."""
    assert training.validate is not None
    train, best = training.config.train, progress.best
    _check_weights(engine, progress)
    weights = merge_lora(full_weights(engine), train)
    score = torch.tensor(training.validate(weights), dtype=torch.float64)
    if torch.distributed.get_rank() == 0:
        is_better = best is None or score.item() > best.score
        if is_better and train.keep == "best":
            save_best_weights(weights, checkpoints, progress.step)
    wait_for_first(f"validation/{progress.stage}/{progress.step}")
    score = score.to(engine.device)
    torch.distributed.broadcast(score, 0)
    if best is None or score.item() > best.score:
        best = Best(progress.step, score.item(), num_worse=0)
    else:
        best = best._replace(num_worse=best.num_worse + 1)
    return progress._replace(best=best), score.item()


def _is_hopeless(progress: TrainProgress, train: TrainConfig) -> bool:
    """Whether validation has not improved for `train.patience` measurements."""
    return bool(train.patience and progress.best and progress.best.num_worse >= train.patience)


def _in_words(progress: TrainProgress, stage: Stage, train: TrainConfig, rise: float) -> str:
    """How the validation ended, and by how much it rose in its last interval."""
    assert progress.best is not None
    words = f"{stage.name}: {VALIDATION} was best after step {progress.best.step}"
    words += f" ({progress.best.score:.4f})"
    if _is_hopeless(progress, train):
        words += f", stopped after step {progress.step} of {stage.num_steps}"
    elif rise:
        words += f", the last one, and rose by {rise:.1%}: more {stage.name}.epochs may be better"
    return f"{words}; the {train.keep} weights are kept"


def _check_weights(engine: Any, progress: TrainProgress) -> None:
    """Refuses weights that are not finite: a loss shows them a step too late to keep them out.

    Raises:
        FloatingPointError: On every rank.
    """
    is_bad = torch.tensor(float(not _are_finite(engine.module.parameters())), device=engine.device)
    torch.distributed.all_reduce(is_bad)
    if is_bad.item() > 0:
        raise FloatingPointError(
            f"{progress.stage}: after step {progress.step} a weight is not finite"
        )


def _are_finite(parameters: Iterable[Tensor]) -> bool:
    """Whether all weights that this process holds are finite; one wait per device."""
    flags: dict[torch.device, list[Tensor]] = {}
    for parameter in parameters:
        # under ZeRO-3 the rank's own shard, on the CPU if it is offloaded; what lies on NVMe is
        # left to the loss
        held = getattr(parameter, "ds_tensor", parameter).detach()
        flags.setdefault(held.device, []).append(held.isfinite().all())
    return all(bool(torch.stack(own).all()) for own in flags.values())
