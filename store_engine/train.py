"""Trains the one LLM: text -> dense tokens -> codes -> recommendations, then measures it.

    deepspeed store_engine/train.py --ds_config configs/zero3.json
    deepspeed store_engine/train.py --ds_config configs/zero3.json --resume
    deepspeed store_engine/train.py --ds_config configs/zero3.json --from runs/ml100k \
        --interactions new_events.csv --items new_items.csv run_dir=runs/ml100k-2
    deepspeed --num_accelerators 2 store_engine/train.py --ds_config configs/zero3.json \
        --config configs/tiny.toml run_dir=runs/mine recommender.lr=1e-3

Everything goes into the run directory: weights, SIDs, trie, metrics, logs and checkpoints.
Exit status: 0 done, or stopped by SIGTERM or Ctrl-C with a checkpoint; 1 the loss or a weight is
not finite; 2 the data, the config or the machine has to be mended; 130 Ctrl-C between two stages.
"""

import dataclasses
import errno
import functools
import logging
import os
import sys
import time
import warnings
from pathlib import Path
from typing import Any

from store_engine.terminal import (
    escape_unencodable_output,
    make_console,
    printable,
    quieten_deepspeed,
)

if __name__ == "__main__":
    # libgomp reads it when torch is loaded: a thread that waits for the others sleeps soon. On
    # cores that other processes keep busy, long spinning makes two threads ten times slower
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    quieten_deepspeed()

import torch
from deepspeed.accelerator import get_accelerator

from store_engine._C import ItemTrie
from store_engine.cli.main import warnings_as_lines
from store_engine.cli.train import parse_arguments
from store_engine.collaborative.partners import Partners
from store_engine.config import Config, load_config
from store_engine.errors import InputError
from store_engine.evaluation.evaluate_run import evaluate_run
from store_engine.evaluation.report import print_metrics, save_metrics
from store_engine.evaluation.validation import Validation
from store_engine.evaluation.weigh_evidence import fit_run_evidence
from store_engine.live.since_training import changes_since_training, remove_again
from store_engine.model.backbones.backbone import backbone_sizes
from store_engine.model.weights import load_weights, read_weights, save_weights
from store_engine.runs.continued import NewData, Parent
from store_engine.runs.open_run import RunData, begin_or_resume, read_run_data
from store_engine.runs.run import Run
from store_engine.runs.run_directory import RunDirectory
from store_engine.sid.codebook_report import advice
from store_engine.sid.collisions import describe, sid_report
from store_engine.sid.item_features import ItemVectors
from store_engine.sid.sid_table import SidTable
from store_engine.training.discretise import discretise, encode_over_ranks
from store_engine.training.distributed.deepspeed_setup import read_ds_config, set_threads
from store_engine.training.distributed.process_group import (
    InterruptedTraining,
    exit_rank,
    launched_rank,
    process_group,
    wait_for_first,
)
from store_engine.training.distributed.progress import read_progress, threads_before
from store_engine.training.distributed.rank_share import RankShare
from store_engine.training.initial_weights import (
    initial_recommender_weights,
    initial_tokenizer_weights,
)
from store_engine.training.loop import Training, train_stage
from store_engine.training.stages.recommender import RecommenderStage, RefitStage
from store_engine.training.stages.shards import check_shards
from store_engine.training.stages.tokenizer import TokenizerStage
from store_engine.training.warm_start import warm_weights

# what a user can mend: a full disk or quota, a file beyond the limit, no permission, read-only
_UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EPERM, errno.EROFS)

console = make_console(soft_wrap=True)


def main(argv: list[str] | None = None) -> int:
    """Trains from the command line; returns the exit status."""
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch.distributed")
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    escape_unencodable_output()
    args = parse_arguments(argv)
    place = args.from_run or args.config[-1]
    try:
        rank = launched_rank()
        if args.from_run is None:
            parent, config = None, load_config(args.config, args.overrides, backbone_sizes)
        else:
            new = NewData(args.items, args.interactions, args.journal)
            parent = Parent(args.from_run, new, changes_since_training(args.from_run))
            config = parent.config(args.config, args.overrides)
        place = config.run_dir
        ds_config = read_ds_config(args.ds_config, config.train)
        # the data is looked at before DeepSpeed compiles, which takes a minute; other ranks wait
        directory = None
        if rank == 0:
            with warnings_as_lines():
                directory = begin_or_resume(config, args.resume, args.overwrite, parent)
        with process_group():
            train(config, ds_config, read_run_data(config, directory))
    except InputError as error:
        print(f"error: {printable(error)}", file=sys.stderr)
        return 2
    except OSError as error:
        if error.errno not in _UNWRITABLE:
            raise
        print(f"error: {printable(error.filename or place)}: {error.strerror}", file=sys.stderr)
        return 2
    except InterruptedTraining as stopped:
        print(f"{stopped}; --resume goes on", file=sys.stderr)
    except KeyboardInterrupt:
        print("interrupted; --resume goes on with what the run directory holds", file=sys.stderr)
        return 130
    except FloatingPointError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def train(config: Config, ds_config: dict[str, Any], data: RunData) -> None:
    """Goes the whole way from a catalogue and histories to a measured recommender.

    Raises:
        InputError: The data, the config or the run directory cannot be worked with.
    """
    began = time.perf_counter()
    run, catalog, vocabulary, texts, histories, more_histories, shown, more_shown = data
    split = Run(run).split
    is_code_run = config.tokenizer.last_level == "code"
    num_ranks, is_first = torch.distributed.get_world_size(), torch.distributed.get_rank() == 0
    log_rank0 = console.print if is_first else lambda *_, **__: None
    log_rank0(
        f"{run.root}: {catalog.num_items:,} items, {len(histories):,} users, "
        f"{len(histories.tokens):,} events to train on, {len(vocabulary):,} text tokens"
    )

    # -- device and threads -----------------------------------------------------------------------
    device = torch.device(get_accelerator().current_device_name())
    share = RankShare.of_process_group(device)
    threads = set_threads(config.train, threads_before(run.checkpoints))
    dtype = "bfloat16" if ds_config["bf16"]["enabled"] else "float32"
    zero_stage = ds_config.get("zero_optimization", {}).get("stage", 0)
    log_rank0(
        f"ZeRO-{zero_stage}, {num_ranks} rank(s) x {threads.num_threads} thread(s) "
        f"({threads.reason}) on {device}, {dtype}"
    )

    # -- stage 1: the LLM learns to say an item in a few vectors ----------------------------------
    partners = None
    if config.tokenizer.positives == "co_visited":
        partners = Partners(split.train, catalog.num_items, config.evidence)
    stage = TokenizerStage(config, texts, len(vocabulary), partners)
    if is_first:
        check_shards(config, data, stage, num_ranks * ds_config["gradient_accumulation_steps"])
    if not run.is_complete(run.tokenizer_weights):
        initial = initial_tokenizer_weights(config, len(vocabulary))
        weights = train_stage(stage, Training(config, ds_config, run.root), initial)
        _finish_stage(run, {run.tokenizer_weights: weights})

    # -- discretisation: vectors become codes; a run that goes on from another knows some ---------
    known = SidTable.load(run.start_sids) if run.is_complete(run.start_sids) else None
    if not (run.is_complete(run.sids) and (is_code_run or run.is_complete(run.item_vectors))):
        tokenizer = stage.build()
        load_weights(tokenizer, run.tokenizer_weights)
        num_known = 0 if known is None else len(known.item_ids)
        vectors = encode_over_ranks(
            tokenizer.to(device), texts, config.tokenizer.num_codes, device, num_known
        )
        if vectors is not None:
            found = discretise(vectors, catalog, split, config, known)
            with run.writing(run.sids):
                found.table.save(run.sids)
            if found.vectors is not None:
                with run.writing(run.item_vectors):
                    found.vectors.save(run.item_vectors)
    wait_for_first("discretisation")
    table = SidTable.load(run.sids)
    num_codes = table.described_levels(config.tokenizer.num_codes)
    log_rank0(describe(sid_report(table.sids, table.codebook_sizes, num_codes)))
    for line in advice(table, num_codes):
        log_rank0(line)

    # -- stage 2: the same weights learn to write the next item's codes --------------------------
    recommender = RecommenderStage(config, texts, len(vocabulary), histories, table, shown)
    chosen = run.training_weights if config.train.refit else run.model_weights
    training = Training(config, ds_config, run.root)
    if not run.is_complete(chosen):
        validate = Validation(Run(run), device, share) if config.train.eval_every else None
        validated = dataclasses.replace(training, validate=validate)
        _train_recommender(recommender, validated, run, chosen, known)

    # -- item-item evidence: what the histories alone say, weighed against the LLM ----------------
    if config.decoding.evidence == "auto" and is_first and not run.is_complete(run.evidence):
        log_rank0("evidence: counting what followed what, and weighing it on validation users")
        decided, trained = Run(run).config, read_weights(chosen)
        engine_with = functools.partial(Validation(Run(run), device).engine, trained)
        weighed = fit_run_evidence(run, split, catalog, decided, engine_with)
        experts = [f"{expert.name} {expert.weight:+.2f}" for expert in weighed.experts]
        log_rank0(f"evidence: beside the LLM count {', '.join(experts) or 'all terms in one sum'}")

    # -- stage 2 again: the recommender of tomorrow has seen the validation events too ------------
    if more_histories is not None and not run.is_complete(run.model_weights):
        best = _best_epoch(config, recommender, training)
        log_rank0(f"refit: {best:g} epoch(s) of all events before the test")
        again = RefitStage(recommender, more_histories, best, more_shown)
        _train_recommender(again, training, run, run.model_weights, known)

    # -- evaluation -------------------------------------------------------------------------------
    if is_first:
        if not run.is_complete(run.trie):
            with run.writing(run.trie):
                ItemTrie(table.sids, list(table.codebook_sizes)).save(str(run.trie))
        remove_again(run)
    wait_for_first("catalogue")
    metrics = evaluate_run(run.root, device=device, share=share)
    if is_first:
        with run.writing(run.metrics):
            save_metrics(metrics, run.metrics)
        print_metrics(metrics, console)
        log_rank0(f"done in {time.perf_counter() - began:.0f} s; recommend with")
        log_rank0(f"  store-engine recommend {run.root} --history ID,ID,ID")
        run.close()
    wait_for_first("evaluation")


def _train_recommender(
    stage: RecommenderStage,
    training: Training,
    run: RunDirectory,
    path: Path,
    known: SidTable | None,
) -> None:
    """Trains stage 2 from its start, and writes the weights to `path`."""
    config, is_code_run = training.config, training.config.tokenizer.last_level == "code"
    items = None if is_code_run else ItemVectors.load(run.item_vectors)
    if known is None:
        first = read_weights(run.tokenizer_weights)
        start = initial_recommender_weights(config, first, stage.table, stage.num_labels, items)
    else:
        is_refit, tables = isinstance(stage, RefitStage), (known, stage.table)
        start = warm_weights(config, run, tables, stage.num_labels, items, with_validation=is_refit)
    weights, labels = stage.split_labels(train_stage(stage, training, start.items()))
    files = {run.scoring_weights: labels} if labels and path == run.model_weights else {}
    _finish_stage(run, {**files, path: weights})


def _best_epoch(config: Config, stage: RecommenderStage, training: Training) -> float:
    """How many epochs the kept weights of stage 2 have seen.

    Raises:
        InputError: The checkpoints are gone, which say so.
    """
    progress = read_progress(training.checkpoints(stage))
    if progress is None:
        raise InputError(
            f"{training.checkpoints(stage)}: has no checkpoint, which says after how many epochs "
            f"stage 2 was best; --overwrite trains it again"
        )
    best = progress.best if config.train.keep == "best" else None
    return (progress.step if best is None else best.step) / stage.steps_per_epoch


def _finish_stage(run: RunDirectory, files: dict[Path, dict[str, torch.Tensor]]) -> None:
    """Writes a stage's weights; once the run lists them, the stage is done."""
    if torch.distributed.get_rank() == 0:
        for path, weights in files.items():
            with run.writing(path):
                save_weights(weights, path)
    wait_for_first(f"weights of {[path.name for path in files]}")


if __name__ == "__main__":
    exit_rank(main())
