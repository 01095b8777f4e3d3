"""Recommends to many users at once: what `store-engine recommend` does with --input or --users."""

import argparse
import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from store_engine.cli.main import claim_output, print_json
from store_engine.errors import InputError
from store_engine.terminal import make_console, printable

if TYPE_CHECKING:
    from store_engine.serving.batch.recommender import (
        BatchRecommender,
        ServedShard,
        Ticked,
        Work,
    )
    from store_engine.serving.batch.shards import Shard

_MANY = ("input", "users", "all_users")
_GOES_WITH = {
    "output": "--input, --users or --all-users",
    "overwrite": "--output",
    "ray": "--input",
    "threads": "--ray",
}


def add_batch_arguments(parser: argparse.ArgumentParser, who: Any) -> None:
    """Declares the options of a batch.

    Args:
        parser: Of the verb.
        who: The group of arguments that say whom to recommend to, of which one is given.
    """
    who.add_argument(
        "--input",
        type=Path,
        metavar="PATH",
        help="a .parquet, .jsonl, .csv or .tsv file with columns user_id and history (a list of "
        "item ids; in a csv text: 50,181 or a JSON list), or a folder of such shards",
    )
    who.add_argument("--users", metavar="IDS", help="users of the run, by id")
    who.add_argument("--all-users", action="store_true", help="all users of the run")
    parser.add_argument(
        "--output",
        type=Path,
        metavar="PATH",
        help="of many users: a .parquet or .jsonl file with columns user_id, item_ids and scores, "
        "or a .csv or .tsv file with a row per user and rank; .gz behind a text's name compresses "
        "it; for a folder a folder, with a Parquet file for each of the input; what is there "
        "already is kept",
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace outputs of other options or another run"
    )
    parser.add_argument(
        "--unknown",
        choices=["error", "skip"],
        default="error",
        help="ids in --input that no item has: refuse the file (default), or leave them out",
    )
    parser.add_argument("--ray", action="store_true", help="share the shards among a Ray cluster")
    parser.add_argument(
        "--threads", type=int, metavar="N", help="of each of Ray's actors (default 1)"
    )


def is_batch(args: argparse.Namespace) -> bool:
    """Whether recommendations go into a file.

    Raises:
        InputError: The options do not go together.
    """
    is_shown = args.users is not None and args.output is None  # on the screen, one after another
    if is_shown or all(getattr(args, name) in (None, False) for name in _MANY):
        for name, others in _GOES_WITH.items():
            if getattr(args, name) not in (None, False):
                raise InputError(f"--{name} is of use only with {others}")
        return False
    if args.output is None:
        raise InputError(
            "--output is missing: a .parquet, .jsonl, .csv or .tsv file for the recommendations "
            "of many users"
        )
    if args.ray and args.input is None:
        raise InputError("--ray shares out the files of --input, got users of the run")
    if args.threads is not None and (not args.ray or not 1 <= args.threads <= 1024):
        raise InputError("--threads goes with --ray and must be in [1, 1024]")
    return True


def recommend_batch(
    args: argparse.Namespace,
    users: Sequence[str] | None,
    allow: Sequence[str] | None,
    deny: Sequence[str],
) -> None:
    """Writes recommendations for many users.

    Args:
        args: Of the command line.
        users: Ids of --users.
        allow: Recommend none but these items; None: all.
        deny: Recommend none of these.
    """
    claim_output(args.output, *filter(None, [args.input]))
    # here, because it takes seconds that --help need not wait for
    from store_engine.serving.batch.recommender import (
        BatchOptions,
        BatchRecommender,
        EngineChoice,
        output_folder,
    )
    from store_engine.serving.batch.shards import plan_shards

    options = BatchOptions(
        k=args.k,
        beam_width=args.beam_width,
        exact=args.exact,
        exclude_history=args.exclude_history,
        allow=None if allow is None else tuple(allow),
        deny=tuple(deny),
        unknown=args.unknown,
    )
    recommender = BatchRecommender(EngineChoice(args.run, args.device, args.backend), options)
    with _Progress() as progress:
        if args.input is None:
            done = _serve_users(recommender, users, args.output, args.overwrite, progress)
        else:
            shards = plan_shards(args.input, args.output)
            with output_folder(args.output if args.input.is_dir() else None):
                done = _serve_shards(recommender, shards, args, progress)
    if args.json:
        print_json(done._asdict() | {"output": str(args.output)})
    else:
        make_console(soft_wrap=True).print(done.in_words(args.output))


class Done(NamedTuple):
    """What a batch came to."""

    num_shards: int
    num_kept: int  # shards whose output was there already
    num_users: int
    num_unknown: int

    def in_words(self, output: Path) -> str:
        """One line for the eye."""
        line = f"{output}: {self.num_users:,} users served"
        if self.num_kept:
            line += f"; {self.num_kept:,} of {self.num_shards:,} files were there already"
        if self.num_unknown:
            line += f"; {self.num_unknown:,} events left out, whose items are unknown"
        return line


def _serve_users(
    recommender: "BatchRecommender",
    users: Sequence[str] | None,
    output: Path,
    overwrite: bool,
    progress: "_Progress",
) -> Done:
    """Serves users of the run."""
    from store_engine.serving.batch.outputs import check_form, is_made_from

    check_form(output)
    histories = recommender.histories_of(users)
    origin = recommender.origin_of(histories)
    if is_made_from(output, origin, overwrite):
        return Done(1, 1, 0, 0)
    with progress.shard(output.name) as ticked:
        recommender.serve_users(histories, output, origin, ticked)
    return Done(1, 0, histories.num_users, 0)


def _serve_shards(
    recommender: "BatchRecommender",
    shards: Sequence["Shard"],
    args: argparse.Namespace,
    progress: "_Progress",
) -> Done:
    """Serves what is still to do of --input. One bad shard does not keep back the others."""
    work = recommender.pending(shards, args.overwrite)
    num_users = num_unknown = 0
    problems = []
    progress.begin(len(shards), len(shards) - len(work))
    results = _with_ray(recommender, work, args) if args.ray else _here(recommender, work, progress)
    for result in results:
        if result.served is None:
            problems.append(result.problem)
        else:
            num_users += result.served.num_users
            num_unknown += result.served.num_unknown
        progress.advance()
    if problems:
        others = f"; {len(problems) - 1:,} more files are wrong" if len(problems) > 1 else ""
        raise InputError(problems[0] + others)
    return Done(len(shards), len(shards) - len(work), num_users, num_unknown)


def _here(
    recommender: "BatchRecommender", work: "Work", progress: "_Progress"
) -> Iterator["ServedShard"]:
    from store_engine.serving.batch.recommender import ServedShard

    for shard, origin in work:
        with progress.shard(shard.source.name) as ticked:
            try:
                yield ServedShard(shard, recommender.serve_shard(shard, origin, ticked), "")
            except InputError as error:
                yield ServedShard(shard, None, str(error))


def _with_ray(
    recommender: "BatchRecommender", work: "Work", args: argparse.Namespace
) -> Iterator["ServedShard"]:
    from store_engine.serving.batch.ray_data import serve_with_ray

    return serve_with_ray(recommender.choice, recommender.options, work, args.threads or 1)


class _Progress:
    """A bar of the shards and one of the users of a shard, on stderr."""

    def __init__(self) -> None:
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
        )

        console = make_console(stderr=True)  # stdout is for the result alone
        self._bars = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
            transient=True,
        )
        self._shards = self._bars.add_task("shards", visible=False)

    def __enter__(self) -> "_Progress":
        self._bars.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._bars.stop()

    def begin(self, num_shards: int, num_done: int) -> None:
        """Shows how many shards there are, and how many of them are done."""
        self._bars.update(
            self._shards, total=num_shards, completed=num_done, visible=num_shards > 1
        )

    def advance(self) -> None:
        """One more shard is done."""
        self._bars.advance(self._shards)

    @contextlib.contextmanager
    def shard(self, name: str) -> Iterator["Ticked"]:
        """Shows a shard's users while it is served."""
        task = self._bars.add_task(printable(name), total=None)
        try:
            yield lambda done, total: self._bars.update(task, completed=done, total=total)
        finally:
            self._bars.remove_task(task)
