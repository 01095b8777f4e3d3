"""The page: everything put together and rendered, escaped by the template engine."""

import datetime
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

from jinja2 import Environment, PackageLoader, StrictUndefined

import store_engine
from store_engine.config import dump_config
from store_engine.decoding.engine import Engine
from store_engine.errors import InputError
from store_engine.experiments.provenance import data_checksum
from store_engine.files.atomic import atomic_open
from store_engine.report.charts import NUM_COLOURS, short_number
from store_engine.report.codebook import Codebook, codebook, level_name
from store_engine.report.curves import training_charts
from store_engine.report.examples import Examples, examples
from store_engine.report.item_map import ItemMap, item_map
from store_engine.report.latency import Latency, latency
from store_engine.report.loaded_run import Group, LoadedRun, group_by_settings, load
from store_engine.report.results import (
    Figure,
    best_baseline,
    figure_name,
    mean_and_error,
    results,
)
from store_engine.report.verdicts import Verdict, on_codes, on_result, on_training
from store_engine.terminal import printable


@dataclass(frozen=True)
class Headline:
    """The figures at the head of the page.

    Args:
        name: Of the figure.
        figure: The run's, or its group's.
        baseline: The best training-free baseline's name.
        floor: And figure.
        coverage: Share of the catalogue that is recommended to somebody; None where unknown.
    """

    name: str
    figure: Figure
    baseline: str
    floor: float
    coverage: float | None


@dataclass(frozen=True)
class Served:
    """What needs the trained model.

    Args:
        map: Of the items.
        examples: Of test users.
        latency: Of this machine.
    """

    map: ItemMap
    examples: Examples
    latency: Latency


def write_report(
    run_dir: Path,
    out: Path,
    compare: Sequence[Path] = (),
    *,
    device: str = "auto",
    uses_model: bool = True,
) -> None:
    """Writes the report of a run as one HTML file that needs no network.

    Args:
        run_dir: A run, finished or not; what is not there yet is left out.
        out: The file to make or to replace.
        compare: Runs on the same data set. Those with the same settings but another seed are put
            together with the run, as mean and standard deviation, if they were measured on the
            same users.
        device: Of the model.
        uses_model: Show what needs the model: the map, examples, latency.

    Raises:
        InputError: A run is missing, damaged or cannot be compared, or `out` cannot be written.
    """
    page = render_report(run_dir, compare, device=device, uses_model=uses_model)
    try:
        with atomic_open(out) as file:
            file.write(page.encode())
    except OSError as error:
        raise InputError(f"{out}: cannot be written: {error.strerror or error}") from error


def render_report(
    run_dir: Path,
    compare: Sequence[Path] = (),
    *,
    device: str = "auto",
    uses_model: bool = True,
) -> str:
    """Returns the page that `write_report` writes; the same arguments and errors."""
    loaded = load(run_dir)
    groups = group_by_settings(loaded, [load(path) for path in compare])
    measured = loaded.read_metrics(lambda _: results(groups))
    codes = None
    if loaded.has(loaded.directory.sids):
        codes = codebook(loaded.run.sid_table, loaded.config.tokenizer.num_codes)
    is_finished = loaded.has(loaded.directory.model_weights) and loaded.has(loaded.directory.trie)
    served = _served(loaded, device) if uses_model and is_finished else None
    page = {
        "run": loaded,
        "groups": groups,
        "headline": loaded.read_metrics(lambda _: _headline(groups[0])),
        "verdicts": _verdicts(loaded, codes),
        "results": measured or [],
        "stages": training_charts(loaded.log),
        "codes": codes,
        "served": served,
        "others": loaded.read_metrics(lambda _: _runs(groups)) or [],
        "facts": _facts(loaded),
        "config": "\n".join(map(printable, dump_config(loaded.config).split("\n"))),
        "files": _files(loaded),
        "version": store_engine.__version__,
        "made": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }
    return _environment().get_template("page.html.j2").render(page)


def _served(loaded: LoadedRun, device: str) -> Served:
    drawn = item_map(loaded)
    engine = Engine.load(loaded.run, device=device, prefix_cache_mib=0)
    return Served(drawn, examples(loaded, engine), latency(loaded, engine))


def _headline(group: Group) -> Headline:
    all_metrics = [run.metrics for run in group.runs if run.metrics is not None]
    name = figure_name(all_metrics[0])
    values = [metrics["metrics"][name] for metrics in all_metrics]
    errors = [metrics["standard_errors"].get(name) for metrics in all_metrics]
    baseline, floor, _ = best_baseline(all_metrics[0], name)
    shares = all_metrics[0]["metrics"].items()
    coverage = next((share for key, share in shares if key.startswith("coverage@")), None)
    figure = mean_and_error(values, errors)
    return Headline(name.capitalize(), figure, baseline, floor, coverage)


def _runs(groups: Sequence[Group]) -> list[tuple[str, str, int, float]]:
    """Name, settings, seed and figure of every run, where there are several."""
    runs = [
        (run.name, group.label, run.config.train.seed, metrics["metrics"][figure_name(metrics)])
        for group in groups
        for run in group.runs
        if (metrics := run.metrics) is not None
    ]
    return runs if len(runs) > 1 else []


def _verdicts(loaded: LoadedRun, codes: Codebook | None) -> list[Verdict]:
    said = loaded.read_metrics(lambda metrics: on_result(metrics, loaded.config)) or []
    if codes is not None:
        said += on_codes(codes, loaded.config)
    said += on_training(loaded.log, loaded.config)
    order = {"bad": 0, "look": 1, "good": 2}
    return sorted(said, key=lambda verdict: order[verdict.kind])


def _facts(loaded: LoadedRun) -> list[tuple[str, str]]:
    """What was trained on what, and when: the run's lineage."""
    manifest, metrics = loaded.manifest, loaded.metrics or {}
    facts = [
        ("run", str(loaded.directory.root)),
        ("data set", manifest.dataset),
        ("data checksum", data_checksum(manifest.sources)),
        ("begun", str(getattr(manifest, "created", ""))),
        ("measured", str(metrics.get("date", ""))),
        ("store_engine", str(manifest.version)),
        ("seed", str(loaded.config.train.seed)),
        ("split", str(metrics.get("protocol", ""))),
        ("search when measured", str(metrics.get("decoding", ""))),
    ]
    return [(name, printable(value)) for name, value in facts if value]


def _files(loaded: LoadedRun) -> list[tuple[str, str, str]]:
    """Name, size and digest of every file of the run and of its sources."""
    files = [
        (printable(name), f"{entry.num_bytes:,}", entry.sha256[:12])
        for name, entry in loaded.manifest.files.items()
    ]
    return files + [
        (printable(PurePath(path).name) + " (source)", "", digest[:12])
        for path, digest in loaded.manifest.sources.items()
    ]


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("store_engine.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"figure": _figure, "short": short_number, "count": _count}
    environment.globals |= {
        "figures": _figures,
        "level_name": level_name,
        "num_colours": NUM_COLOURS,
    }
    return environment


def _figure(value: float) -> str:
    return f"{value:.4f}"


def _count(value: int) -> str:
    return f"{value:,}"


def _figures(value: float, error: float | None) -> str:
    return _figure(value) if error is None else f"{_figure(value)} ± {_figure(error)}"
