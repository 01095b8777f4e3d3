"""Gives SIDs to items, those of a run or new ones: text in, codes out. Nothing is trained.

store-engine tokenize runs/ml100k                        # how the codes are used
store-engine tokenize runs/ml100k --out sids.csv         # the run's SIDs
store-engine tokenize runs/ml100k --items new.csv --out new_sids.csv
store-engine tokenize runs/ml100k --items new.csv --out new_sids.csv --features new_features.npz
"""

import argparse
import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from store_engine.cli.add_items import add_columns_argument, read_new_items
from store_engine.cli.main import (
    add_device_argument,
    add_json_argument,
    add_run_argument,
    claim_output,
    print_json,
    run_verb,
    warn,
)
from store_engine.errors import InputError
from store_engine.files.atomic import atomic_open
from store_engine.terminal import printable

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from store_engine.data.catalog import Catalog
    from store_engine.runs.run import Run
    from store_engine.sid.new_sids import NewSids


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    return run_verb("tokenize", __doc__, _add_arguments, _tokenize, argv)


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add_run_argument(parser)
    parser.add_argument(
        "--items",
        metavar="FILE",
        help="new items: csv, tsv, parquet or jsonl with the run's columns",
    )
    add_columns_argument(parser)
    parser.add_argument("--out", metavar="FILE", help="csv to write: item_id, code_0, code_1, ...")
    parser.add_argument(
        "--features",
        metavar="FILE",
        help="npz to write: what Engine.add_items needs of --items beside their SIDs, where the "
        "last code is the item itself",
    )
    add_device_argument(parser)
    add_json_argument(parser)


def _tokenize(args: argparse.Namespace) -> None:
    read = [] if args.items is None else [Path(args.items)]
    for out in filter(None, (args.out, args.features)):
        claim_output(Path(out), *read)
    # here, because it takes seconds that --help need not wait for
    from store_engine.runs.run import Run
    from store_engine.runs.run_directory import RunDirectory
    from store_engine.sid.codebook_report import advice, codebook_report
    from store_engine.sid.collisions import describe

    run = Run(RunDirectory.open(args.run))
    table = run.sid_table
    _check_features(args, has_features=table.features is not None)
    if args.out is not None and Path(args.out).suffix.lower() != ".csv":
        raise InputError(f"{args.out}: is to be a csv, so the name of --out must end in .csv")
    if args.items is not None:
        catalog, (codes, features, _) = tokenize_new_items(
            run, args.items, args.columns, args.device
        )
        item_ids = catalog.item_ids
    else:
        item_ids, codes, features = table.item_ids, table.sids, None
    if args.features is not None:
        _write_features(args.features, item_ids, features)
    if args.out is not None:
        _write_csv(args.out, item_ids, codes)
    if args.items is None:
        report = codebook_report(table, run.config.tokenizer.num_codes)
        advised = advice(table, run.config.tokenizer.num_codes)
        if args.json:
            print_json(report | {"advice": advised})
        else:
            print("\n".join([describe(report), *advised]))
    elif args.json:
        print_json(dict(zip(item_ids, codes.tolist(), strict=True)))
    elif args.out is None:
        for item_id, code in zip(item_ids, codes.tolist(), strict=True):
            print(printable(item_id), *code)


def _check_features(args: argparse.Namespace, has_features: bool) -> None:
    if args.features is None:
        return
    if args.items is None or not has_features:
        raise InputError(
            "--features is for new items (--items) of a run whose last code is the item itself"
        )
    if args.out is not None and Path(args.out).resolve() == Path(args.features).resolve():
        raise InputError(f"{args.out}: is written twice, name another --features")


def tokenize_new_items(
    run: "Run",
    items: str | Path,
    columns: Mapping[str, str] = MappingProxyType({}),
    device: str = "auto",
) -> tuple["Catalog", "NewSids"]:
    """Gives SIDs to new items beside the run's own, as `Engine.add_items` does; adds nothing.

    Args:
        run: A finished run.
        items: A file with the columns of the run's catalogue.
        columns: What it calls them, where it has other names.
        device: Where the LLM reads them, as `Engine.load` takes it.

    Returns:
        The items with clean texts, and their SIDs.

    Raises:
        InputError: The file cannot be read, the run's SIDs came from a file of the user's, there
            is no room for so many items, or this machine has no such device.
    """
    from store_engine.live.item_tokenizer import ItemTokenizer
    from store_engine.model.dtype import choose_device

    tokenizer = ItemTokenizer(run, choose_device(device))
    read = tokenizer.read(read_new_items(run, items, columns))
    for remark in read.remarks:
        warn(remark)
    return read.items, tokenizer.choose(read, run.sid_table.sids)


def _write_features(
    path: str, item_ids: Sequence[str], features: "NDArray[np.float32] | None"
) -> None:
    import numpy as np

    assert features is not None
    try:
        with atomic_open(path) as file:
            np.savez(file, item_ids=np.array(item_ids, dtype=np.str_), features=features)
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror}") from error


def _write_csv(path: str, item_ids: Sequence[str], codes: "NDArray[np.int32]") -> None:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["item_id", *(f"code_{level}" for level in range(codes.shape[1]))])
    writer.writerows([i, *code] for i, code in zip(item_ids, codes.tolist(), strict=True))
    try:
        with atomic_open(path) as file:
            file.write(text.getvalue().encode())
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror}") from error
