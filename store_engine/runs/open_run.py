"""Opening a run to train it: a new one, or one to go on with.

A new run reads all its data first and appears with it, in one step: bad input leaves nothing
behind, and from then on the run needs nothing but itself.
"""

import dataclasses
import os
from pathlib import Path
from typing import NamedTuple

from store_engine.config import Config, DataConfig, changes
from store_engine.data.catalog import Catalog
from store_engine.data.histories import COMMON_REPEATS, TRAIN, VALID, Histories
from store_engine.data.impressions import Impressions, read_impressions
from store_engine.data.load import Dataset, load_dataset
from store_engine.data.readers import EventColumns
from store_engine.data.split import Split, split_histories
from store_engine.errors import InputError
from store_engine.files.digest import sha256
from store_engine.files.directory_swap import recover
from store_engine.files.json_file import write_json
from store_engine.files.lock import FileLock
from store_engine.files.token_file import TokenFile
from store_engine.model.backbones.backbone import Backbone
from store_engine.runs.before_training import check_before_training, warn_of_full_disk
from store_engine.runs.continued import Parent
from store_engine.runs.later_files import recipe_of
from store_engine.runs.run import Run
from store_engine.runs.run_directory import RunDirectory, RunOrigin, lock_to_replace
from store_engine.runs.run_paths import RunPaths
from store_engine.sid.dense_tokenizer import ItemTexts
from store_engine.terminal import printable
from store_engine.text.text_vocabulary import TextVocabulary
from store_engine.text.vocabulary import Vocabulary


class RunData(NamedTuple):
    """What a run trains on, read from its own directory."""

    directory: RunDirectory  # rank 0 holds its lock
    catalog: Catalog
    vocabulary: Vocabulary
    texts: ItemTexts  # on disk
    train: TokenFile  # what may be learnt from: catalogue rows, one document per user; on disk
    refit: TokenFile | None  # the same with the validation events, for `train.refit`
    train_shown: TokenFile | None  # what users were shown meanwhile, for `recommender.scoring`
    refit_shown: TokenFile | None


def begin_or_resume(
    config: Config, resume: bool, overwrite: bool, parent: Parent | None = None
) -> RunDirectory:
    """Begins a run, or opens one to go on with; the first rank calls it, before the others read.

    Args:
        config: The run's config.
        resume: Go on with a run that was interrupted; a new one is begun if there is none.
        overwrite: Replace the run that is there, once the new one has read its data.
        parent: The finished run that a new one goes on from.

    Returns:
        The run, whose lock this process holds.

    Raises:
        InputError: The data cannot be read (the message names file, row and what was expected);
            or there is a run and neither `resume` nor `overwrite` is set; or another process
            trains it; or it has another format, config or data; or the directory cannot be
            written.
    """
    root = _place(config.run_dir)
    if not _is_new(root, resume, overwrite):
        return _resume(config, root)
    replaces = lock_to_replace(root) if RunPaths(root).manifest.exists() else None
    try:
        return _begin(config, root, replaces, parent)
    finally:
        if replaces is not None:
            replaces.release()


def read_run_data(config: Config, directory: RunDirectory | None = None) -> RunData:
    """Reads what a run trains on.

    Args:
        config: The run's config.
        directory: What `begin_or_resume` gave to the first rank; None on the others.

    Raises:
        InputError: The run has another config, or is damaged.
    """
    directory = directory or RunDirectory.open(_place(config.run_dir))
    run = Run(directory)
    _check_same_config(config, run.config, directory.root)
    written, max_tokens = TokenFile(directory.item_texts), config.data.max_text_tokens
    texts = ItemTexts(run.catalog, run.vocabulary, max_tokens, written)
    is_refitted, is_shown = config.train.refit, _is_shown(config)
    train = TokenFile(directory.train_rows)
    refit = TokenFile(directory.refit_rows) if is_refitted else None
    train_shown = TokenFile(directory.train_shown) if is_shown else None
    refit_shown = TokenFile(directory.refit_shown) if is_shown and is_refitted else None
    return RunData(
        directory, run.catalog, run.vocabulary, texts, train, refit, train_shown, refit_shown
    )


def _is_shown(config: Config) -> bool:
    """Whether scoring learns from what users were shown."""
    return bool(config.data.impressions) and config.recommender.scoring > 0


def _place(run_dir: str) -> Path:
    """Where the run really is; a link is followed, so that it can stand for the run for good."""
    try:
        return Path(run_dir).resolve()
    except (OSError, RuntimeError) as error:  # a loop of links
        raise InputError(f"{run_dir}: cannot be used: {error}") from error


def _is_new(root: Path, resume: bool, overwrite: bool) -> bool:
    """Whether a run is to begin there; else one is to be resumed.

    Raises:
        InputError: Neither can be done.
    """
    try:
        recover(root)
        is_begun = RunPaths(root).manifest.exists()
        is_taken = root.is_dir() and not is_begun and any(root.iterdir())
    except OSError as error:
        raise InputError(f"{root}: cannot be read: {error.strerror}") from error
    if is_begun and resume and not overwrite:
        return False
    if is_begun and not overwrite:
        raise InputError(
            f"{root}: there is a run already; --resume goes on with it, "
            f"--overwrite starts anew, run_dir=PATH puts this one elsewhere"
        )
    if is_taken:
        raise InputError(f"{root}: is no run, and is not empty: name another run_dir")
    if root == Path.cwd() or root in Path.cwd().parents:
        raise InputError(
            f"{root}: a run cannot begin in the current directory or above it: name another run_dir"
        )
    return True


def _begin(
    config: Config, root: Path, replaces: FileLock | None, parent: Parent | None
) -> RunDirectory:
    dataset = load_dataset(config.data) if parent is None else parent.dataset(config)
    catalog, impressions = dataset.catalog, None
    news = [] if parent is None else parent.lines(dataset, config)
    report = dataset.report
    for line in [*(report.lines() if report.num_events else report.notes), *news]:
        print(printable(line), flush=True)
    split = split_histories(dataset.histories, config.data)
    if _is_shown(config):
        impressions, dataset = _read_shown(config.data, dataset, split)
    config = decide(config, split.train)
    vocabulary = _vocabulary(config, catalog) if parent is None else parent.run.vocabulary
    check_before_training(config, catalog, dataset.histories.num_users, len(vocabulary))
    warn_of_full_disk(config, root, len(vocabulary))

    recipe = recipe_of(config.data) if parent is None or parent.is_whole else parent.run.recipe

    def write_data(paths: RunPaths) -> None:
        catalog.save(paths.items)
        dataset.histories.save(paths.histories)
        vocabulary.save(paths.root)
        if recipe is not None:
            write_json(paths.recipe, recipe.as_json())
        ItemTexts.write(catalog, vocabulary, config.data.max_text_tokens, paths.item_texts)
        TokenFile.write(paths.train_rows, iter(split.train))
        if config.train.refit:
            TokenFile.write(paths.refit_rows, iter(split.before_test))
        if impressions is not None:
            num_users = dataset.histories.num_users
            TokenFile.write(paths.train_shown, impressions.documents(num_users, TRAIN))
            if config.train.refit:
                TokenFile.write(paths.refit_shown, impressions.documents(num_users, VALID))
        if parent is not None:
            parent.copy_into(paths)

    lineage = None if parent is None else parent.lineage()
    origin = RunOrigin(config, dataset.name, _sources(dataset), lineage)
    return RunDirectory.create(root, origin, write_data, replaces)


def _read_shown(
    settings: DataConfig, dataset: Dataset, split: Split
) -> tuple[Impressions, Dataset]:
    """What users were shown, and the data set with that file among its sources.

    Raises:
        InputError: It cannot be read, or the events were not read from a file of that folder.
    """
    path, interactions = (
        Path(settings.path) / n for n in (settings.impressions, settings.interactions)
    )
    if interactions not in dataset.sources:
        raise InputError(
            f"data.impressions = {settings.impressions!r} needs events of files whose times are "
            f"known (data.name = 'files'; with --from, all data of today by --data)"
        )
    columns = EventColumns.of(settings)
    found = read_impressions(path, interactions, columns, dataset.catalog, split)
    print(
        f"read {len(found.rows):,} items that users were shown, {found.labels.mean():.1%} clicked",
        flush=True,
    )
    return found, dataclasses.replace(dataset, sources=(*dataset.sources, path))


def _resume(config: Config, root: Path) -> RunDirectory:
    directory = RunDirectory.open_to_write(root)
    try:
        written = directory.read_config()
        _check_same_config(config, written, root)
        _check_same_data(directory, config)
        run = Run(directory)
        config = decide(config, run.split.train)
        num_users = len(TokenFile(directory.train_rows))
        check_before_training(config, run.catalog, num_users, len(run.vocabulary))
        if config != written:
            directory.write_config(config)
    except BaseException:
        directory.close()
        raise
    return directory


def decide(config: Config, train: Histories) -> Config:
    """Decides what a config leaves to the data, and says so.

    Where people come back to an item, leaving out what they have seen would make every return a
    miss; where hardly anybody does, seen items only take places away.

    Args:
        config: The run's config.
        train: What may be learnt from.

    Returns:
        The config with `decoding.exclude_history` true or false.
    """
    if config.decoding.exclude_history != "auto":
        return config
    share = train.share_of_repeats
    is_rare = share < COMMON_REPEATS
    print(
        f"decoding.exclude_history = {str(is_rare).lower()}: {share:.1%} of the training events "
        f"repeat an item of the user",
        flush=True,
    )
    decoding = dataclasses.replace(config.decoding, exclude_history=is_rare)
    return dataclasses.replace(config, decoding=decoding)


def _vocabulary(config: Config, catalog: Catalog) -> Vocabulary:
    """The backbone's, or one that is learned from the catalogue."""
    if config.model.backbone:
        return Backbone(config.model.backbone).vocabulary()
    columns = catalog.fields.items()
    texts = [f"{field}: {text}" for field, column in columns for text in column if text]
    return TextVocabulary.train(texts, config.data.text_vocab_size)


def _sources(dataset: Dataset) -> dict[str, str]:
    return {str(path.resolve()): sha256(path) for path in dataset.sources}


def _check_same_config(wanted: Config, written: Config, root: Path) -> None:
    """Refuses another value of a key that makes the run what it is."""
    for change in changes(written, wanted):
        if not change.is_runtime:
            raise InputError(
                f"{root}: was begun with {change.key} = {change.old!r}, resumed with {change.new!r}"
            )


def _check_same_data(directory: RunDirectory, config: Config) -> None:
    """Refuses a run whose files were changed, or whose sources say something else now.

    A source that is gone is no error, nor one that moved: the run needs nothing but itself. What a
    later stage made may be missing, it is made again.
    """
    manifest = directory.read_manifest()
    for name in manifest.files:
        path = directory.root / name
        is_made_later = path in directory.made_later
        if manifest.parent is not None and path == directory.tokenizer_weights:
            is_made_later = False  # they are the old run's
        if not path.exists() and not is_made_later:
            raise InputError(f"{path}: lost since the run began; --overwrite starts anew")
        if (
            path.exists()
            and manifest.is_current(name)
            and (problem := directory.problem(name, manifest))
        ):
            remedy = "remove it, and --resume makes it again"
            raise InputError(
                f"{path}: {problem}; {remedy if is_made_later else '--overwrite starts anew'}"
            )
    for name, digest in manifest.sources.items():
        moved = Path(config.data.path).resolve() / Path(name).name
        path = moved if config.data.path and os.path.isfile(moved) else Path(name)
        if os.path.isfile(path) and sha256(path) != digest:
            raise InputError(f"{path}: changed since the run began; --overwrite starts anew")
