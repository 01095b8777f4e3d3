"""README.md of an exported run: what it is, how good, and how to use it."""

import dataclasses
import datetime
import io
import re
from pathlib import Path

from rich.console import Console

import store_engine
from store_engine.config import Config, dump_config
from store_engine.errors import InputError, shown
from store_engine.evaluation.report import print_metrics
from store_engine.files.json_file import read_json
from store_engine.integrations.huggingface import is_plain
from store_engine.runs.run import Run
from store_engine.terminal import printable

_USE = """
With transformers alone: a history is the tokens of its items' semantic IDs, and the answer those
of the next item.

```python
import json
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained(FOLDER)
model = AutoModelForCausalLM.from_pretrained(FOLDER)
with open(f"{FOLDER}/sids.json") as file:
    sids = json.load(file)  # item id -> tokens, such as ["<a_3>", "<b_41>"]
history = [token for item_id in HISTORY for token in sids[item_id]]
prompt = tokenizer("".join(history), return_tensors="pt")
```

`TrieLogitsProcessor` of store_engine lets `generate` write SIDs of the catalogue alone.
"""
_USE_OF_ITEMS = """
**The LLM of this folder is not the whole model.** Item rows and heads, which no family of
transformers has, are in `store_engine/items.safetensors`. `store-engine import` makes a run of the
folder that recommends as the original does; a folder that was exported with `--with-code` has a
Python file that recommends with transformers alone.
"""
_FRONT = """---
library_name: transformers
pipeline_tag: text-generation
tags: [recommendation, generative-retrieval, semantic-ids, store-engine]
---
"""
_WIDTH = 118  # of the table of metrics


def write_card(run: Run, family: str, path: Path) -> None:
    """Writes the model card.

    Args:
        run: The run that is exported.
        family: transformers' class of the LLM.
        path: README.md.

    Raises:
        InputError: A part of the run is damaged.
        OSError: The file cannot be written.
    """
    parts = [
        f"{_FRONT}\n# A semantic-ID recommender of {_inline(run.dataset)}\n",
        _facts(run, family),
        _USE if is_plain(run.model) else _USE_OF_ITEMS,
        _metrics(run),
        "## Config\n\n" + _verbatim(dump_config(portable(run.config))),
    ]
    path.write_text("\n".join(parts), encoding="utf-8")


def portable(config: Config) -> Config:
    """Takes the folders of this machine out of a config: paths keep their last name."""
    return dataclasses.replace(
        config,
        run_dir=Path(config.run_dir).name,
        data=dataclasses.replace(config.data, path=Path(config.data.path).name),
        model=dataclasses.replace(config.model, backbone=Path(config.model.backbone).name),
    )


def _facts(run: Run, family: str) -> str:
    manifest, table = run.directory.read_manifest(), run.sid_table
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    facts = {
        "Data set": f"{run.dataset}, {run.catalog.num_items:,} items",
        "Semantic IDs": " x ".join(map(str, table.codebook_sizes)) + " codes",
        "Model": f"{family}, {len(run.vocabulary):,} text tokens",
        "Trained": f"{manifest.created} by store_engine {manifest.version}",
        "Exported": f"{today} by store_engine {store_engine.__version__}",
    }
    lines = [f"| {name} | {_inline(value)} |" for name, value in facts.items()]
    return "\n".join(["| | |", "|---|---|", *lines, ""])


def _metrics(run: Run) -> str:
    path = run.directory.metrics
    if not run.directory.is_complete(path):
        return "## Metrics\n\nThe run was not measured.\n"
    metrics = read_json(path)
    console = Console(file=io.StringIO(), width=_WIDTH)
    try:
        print_metrics(metrics, console)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{path}: not the metrics of a run: {shown(error)}") from error
    when = _inline(f"Measured {metrics.get('date', 'at an unknown date')}.")
    assert isinstance(console.file, io.StringIO)
    return f"## Metrics\n\n{when}\n\n{_verbatim(console.file.getvalue())}"


def _verbatim(text: str) -> str:
    """As code by indentation, which no letter of the text can end."""
    lines = (printable(line).rstrip() for line in text.split("\n"))
    return "\n".join(f"    {line}".rstrip() for line in lines) + "\n"


def _inline(text: object) -> str:
    """As text of one line that is no markup."""
    return re.sub(r"([\\`*_{}\[\]<>#|~!&])", r"\\\1", printable(text))
