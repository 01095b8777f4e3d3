"""A finished run, measured: item-level metrics over all items, beside training-free baselines."""

import dataclasses
import datetime
import functools
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import store_engine
from store_engine.collaborative.evidence import Evidence
from store_engine.config import Config, with_overrides
from store_engine.data.split import Examples, Split
from store_engine.decoding.engine import Engine
from store_engine.decoding.evidence import ItemEvidence
from store_engine.errors import InputError
from store_engine.evaluation.metrics import cutoffs_up_to, ranking_metrics
from store_engine.evaluation.protocols import (
    CandidateRule,
    Ranker,
    Rankings,
    measure,
    primary_rule,
    share_of_targets_seen,
)
from store_engine.evaluation.scoring import Scorer, measure_scoring
from store_engine.model.dtype import choose_device
from store_engine.model.store_model import StoreModel
from store_engine.runs.run import Run, load_run
from store_engine.sid.codebook_report import codebook_report
from store_engine.terminal import tracked
from store_engine.training.distributed.rank_share import ALONE, RankShare
from store_engine.training.log import read_log

USERS_PER_CALL = 512  # between two ticks of the progress bar
# what an evaluation may change of a run's config, and of that what it would not heed
_SECTIONS = ("decoding.", "eval.")
_WITHOUT_EFFECT = ("decoding.dtype", "decoding.prefix_cache_mib")


def evaluate_run(
    run: Run | Path,
    *,
    exact: bool = False,
    overrides: Sequence[str] = (),
    device: str | torch.device = "auto",
    share: RankShare = ALONE,
) -> dict[str, Any]:
    """Measures a run on its test users, in float32 and without a prefix cache.

    Args:
        run: A finished run, or its directory. Its model is moved to `device`.
        exact: Score the whole catalogue instead of searching with a beam.
        overrides: `decoding.key=value` and `eval.key=value`, on top of the run's config.
        device: "cpu", "cuda", "cuda:N", or "auto": cuda where there is one.
        share: Of the users; every rank gets the metrics of all.

    Returns:
        What metrics.json holds; docs/run-directory.md lists it.

    Raises:
        InputError: The directory is missing, unfinished or damaged, an override is wrong, or this
            machine has no such device.
    """
    run = run if isinstance(run, Run) else load_run(run)
    config = _evaluation_config(run.config, overrides)
    split = run.split
    engine = _measuring_engine(run, config, run.model, run.evidence, device)
    num_items, max_k = run.catalog.num_items, config.eval.max_k
    primary = primary_rule(config.decoding.exclude_history is True)
    wall_s: dict[str, float] = {}
    recommender = _ranker(engine, split, max_k, share, exact=exact)

    def rank(rule: CandidateRule) -> Rankings:
        began = time.perf_counter()
        rankings = recommender(rule)
        wall_s[rule.name] = time.perf_counter() - began
        return rankings

    parts = _parts(engine, run.evidence, split, max_k, share)
    if parts or run.is_refitted:  # what it would recommend without the validation events
        model, evidence = run.training_model, run.training_evidence
        less = _measuring_engine(run, config, model, evidence, device)
        known = {"events": _ranker(less, split, max_k, share)}
        known |= _parts(less, evidence, split, max_k, share)
        if not run.is_refitted:  # it has one LLM, which need not rank twice
            known["llm_alone"] = parts["llm_alone"]
        parts |= {f"training_{name}": part for name, part in known.items()}
    measured = measure(rank, split, num_items, max_k, parts)
    scoring = {}
    if run.has_scoring:
        scoring = {"scoring": measure_scoring(Scorer(run, device), split.test, num_items)}
    table = run.sid_table
    search = "exact" if exact else f"beam {_search_width(engine, max_k)}"
    return {
        "version": store_engine.__version__,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "run": {
            "created": run.created,
            "weights": run.weights_digest,
            "parent": None if run.lineage is None else run.lineage._asdict(),
        },
        "dataset": run.dataset,
        "protocol": split.protocol,
        "primary": primary.name,
        "num_users": len(split.test.targets),
        "num_items": num_items,
        "num_train_events": split.train.num_events,
        "share_of_targets_seen": share_of_targets_seen(split.test),
        "seed": config.train.seed,
        "decoding": f"{search}, float32, no prefix cache",
        **measured[primary.name],
        "protocols": measured,
        **scoring,
        "sid": codebook_report(table, config.tokenizer.num_codes),
        "requests_per_s": len(split.test.targets) / wall_s[primary.name],
        "train": training_summary(run.directory.log),
        "config": dataclasses.asdict(config),
    }


def validate_run(
    run: Run | Path, *, exact: bool = False, overrides: Sequence[str] = (), device: str = "auto"
) -> dict[str, float]:
    """Measures a run on all its validation users, for choices that the test must not make.

    Args:
        run: As for `evaluate_run`.
        exact: As for `evaluate_run`.
        overrides: As for `evaluate_run`.
        device: As for `evaluate_run`.

    Returns:
        `num_users`, and the ranking metrics, up to k = 10 at least, under the run's own rule of
        which items compete.

    Raises:
        InputError: As `evaluate_run`.
    """
    run = run if isinstance(run, Run) else load_run(run)
    config = _evaluation_config(run.config, overrides)
    valid = run.split.valid
    engine = _measuring_engine(run, config, run.training_model, run.training_evidence, device)
    max_k = max(10, config.eval.max_k)
    rankings = rank_all(engine, valid, max_k, exact)
    figures = ranking_metrics(rankings, valid.targets, cutoffs_up_to(max_k))
    return {"num_users": len(valid.targets), **figures}


def rank_all(
    engine: Engine,
    examples: Examples,
    k: int,
    exact: bool = False,
    *,
    exclude_history: bool | None = None,
    evidence: bool | None = None,
    share: RankShare = ALONE,
) -> NDArray[np.int64]:
    """Recommends to every user. The targets are never read.

    Items that share a SID have one score; their order is drawn, with a fixed seed, so that a hit
    within a group of g items is worth 1 / g of a hit on the group.

    Args:
        engine: The recommender.
        examples: The users' histories.
        k: Length of the rankings.
        exact: Score the whole catalogue instead of searching with a beam.
        exclude_history: Leave out the items of the history; by default as the engine's config.
        evidence: Add item-item evidence; by default as the engine's config.
        share: Of the users; every rank gets the rankings of all, the same as alone.

    Returns:
        (num_users, k) catalogue rows, -1 where fewer than k items compete.
    """
    width = _search_width(engine, k)
    num_ranked = k + _largest_group(engine.sids) - 1
    rng = np.random.default_rng(0)
    users_by_length = sorted(
        range(len(examples.histories)), key=lambda user: len(examples.histories[user])
    )
    rankings = np.zeros((len(users_by_length), k), dtype=np.int64)
    starts = range(0, len(users_by_length), USERS_PER_CALL)
    for part, begin in enumerate(tracked(starts, "evaluation", is_silent=share.rank > 0)):
        users = users_by_length[begin : begin + USERS_PER_CALL]
        # drawn for others' users too, so that the order of ties does not depend on the ranks
        draws = rng.random((len(users), num_ranked)) if num_ranked > k else None
        if not share.has(part):
            continue
        rows, logprobs = engine.recommend_rows(
            [examples.histories[user] for user in users],
            num_ranked,
            exclude_history=exclude_history,
            beam_width=width,
            exact=exact,
            evidence=evidence,
        )
        if draws is not None:
            order = np.lexsort((draws, -logprobs))
            rows = np.take_along_axis(rows, order, axis=1)
        rankings[users] = rows[:, :k]
    return share.gather(rankings)


def training_summary(log_path: Path) -> dict[str, dict[str, float]]:
    """Summarises each stage: its steps, seconds spent in them, real tokens/s and last loss."""
    summary: dict[str, dict[str, float]] = {}
    entries = read_log(log_path)
    for stage in dict.fromkeys(entry["stage"] for entry in entries):
        own = [entry for entry in entries if entry["stage"] == stage]
        wall_s = sum(entry["wall_s"] for entry in own)
        summary[stage] = {
            "num_steps": len(own),
            "wall_s": wall_s,
            "tokens_per_s": sum(entry["tokens_per_s"] * entry["wall_s"] for entry in own) / wall_s,
            "final_loss": own[-1]["loss"],
        }
    return summary


def _evaluation_config(config: Config, overrides: Sequence[str]) -> Config:
    for override in overrides:
        name = override.partition("=")[0]
        if not name.startswith(_SECTIONS):
            raise InputError(
                f"an evaluation changes decoding.key=value and eval.key=value, got '{override}'"
            )
        if name in _WITHOUT_EFFECT:
            raise InputError(
                f"{name} has no effect on an evaluation: it runs in float32, without prefix cache"
            )
    return with_overrides(config, overrides)


def _parts(
    engine: Engine, evidence: Evidence | None, split: Split, k: int, share: RankShare
) -> dict[str, Ranker]:
    """What a recommender with evidence is made of; nothing if it has none.

    Args:
        engine: The recommender.
        evidence: Its evidence.
        split: The test's users.
        k: Length of the rankings.
        share: Of the users.
    """
    if evidence is None or engine.config.evidence == "none":
        return {}

    def evidence_alone(rule: CandidateRule) -> Rankings:
        return evidence.top(split.test.histories, k, exclude_history=rule.exclude_history)

    llm_alone = functools.cache(_ranker(engine, split, k, share, evidence=False))
    return {"llm_alone": llm_alone, "evidence_alone": evidence_alone}


def _ranker(engine: Engine, split: Split, k: int, share: RankShare, **options: Any) -> Ranker:
    """Ranks the test's users under a rule; `options` are those of `rank_all`."""

    def rank(rule: CandidateRule) -> Rankings:
        exclude = rule.exclude_history
        return rank_all(engine, split.test, k, exclude_history=exclude, share=share, **options)

    return rank


def _measuring_engine(
    run: Run,
    config: Config,
    model: StoreModel,
    evidence: Evidence | None,
    device: str | torch.device,
) -> Engine:
    """An engine whose figures do not depend on the machine: float32, every user comes once."""
    decoding = dataclasses.replace(config.decoding, dtype="float32", prefix_cache_mib=0.0)
    return Engine(
        model.to(choose_device(device)),
        run.catalog,
        run.sid_table.sids,
        bos=run.vocabulary.bos_id,
        max_history=config.data.max_history,
        config=decoding,
        trie=run.trie,
        evidence=None if evidence is None else ItemEvidence(evidence),
    )


def _search_width(engine: Engine, k: int) -> int:
    """The beam width of `rank_all`: wide enough for k items and the others of the last's SID."""
    return max(engine.config.beam_width, k + _largest_group(engine.sids) - 1)


def _largest_group(sids: NDArray[np.int32]) -> int:
    return int(np.unique(sids, axis=0, return_counts=True)[1].max())
