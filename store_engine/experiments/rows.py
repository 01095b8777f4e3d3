"""One row per training: what was asked for, what came out, and what it took, as JSON lines.

A row is made from the run directory alone. Validation is what experiments are ranked by; test
figures stand in the row, under `test`, for a table of results.
"""

import datetime
import statistics
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePath
from typing import Any, NamedTuple

import store_engine
from store_engine.config import changes
from store_engine.errors import InputError, shown
from store_engine.experiments.plan import Trial
from store_engine.experiments.provenance import data_checksum
from store_engine.files.json_file import read_json, read_json_lines, write_json_lines
from store_engine.runs.run_directory import RunDirectory

CHOSEN_BY = "ndcg@10"
Row = dict[str, Any]


class Effort(NamedTuple):
    """What a trial took, all its attempts together."""

    minutes: float  # wall
    attempts: int
    commit: str  # several if the source changed on the way
    hardware: str
    num_ranks: int | None  # None: as the launcher counts


def finished_row(trial: Trial, validation: dict[str, float], effort: Effort) -> Row:
    """Makes the row of a run that is trained and measured.

    Args:
        trial: What was trained.
        validation: Figures on the validation split.
        effort: What it took.

    Raises:
        InputError: The run is not there, damaged, or was trained with another config.
    """
    run = RunDirectory.open(trial.run_dir)
    _check_config(trial, run)
    manifest, metrics = run.read_manifest(), read_json(run.metrics)
    try:
        stages = {stage: of["wall_s"] / 60 for stage, of in metrics["train"].items()}
        test = {
            rule: {"metrics": of["metrics"], "baselines": of["baselines"]}
            for rule, of in metrics["protocols"].items()
        }
        measured = {
            name: metrics[name]
            for name in ("dataset", "protocol", "primary", "num_users", "num_items", "decoding")
        }
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{run.metrics}: not what an evaluation writes: {error}") from error
    files = {PurePath(path).name: digest for path, digest in manifest.sources.items()}
    row = _begin(trial, "finished", effort)
    row["minutes"] = stages | row["minutes"]
    row["validation"] = validation
    row |= measured | {"data": {"checksum": data_checksum(manifest.sources), "files": files}}
    row |= {name: metrics[name] for name in ("scoring",) if name in metrics}
    return row | {"test": test}


def failed_row(trial: Trial, error: str, effort: Effort) -> Row:
    """Makes the row of a trial that ended badly; `error` is the last line that it said."""
    return _begin(trial, "failed", effort) | {"error": error}


def is_finished(row: Row) -> bool:
    """Tells whether a row has results."""
    return row.get("status") == "finished"


def belongs_to(row: Row, trial: Trial) -> bool:
    """Tells whether a row is of this trial, with the settings that it has now."""
    key = (trial.variant.name, trial.seed, trial.settings)
    return (row.get("variant"), row.get("seed"), row.get("settings")) == key


def read_rows(path: Path) -> list[Row]:
    """Reads rows, none if there is no such file.

    Raises:
        InputError: A line is no row.
    """
    if not path.exists():
        return []
    rows = []
    for where, row in read_json_lines(path):
        if not isinstance(row.get("variant"), str) or type(row.get("seed")) is not int:
            raise InputError(f"{where}: a row must state variant and seed")
        rows.append(row)
    return rows


def rows_of(trials: Iterable[Trial], path: Path) -> list[Row]:
    """Reads the rows of some trials with the settings that they have now, in the trials' order."""
    rows = read_rows(path)
    return [row for trial in trials for row in rows if belongs_to(row, trial)]


def save_row(path: Path, row: Row) -> None:
    """Adds a row; one of the same variant and seed is replaced. One process at a time may."""
    key = (row["variant"], row["seed"])
    kept = [old for old in read_rows(path) if (old["variant"], old["seed"]) != key]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json_lines(path, [*kept, row])


def mean_std(values: Iterable[float]) -> tuple[float, float | None]:
    """Returns the mean and the standard deviation over seeds, None for a single one."""
    values = list(values)
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None


def by_variant(rows: Iterable[Row]) -> Mapping[str, list[Row]]:
    """Groups finished rows, best mean validation NDCG@10 first; the test decides nothing."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        if is_finished(row):
            groups.setdefault(row["variant"], []).append(row)

    def validation(name: str) -> float:
        return statistics.fmean(row["validation"][CHOSEN_BY] for row in groups[name])

    return {name: groups[name] for name in sorted(groups, key=validation, reverse=True)}


def _check_config(trial: Trial, run: RunDirectory) -> None:
    """A row must never say what was not trained."""
    wanted = trial.config()
    for change in changes(wanted, run.read_config()):
        is_backbones = bool(wanted.model.backbone) and change.key.startswith("model.")
        if not change.is_runtime and not is_backbones:
            raise InputError(
                f"{run.root}: was trained with {change.key} = {shown(change.new)}, "
                f"{trial.name} wants {shown(change.old)}"
            )


def peer_row(name: str, title: str, seed: int, result: Mapping[str, Any], effort: Effort) -> Row:
    """Makes the row of a recommender that is no run of ours, for a table beside ours.

    Args:
        name: Of the variant; no variant of the plan has it.
        title: For people.
        seed: That it was trained with.
        result: `test`, by rule: `metrics`, as `evaluation.protocols.measure` gives them; and what
            else of a finished row there is: `validation`, `dataset`, `data`, ...
        effort: What it took.
    """
    rules = {
        rule: {"metrics": of["metrics"], "baselines": {}} for rule, of in result["test"].items()
    }
    row = {"variant": name, "title": title, "seed": seed, "status": "finished", "overrides": []}
    return row | _provenance(effort) | dict(result) | {"test": rules}


def _begin(trial: Trial, status: str, effort: Effort) -> Row:
    """What every row of a trial states."""
    return {
        "variant": trial.variant.name,
        "title": trial.variant.title,
        "seed": trial.seed,
        "status": status,
        "configs": list(trial.variant.configs),
        "ds_config": trial.ds_config,
        "overrides": list(trial.variant.overrides),
        "settings": trial.settings,
        **_provenance(effort),
    }


def _provenance(effort: Effort) -> Row:
    return {
        "minutes": {"total": effort.minutes},
        "attempts": effort.attempts,
        "num_ranks": effort.num_ranks,
        "hardware": effort.hardware,
        "commit": effort.commit,
        "version": store_engine.__version__,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }
