"""A run as a Hugging Face folder, which transformers loads with nothing of ours installed.

    config.json, generation_config.json, model*.safetensors    the LLM over text and codes
    tokenizer.json, tokenizer_config.json                      text and codes as tokens
    sids.json                                                  item id -> the tokens of its SID
    trie.bin                                                   the same as the core's trie
    README.md                                                  the model card
    store_engine/                                              what `import_run` needs besides
    modeling_store_engine.py                                   only if asked for

`store_engine/` is a run directory without weights and without histories: nobody's events leave the
house, nor do items that were removed. Paths in its config are cut to their last name.
"""

import contextlib
import dataclasses
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError
from tokenizers import Tokenizer
from transformers import PreTrainedModel

import store_engine
from store_engine.errors import InputError, shown
from store_engine.files.atomic import sync_directory, sync_tree
from store_engine.files.json_file import read_json, write_json
from store_engine.integrations.huggingface import export_huggingface, is_plain, item_weights
from store_engine.integrations.import_run import ITEM_WEIGHTS
from store_engine.integrations.model_card import portable, write_card
from store_engine.integrations.present_items import PresentItems, present_items
from store_engine.model.unified_vocabulary import UnifiedVocabulary
from store_engine.model.weights import save_weights
from store_engine.runs.run import Run
from store_engine.runs.run_directory import RunDirectory, RunOrigin
from store_engine.runs.run_paths import RunPaths
from store_engine.sid.sid_table import SidTable
from store_engine.text.fast_tokenizer import check_fast_tokenizer, code_tokens, fast_tokenizer
from store_engine.text.vocabulary import EXPORTED_RUN, Vocabulary

_SIZE = re.compile(r"[1-9]\d{0,8}[KMG]B")
_MIN_TOKENS = 4096  # of the context that config.json allows


class Exported(NamedTuple):
    """What was exported."""

    family: str  # transformers' class
    num_text_tokens: int
    is_plain: bool  # the LLM is all of the model; else item rows or heads stand beside it
    num_items: int
    num_removed: int  # more, which the run's journal says are removed


def export_run(
    run: Run, out: Path, *, max_shard_size: str = "5GB", with_code: bool = False
) -> Exported:
    """Exports a run into a new folder, without the items that its journal says are removed.

    The folder is written beside its place and moved there, so it stands complete or not at all.

    Args:
        run: A finished run.
        out: The folder to make; its parents are made too.
        max_shard_size: Largest file of weights, such as "2GB".
        with_code: Add a Python file with which `AutoModel.from_pretrained(out,
            trust_remote_code=True)` recommends where item rows and heads stand beside the LLM.

    Raises:
        InputError: `max_shard_size` is none, `out` is there already or cannot be written, the
            journal has items that the run's files have not,
            transformers has no family for the model, the text vocabulary cannot be written as a
            tokenizer.json, or there is no code for the model.
    """
    if not _SIZE.fullmatch(max_shard_size):
        raise InputError(
            f"a shard's size must be such as 500MB or 5GB, got {shown(max_shard_size)}"
        )
    present = present_items(run)
    plain = is_plain(present.model)
    if with_code:
        _check_code(run)
    with _new_folder(out) as folder:
        vocabulary, table = run.vocabulary, present.table
        levels = len(table.codebook_sizes)
        exported = export_huggingface(
            present.model,
            bos=vocabulary.bos_id,
            pad=vocabulary.pad_id,
            max_tokens=max(_MIN_TOKENS, 1 + levels * (run.config.data.max_history + 1)),
        )
        exported.config.store_engine = {
            "version": store_engine.__version__,
            "text_vocab_size": len(vocabulary),
            "codebook_sizes": list(table.codebook_sizes),
            "max_history": run.config.data.max_history,
            "is_plain": plain,
            "reads_items": run.config.recommender.history == "items",
        }
        if with_code:
            add_code(exported, folder)
        exported.save_pretrained(folder, max_shard_size=max_shard_size)
        for shard in folder.glob("*.safetensors"):  # safetensors lets nobody else read them
            shard.chmod((folder / "config.json").stat().st_mode)
        _write_tokenizer(present, vocabulary, folder)
        write_json(folder / "sids.json", sid_tokens(table), indent=None)
        present.trie.save(str(folder / "trie.bin"))
        _write_rest(run, present, folder / EXPORTED_RUN)
        write_card(run, type(exported).__name__, folder / "README.md")
    num_items = present.catalog.num_items
    num_removed = run.catalog.num_items - num_items
    return Exported(type(exported).__name__, len(vocabulary), plain, num_items, num_removed)


def sid_tokens(table: SidTable) -> dict[str, list[str]]:
    """Spells the SID of every item, in row order.

    Where the last level is the item itself, its last code is spelled like one, and is no token.
    """
    spelled = code_tokens(table.codebook_sizes)
    rows = UnifiedVocabulary(0, table.codebook_sizes).to_ids(table.sids).tolist()
    return {item: [spelled[i] for i in row] for item, row in zip(table.item_ids, rows, strict=True)}


def add_code(exported: PreTrainedModel, folder: Path) -> None:
    """Puts the Python file that recommends by heads into a folder, and into the LLM's config."""
    source = Path(__file__).with_name("modeling_store_engine.py")
    shutil.copyfile(source, folder / source.name)
    exported.config.auto_map = {"AutoModel": f"{source.stem}.StoreRecommender"}


@contextlib.contextmanager
def _new_folder(out: Path) -> Iterator[Path]:
    """Builds a folder beside its place and moves it there."""
    if out.exists() or out.is_symlink():
        raise InputError(f"{out}: is there already, name a new folder")
    partial = out.with_name(f"{out.name}.partial-{secrets.token_hex(8)}")
    try:
        partial.mkdir(parents=True)
        yield partial
        sync_tree(partial)
        os.rename(partial, out)
        sync_directory(out.parent)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{out}: cannot be written: {reason}") from error
    except InputError as error:
        raise InputError(str(error).replace(str(partial), str(out))) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _check_code(run: Run) -> None:
    model = run.model
    if model.level_heads is None:
        raise InputError(
            "with code only a run of recommender.decoder = 'heads' can be exported; "
            + ("this one needs none" if is_plain(model) else "there is none for this one")
        )


def _write_tokenizer(present: PresentItems, vocabulary: Vocabulary, folder: Path) -> None:
    fast = fast_tokenizer(vocabulary, code_tokens(present.model.codebook_sizes))
    document = json.dumps(fast.tokenizer, ensure_ascii=False)
    texts = (text for field in present.catalog.fields.values() for text in field)
    check_fast_tokenizer(Tokenizer.from_str(document), vocabulary, texts)
    (folder / "tokenizer.json").write_text(document, encoding="utf-8")
    write_json(folder / "tokenizer_config.json", fast.config)


def _write_rest(run: Run, present: PresentItems, root: Path) -> None:
    """Writes the rest of the run as a run directory that lacks weights and histories."""

    def write_data(paths: RunPaths) -> None:
        present.catalog.save(paths.items)
        run.vocabulary.save(paths.root)

    with RunDirectory.create(root, RunOrigin(portable(run.config), run.dataset), write_data) as to:
        with to.writing(to.sids):
            present.table.save(to.sids)
        if present.evidence is not None:
            with to.writing(to.evidence):
                present.evidence.save(to.evidence)
        if run.directory.is_complete(run.directory.metrics):
            with to.writing(to.metrics):
                write_json(to.metrics, _portable_metrics(run))
        if weights := item_weights(present.model):
            with to.writing(root / ITEM_WEIGHTS):
                save_weights(weights, root / ITEM_WEIGHTS)
    to.lock.unlink()


def _portable_metrics(run: Run) -> dict[str, Any]:
    """metrics.json without the folders of this machine."""
    metrics, own = read_json(run.directory.metrics), dataclasses.asdict(portable(run.config))
    config = metrics.get("config")
    if isinstance(config, dict):
        config["run_dir"] = own["run_dir"]
        for section, key in (("data", "path"), ("model", "backbone")):
            if isinstance(config.get(section), dict):
                config[section][key] = own[section][key]
    return metrics
