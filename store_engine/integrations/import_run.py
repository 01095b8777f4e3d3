"""A folder that `export_run` wrote, as a run again.

The weights may have been trained on by others meanwhile, in transformers: they are read from the
Hugging Face files. Everything else is read from `store_engine/`, whose digests must be right.
"""

import dataclasses
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from store_engine._C import ItemTrie
from store_engine.config import Config
from store_engine.data.histories import Histories
from store_engine.errors import InputError
from store_engine.integrations.export_run import ITEM_WEIGHTS
from store_engine.model.backbones.backbone import Backbone
from store_engine.model.weights import read_weights, save_weights
from store_engine.runs.run import Run
from store_engine.runs.run_directory import RunDirectory, RunOrigin
from store_engine.runs.run_paths import RunPaths
from store_engine.sid.item_tokens import recommender_model
from store_engine.text.vocabulary import EXPORTED_RUN


def import_run(folder: Path, to: Path) -> Run:
    """Makes a run of an exported folder.

    It recommends as the run that was exported. It has no histories, which an export never holds,
    and cannot tokenise new items, which needs the weights of stage 1.

    Args:
        folder: What `export_run` wrote.
        to: The run directory to make.

    Returns:
        The run.

    Raises:
        InputError: `to` is there already or cannot be written, or a file of the folder is missing,
            damaged, or does not fit the others.
    """
    if to.exists() or to.is_symlink():
        raise InputError(f"{to}: is there already, name a new run directory")
    if not (folder / EXPORTED_RUN).is_dir():
        raise InputError(
            f"{folder}: is not a folder that store-engine export wrote, it has no {EXPORTED_RUN}/"
        )
    source = Run(RunDirectory.open(folder / EXPORTED_RUN), verify=True)
    config, weights = _read_model(folder, source)
    evidence, table = source.evidence, source.sid_table

    def write_data(paths: RunPaths) -> None:
        source.catalog.save(paths.items)
        Histories((), np.zeros(0, np.int32), np.zeros(1, np.int64)).save(paths.histories)
        source.vocabulary.save(paths.root)

    origin = RunOrigin(dataclasses.replace(config, run_dir=str(to)), source.dataset)
    with RunDirectory.create(to, origin, write_data) as run:
        with run.writing(run.sids):
            table.save(run.sids)
        with run.writing(run.trie, run.model_weights):
            ItemTrie(table.sids, list(table.codebook_sizes)).save(str(run.trie))
            save_weights(weights, run.model_weights)
        if evidence is not None:
            with run.writing(run.evidence):
                evidence.save(run.evidence)
    return Run(run)


def _read_model(folder: Path, source: Run) -> tuple[Config, dict[str, Tensor]]:
    """Reads the weights under our names, and the config that fits them."""
    backbone, config, text_size = Backbone(folder), source.config, len(source.vocabulary)
    weights = dict(backbone.weights(text_size)) | dict(backbone.code_weights(text_size))
    # a head of its own may have become one, where others trained on
    is_tied = config.model.tie_text_head and torch.equal(
        weights["text_head.weight"], weights["text_embedding.weight"]
    )
    sizes = backbone.sizes | {"tie_text_head": is_tied}
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, **sizes))
    if is_tied:
        del weights["text_head.weight"]
    items = source.directory.root / ITEM_WEIGHTS
    if items.exists():
        source.directory.check(items)
        weights |= read_weights(items)
    with torch.device("meta"):
        model = recommender_model(config, text_size, source.sid_table)
    for name, parameter in model.named_parameters():
        shape = tuple(weights[name].shape) if name in weights else "no tensor"
        if shape != tuple(parameter.shape):
            raise InputError(
                f"{folder}: '{name}' must be {tuple(parameter.shape)} for the SIDs, vocabulary and "
                f"config in {EXPORTED_RUN}/, got {shape}"
            )
    return config, weights
