"""Trains the one LLM: text -> dense tokens -> codes -> recommendations, then measures it.

    deepspeed store_engine/train.py --ds_config configs/zero3.json
    deepspeed store_engine/train.py --ds_config configs/zero3.json --resume
    deepspeed --num_accelerators 2 store_engine/train.py --ds_config configs/zero3.json \
        --config configs/tiny.toml run_dir=runs/mine recommender.lr=1e-3

Everything goes into the run directory: weights, SIDs, trie, metrics, logs and checkpoints.
"""

import errno
import logging
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import torch

from store_engine._C import ItemTrie
from store_engine.cli.train import parse_arguments
from store_engine.config import Config, load_config
from store_engine.errors import InputError
from store_engine.evaluation.evaluate_run import evaluate_run
from store_engine.evaluation.report import print_metrics, save_metrics
from store_engine.evaluation.scoring import split_answers
from store_engine.model.backbone import backbone_sizes
from store_engine.model.weights import load_weights, read_weights, save_weights
from store_engine.runs.open_run import open_run
from store_engine.runs.run_directory import RunDirectory
from store_engine.sid.collisions import describe, resolve_collisions, sid_report
from store_engine.sid.dense_tokenizer import ItemTexts, encode_catalog
from store_engine.sid.quantize import fit_quantizer
from store_engine.sid.sid_table import SidTable
from store_engine.terminal import escape_unencodable_output, make_console, printable
from store_engine.training.deepspeed_setup import (
    exit_rank,
    process_group,
    read_ds_config,
    set_threads,
)
from store_engine.training.interruption import InterruptedTraining
from store_engine.training.loop import train_stage
from store_engine.training.stages import (
    RecommenderStage,
    TokenizerStage,
    initial_recommender_weights,
    initial_tokenizer_weights,
)

# what a user can mend: a full disk or quota, a file beyond the limit, no permission, read-only
_UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EPERM, errno.EROFS)

console = make_console(soft_wrap=True)


def main(argv: list[str] | None = None) -> int:
    """Trains from the command line; returns the exit status."""
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch.distributed")
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    escape_unencodable_output()
    args = parse_arguments(argv)
    try:
        config = load_config(args.config, args.overrides, backbone_sizes)
        ds_config = read_ds_config(args.ds_config, config.train)
        with process_group():
            train(config, ds_config, args.resume, args.overwrite)
    except InputError as error:
        print(f"error: {printable(error)}", file=sys.stderr)
        return 2
    except OSError as error:
        if error.errno not in _UNWRITABLE:
            raise
        print(
            f"error: {printable(config.run_dir)}: {error.strerror}; --resume goes on",
            file=sys.stderr,
        )
        return 2
    except InterruptedTraining as stopped:
        print(f"{stopped}; --resume goes on", file=sys.stderr)
    except FloatingPointError as error:
        print(f"error: {error}; the last checkpoint is kept, lower lr", file=sys.stderr)
        return 1
    return 0


def train(config: Config, ds_config: dict[str, Any], resume: bool, overwrite: bool) -> None:
    """The whole way from a catalogue and histories to a measured recommender.

    Raises:
        InputError: The data, the config or the run directory cannot be worked with.
    """
    began = time.perf_counter()
    rank, num_ranks = torch.distributed.get_rank(), torch.distributed.get_world_size()
    is_first = rank == 0
    say = console.print if is_first else lambda *_, **__: None

    # -- run directory and data -------------------------------------------------------------------
    run, catalog, vocabulary, texts, histories = open_run(config, resume, overwrite, is_first)
    run_dir = run.root
    say(
        f"{run_dir}: {catalog.num_items:,} items, {len(histories):,} users, "
        f"{len(histories.tokens):,} events to train on, {len(vocabulary):,} text tokens"
    )

    # -- device -----------------------------------------------------------------------------------
    threads = set_threads(config.train)
    dtype = "bfloat16" if ds_config["bf16"]["enabled"] else "float32"
    zero_stage = ds_config.get("zero_optimization", {}).get("stage", 0)
    say(f"ZeRO-{zero_stage}, {num_ranks} rank(s) x {threads} thread(s), {dtype}")

    # -- stage 1: the LLM learns to say an item in a few vectors ----------------------------------
    stage = TokenizerStage(config, texts, len(vocabulary))
    if not run.is_complete(run.tokenizer_weights):
        initial = initial_tokenizer_weights(config, len(vocabulary))
        weights = train_stage(stage, config, ds_config, run_dir, initial)
        _finish_stage(weights, run, run.tokenizer_weights, is_first)

    # -- discretisation: vectors become codes -----------------------------------------------------
    if is_first and not run.is_complete(run.sids):
        with run.writing(run.sids):
            _tokenize_catalog(config, stage, texts, run, catalog.item_ids)
    torch.distributed.barrier()
    table = SidTable.load(run.sids)
    say(describe(sid_report(table.sids, table.codebook_sizes, config.tokenizer.num_codes)))

    # -- stage 2: the same weights learn to write the next item's codes --------------------------
    recommender = RecommenderStage(config, texts, len(vocabulary), histories, table)
    if not run.is_complete(run.model_weights):
        start = initial_recommender_weights(config, read_weights(run.tokenizer_weights), table)
        weights = train_stage(recommender, config, ds_config, run_dir, start.items())
        if config.recommender.scoring:
            weights, answers = split_answers(weights)
            _finish_stage(answers, run, run.scoring_weights, is_first)
        _finish_stage(weights, run, run.model_weights, is_first)

    # -- evaluation -------------------------------------------------------------------------------
    if is_first:
        if not run.is_complete(run.trie):
            with run.writing(run.trie):
                ItemTrie(table.sids, list(table.codebook_sizes)).save(str(run.trie))
        metrics = evaluate_run(run_dir)
        with run.writing(run.metrics):
            save_metrics(metrics, run.metrics)
        print_metrics(metrics, console)
        say(f"done in {time.perf_counter() - began:.0f} s; recommend with")
        say(f"  store-engine recommend {run_dir} --history ID,ID,ID")
    torch.distributed.barrier()
    run.close()


def _finish_stage(
    weights: dict[str, torch.Tensor], run: RunDirectory, path: Path, is_first: bool
) -> None:
    """Writes a stage's weights; once the run lists them, the stage is done."""
    if is_first:
        with run.writing(path):
            save_weights(weights, path)
    torch.distributed.barrier()


def _tokenize_catalog(
    config: Config,
    stage: TokenizerStage,
    texts: ItemTexts,
    run: RunDirectory,
    item_ids: tuple[str, ...],
) -> None:
    """Encodes every item and writes its SID."""
    settings = config.tokenizer
    tokenizer = stage.build()
    load_weights(tokenizer, run.tokenizer_weights)
    vectors = encode_catalog(tokenizer, texts, settings.num_codes)
    quantizer = fit_quantizer(
        vectors,
        settings.codebook_size,
        settings.pca_dim,
        settings.kmeans_iterations,
        config.train.seed,
    )
    codes, distances = quantizer.assign(vectors), quantizer.distances(vectors)
    sids, sizes = resolve_collisions(codes, settings.codebook_size, distances, settings.collisions)
    SidTable(sids, sizes, item_ids, quantizer).save(run.sids)


if __name__ == "__main__":
    exit_rank(main())
