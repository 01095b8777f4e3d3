"""Trains both stages for a few steps and writes their losses; run by test_zero.py under DeepSpeed.

deepspeed --num_accelerators 2 tests/training/zero_losses.py FOLDER zero0 zero3:train.seed=1
"""

import argparse
import json
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "fixtures"))
from stages import make_stages

from store_engine.training.discretise import encode_over_ranks
from store_engine.training.distributed.deepspeed_setup import (
    full_weights,
    initialize,
    read_ds_config,
    zero_init,
)
from store_engine.training.distributed.process_group import exit_rank, process_group
from store_engine.training.loop import train_step

NUM_STEPS = 20


def train(name, overrides):
    """The losses and the weights' norms under configs/NAME.json, and the items' vectors."""
    config, *stages = make_stages(overrides)
    ds_config = read_ds_config(f"configs/{name}.json", config.train)
    losses, norms = {}, {}
    for stage in stages:
        torch.manual_seed(0)
        with zero_init(ds_config):
            module = stage.build()
        engine = initialize(module, ds_config, config.train, stage.lr)
        engine.train()
        losses[stage.name] = [
            train_step(engine, stage, config, step)["loss"] for step in range(NUM_STEPS)
        ]
        norms[stage.name] = {n: w.norm().item() for n, w in full_weights(engine).items()}
        engine.destroy()
    tokenizer_stage = stages[0]
    torch.manual_seed(0)
    tokenizer = tokenizer_stage.build()
    vectors = encode_over_ranks(tokenizer, tokenizer_stage.texts, 2, torch.device("cpu"))
    if torch.distributed.get_rank() == 0:
        return {"losses": losses, "norms": norms, "vectors": vectors.tolist()}


parser = argparse.ArgumentParser()
parser.add_argument("--local_rank")
parser.add_argument("folder", type=Path)
parser.add_argument("cases", nargs="+", metavar="CONFIG[:section.key=value]")
args = parser.parse_args()

torch.set_num_threads(1)
with process_group():
    for case in args.cases:
        name, *overrides = case.split(":")
        trained = train(name, overrides)
        if trained:
            (args.folder / f"{name}.json").write_text(json.dumps(trained))
exit_rank(0)
