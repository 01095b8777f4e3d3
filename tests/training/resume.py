"""Trains stage 2 in one go, or up to a step and then on; run by test_resume.py.

python tests/training/resume.py FOLDER begin   # CASE/whole, and half of CASE/resumed
python tests/training/resume.py FOLDER go_on   # the other half, in a process of its own
"""

import argparse
import hashlib
import json
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "fixtures"))
from stages import ALL_TASKS, ITEMS, make_stages

from store_engine.model.weights import save_weights
from store_engine.training.distributed.deepspeed_setup import read_ds_config
from store_engine.training.distributed.process_group import (
    InterruptedTraining,
    exit_rank,
    process_group,
)
from store_engine.training.loop import Training, train_stage

STOP_AFTER = 5
ALWAYS = (*ALL_TASKS, "model.dropout=0.2", "recommender.epochs=1", "train.save_every=4")
VALIDATED = ("train.eval_every=2", "train.keep=best", "train.patience=4")
CASES = {
    "zero3": ("zero3", ()),
    "zero0_bf16_wsd": ("zero0", ("train.dtype=bfloat16", "train.schedule=wsd")),
    "zero1_bf16": ("zero1", ("train.dtype=bfloat16",)),
    "zero2_recomputed": ("zero2", ("train.activation_checkpointing=true",)),
    "zero3_bf16": ("zero3", ("train.dtype=bfloat16", "train.fused_loss=false")),
    "validated": ("zero3", VALIDATED),
    "items": ("zero3", (*ITEMS, "train.table_weight_decay=0.1")),
}


def score(weights):
    """Anything that depends on every bit of the weights."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(weights[name].numpy().tobytes())
    return int.from_bytes(digest.digest()[:4], "big") / 2**32


def train(run_dir: Path, ds_config: str, overrides: tuple[str, ...], stop_after: int = 0) -> None:
    """Trains to the end, or until a SIGTERM comes during step `stop_after`."""
    config, _, stage = make_stages((*ALWAYS, *overrides))
    batch, scores = stage.batch, {}

    def batch_and_stop(step, shard, num_shards):
        if step + 1 == stop_after:
            os.kill(os.getpid(), signal.SIGTERM)
        return batch(step, shard, num_shards)

    def validate(weights):
        scores[score(weights)] = weights
        return score(weights)

    stage.batch = batch_and_stop
    run_dir.mkdir(parents=True, exist_ok=True)
    path = Path("configs") / f"{ds_config}.json"
    training = Training(
        config,
        read_ds_config(path, config.train),
        run_dir,
        validate if config.train.eval_every else None,
    )
    with suppress(InterruptedTraining):
        weights = train_stage(stage, training)
        save_weights(weights, run_dir / "model.safetensors")
        (run_dir / "score.json").write_text(json.dumps(score(weights)))


parser = argparse.ArgumentParser()
parser.add_argument("folder", type=Path)
parser.add_argument("part", choices=["begin", "go_on"])
args = parser.parse_args()

torch.set_num_threads(1)
with process_group():
    for name, (ds_config, overrides) in CASES.items():
        if args.part == "begin":
            train(args.folder / name / "whole", ds_config, overrides)
            train(args.folder / name / "resumed", ds_config, overrides, STOP_AFTER)
        else:
            train(args.folder / name / "resumed", ds_config, overrides)
exit_rank(0)
