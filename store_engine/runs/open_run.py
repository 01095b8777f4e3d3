"""Opening a run directory: a new one, or one to go on with.

A new run reads all its data first and appears with it, in one rename: bad input leaves nothing
behind, and from then on the run needs nothing but itself.
"""

import dataclasses
import json
import os
import shutil
from pathlib import Path
from typing import NamedTuple

import torch

import store_engine
from store_engine.config import Config, dump_config, load_config
from store_engine.data.catalog import Catalog
from store_engine.data.load import load_dataset
from store_engine.data.split import leave_one_out
from store_engine.errors import InputError
from store_engine.files.digest import sha256
from store_engine.files.json_file import read_json
from store_engine.files.token_file import TokenFile
from store_engine.model.backbone import Backbone
from store_engine.runs.run_directory import check_run, mark_run
from store_engine.sid.dense_tokenizer import ItemTexts
from store_engine.text.text_vocabulary import TextVocabulary
from store_engine.text.vocabulary import Vocabulary, load_vocabulary

_DATA = "data.json"  # checksums of what the run trains on
_TEXTS, _TRAIN = "texts.tokens", "train.tokens"  # what training reads, mapped into memory


class RunData(NamedTuple):
    """What a run trains on, read from its own directory."""

    catalog: Catalog
    vocabulary: Vocabulary
    texts: ItemTexts  # on disk
    train: TokenFile  # what may be learnt from: catalogue rows, one document per user; on disk


def open_run(config: Config, resume: bool, overwrite: bool, is_first: bool) -> RunData:
    """Begins a run, or opens one to go on with.

    Args:
        config: The run's config.
        resume: Go on with a run that was interrupted; a new one is begun if there is none.
        overwrite: Remove the run that is there.
        is_first: This is rank 0, which writes; the others wait for it.

    Raises:
        InputError: The data cannot be read (the message names file, row and what was expected);
            or there is a run and neither `resume` nor `overwrite` is set; or it has another
            format, config or data; or the directory cannot be written.
    """
    run_dir = Path(config.run_dir)
    if is_first:
        is_begun = (run_dir / "run.json").exists()
        if is_begun and not (resume or overwrite):
            raise InputError(
                f"{run_dir}: there is a run already; --resume goes on with it, "
                f"--overwrite starts anew, run_dir=PATH puts this one elsewhere"
            )
        if not is_begun or overwrite:
            _begin(config, run_dir)
        else:
            _check_same_data(run_dir)
    torch.distributed.barrier()
    check_run(run_dir)
    _check_same_config(config, load_config(run_dir / "config.toml"), run_dir)
    catalog = Catalog.load(run_dir / "items.jsonl")
    vocabulary = load_vocabulary(run_dir)
    written, max_tokens = TokenFile(run_dir / _TEXTS), config.data.max_text_tokens
    texts = ItemTexts(catalog, vocabulary, max_tokens, written)
    return RunData(catalog, vocabulary, texts, TokenFile(run_dir / _TRAIN))


def _begin(config: Config, run_dir: Path) -> None:
    dataset = load_dataset(config.data)
    catalog, codebook_size = dataset.catalog, config.tokenizer.codebook_size
    if dataset.num_dropped_users:
        print(
            f"dropped {dataset.num_dropped_users:,} users "
            f"with fewer than {config.data.min_events} events"
        )
    if codebook_size > catalog.num_items:
        raise InputError(
            f"tokenizer.codebook_size must not exceed the number of items, "
            f"got {codebook_size} > {catalog.num_items}"
        )
    vocabulary = _vocabulary(config, catalog)
    partial = run_dir.with_name(run_dir.name + ".partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        catalog.save(partial / "items.jsonl")
        dataset.histories.save(partial / "histories.npz")
        vocabulary.save(partial)
        ItemTexts.write(catalog, vocabulary, config.data.max_text_tokens, partial / _TEXTS)
        train = leave_one_out(dataset.histories).train
        TokenFile.write(partial / _TRAIN, (train[user] for user in range(train.num_users)))
        files = sorted(path for path in partial.iterdir() if path.is_file())
        copies = {path.name: sha256(path) for path in files}
        sources = {str(path.resolve()): sha256(path) for path in dataset.sources}
        (partial / _DATA).write_text(json.dumps(copies | sources, indent=1), encoding="utf-8")
        (partial / "config.toml").write_text(dump_config(config), encoding="utf-8")
        mark_run(partial, store_engine.__version__)
        if (run_dir / "run.json").exists():
            shutil.rmtree(run_dir)
        os.replace(partial, run_dir)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise InputError(f"{run_dir}: cannot be written: {error.strerror}") from error


def _vocabulary(config: Config, catalog: Catalog) -> Vocabulary:
    """The backbone's, or one that is learned from the catalogue."""
    if config.model.backbone:
        return Backbone(config.model.backbone).vocabulary()
    columns = catalog.fields.items()
    texts = [f"{field}: {text}" for field, column in columns for text in column if text]
    return TextVocabulary.train(texts, config.data.text_vocab_size)


def _check_same_config(wanted: Config, written: Config, run_dir: Path) -> None:
    for section in dataclasses.fields(wanted):
        if section.name == "run_dir":
            continue
        want, was = vars(getattr(wanted, section.name)), vars(getattr(written, section.name))
        for name, value in want.items():
            if value != was[name]:
                raise InputError(
                    f"{run_dir}: was begun with {section.name}.{name} = {was[name]!r}, "
                    f"resumed with {value!r}"
                )


def _check_same_data(run_dir: Path) -> None:
    """Refuses a run whose copy of the data was changed, or whose sources say something else now.

    A source that is gone is no error: the run needs nothing but itself.
    """
    for name in (_TEXTS, _TRAIN):
        TokenFile(run_dir / name).verify()
    for name, checksum in read_json(run_dir / _DATA).items():
        file = run_dir / name  # a source's path is absolute and stands for itself
        if Path(name).is_absolute() and not file.exists():
            continue
        if not file.exists() or sha256(file) != checksum:
            what = "changed" if file.exists() else "lost"
            raise InputError(f"{file}: {what} since the run began; --overwrite starts anew")
