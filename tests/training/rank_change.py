"""Trains the recommender up to a step, saves and stops; run by test_rank_change.py.

deepspeed --num_accelerators 2 tests/training/rank_change.py RUN_DIR --until 5 configs/zero3.json
"""

import argparse
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "fixtures"))
from stages import make_stages

from store_engine.model.weights import save_weights
from store_engine.training.distributed.deepspeed_setup import read_ds_config
from store_engine.training.distributed.process_group import (
    InterruptedTraining,
    exit_rank,
    process_group,
)
from store_engine.training.loop import Training, train_stage

parser = argparse.ArgumentParser()
parser.add_argument("--local_rank")
parser.add_argument("--until", type=int, default=0, help="0: to the end")
parser.add_argument("run_dir", type=Path)
parser.add_argument("ds_configs", nargs="+", type=Path)
args = parser.parse_args()

torch.set_num_threads(1)
# no dropout in tiny.toml: the ranks' random numbers play no part
config, _, stage = make_stages(
    ["recommender.epochs=2", "train.weight_decay=0.5", "train.eval_every=3"]
)
batch = stage.batch


def batch_and_stop(step: int, shard: int, num_shards: int):
    """A scheduler takes the machine away during step `until`."""
    if step + 1 == args.until:
        os.kill(os.getpid(), signal.SIGTERM)
    return batch(step, shard, num_shards)


def size_of_the_head(weights: dict[str, torch.Tensor]) -> float:
    """In the place of a validation: nearly the same for nearly the same weights."""
    return weights["code_head.weight"].abs().mean().item()


stage.batch = batch_and_stop
with process_group():
    for path in args.ds_configs:
        run_dir = args.run_dir / path.stem
        run_dir.mkdir(parents=True, exist_ok=True)
        with suppress(InterruptedTraining):
            ds_config = read_ds_config(path, config.train)
            training = Training(config, ds_config, run_dir, size_of_the_head)
            weights = train_stage(stage, training)
            if torch.distributed.get_rank() == 0:
                save_weights(weights, run_dir / "model.safetensors")
exit_rank(0)
