"""The command `store-engine VERB ...`, and what its verbs share.

Each verb is a module of this package (`add-items` is add_items.py) with a `main(argv)` that returns
the exit status, one of `STATUSES`.

Nothing here imports PyTorch, so that --help answers at once; a verb loads what it needs when it
runs.
"""

import argparse
import contextlib
import importlib
import itertools
import json
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

from store_engine.errors import InputError, nearest
from store_engine.extras import needs
from store_engine.terminal import escape_unencodable_output, printable

VERBS = {
    "prepare": "make a folder to train on out of files as they come",
    "train": "train the one LLM and measure it (start it with `deepspeed` for several ranks)",
    "evaluate": "measure a run again, also with another beam",
    "sweep": "train a list of variants and rank them by validation",
    "recommend": "recommend items after a history",
    "serve": "answer over HTTP, with replicas on Ray Serve",
    "tokenize": "give SIDs to items",
    "evidence": "count item-item evidence anew with new events, without training",
    "add-items": "add new items of a file to a run's catalogue",
    "remove-items": "remove items from a run's catalogue",
    "compact": "make what changed since training a part of the run's files",
    "forget": "delete a user from a run",
    "export": "export a run as a Hugging Face folder",
    "import": "make a run of an exported folder",
    "report": "show a run on one HTML page: curves, results, codes, a map, examples",
    "plot": "draw a run's losses, learning rate and throughput",
    "check": "say what of a run is whole and what is not",
    "bench": "time a run's recommendations beside plain PyTorch",
    "completion": "print what completes these commands in a shell",
}
STATUSES = {
    0: "done",
    1: "training or a model gave numbers that are not finite",
    2: "the input is wrong, or a file cannot be read or written: one line on stderr says which",
    130: "interrupted from the keyboard",
    141: "whatever read the output (`| head`) has closed it",
}
# what a verb takes besides the core; a verb that is not here may name a smaller extra
_EXTRAS = {
    "prepare": "prepare",
    "train": "train",
    "evaluate": "train",
    "sweep": "train",
    "serve": "serve",
    "tokenize": "train",
    "evidence": "train",
    "add-items": "train",
    "report": "train",
    "plot": "watch",
    "export": "export",
    "import": "export",
    "completion": "cli",
}
_USAGE = "usage: store-engine VERB ...\n\n{}\n\nstore-engine VERB --help says more, with an example"


def main(argv: list[str] | None = None) -> int:
    """Runs `store-engine VERB ...`.

    Args:
        argv: Arguments; None takes those of the process.

    Returns:
        The exit status; see the module's docstring.
    """
    escape_unencodable_output()
    verb, *arguments = (sys.argv[1:] if argv is None else argv) or ["--help"]
    return guard(lambda: _start(verb, arguments) if verb in VERBS else _show_usage(verb))


def run_verb(
    verb: str,
    description: str,
    add_arguments: Callable[[argparse.ArgumentParser], None],
    act: Callable[[argparse.Namespace], None],
    argv: list[str] | None,
) -> int:
    """Parses a verb's arguments and does what it does.

    Args:
        verb: Its name, for the usage line.
        description: What --help says, with an example.
        add_arguments: Declares the arguments.
        act: Does the work; InputError ends it.
        argv: Arguments after the verb; None takes those of the process.

    Returns:
        The exit status.
    """
    escape_unencodable_output()
    parser = VerbParser(verb, description)
    add_arguments(parser)
    args = parser.parse_intermixed_args(argv)
    _settle_run(parser, args)

    def status() -> int:
        act(args)
        return 0

    return guard(status)


def guard(act: Callable[[], int]) -> int:
    """Turns what a user can cause into one line on stderr and an exit status.

    Args:
        act: Returns the exit status of what went well.

    Returns:
        The exit status.
    """
    try:
        status = act()
        if sys.stdout is not None:
            sys.stdout.flush()
        return status
    except BrokenPipeError:
        _drop_output()
        return 141
    except KeyboardInterrupt:
        return _say("interrupted", 130)
    except FloatingPointError as error:
        return _say(f"error: {error}", 1)
    except InputError as error:
        return _say(f"error: {error}", 2)
    except OSError as error:
        if error.filename is None:  # stdout itself: a full disk behind `>`
            _drop_output()
        where = "output" if error.filename is None else error.filename
        return _say(f"error: {where}: {error.strerror or error}", 2)


class _CollectedError(Exception):
    """Carries a verb's parser out of its `main`."""


_COLLECT: list[str] = []  # this very list: no arguments, the parser is wanted


class VerbParser(argparse.ArgumentParser):
    """A parser whose usage names the verb, and whose errors cannot steer the terminal.

    Args:
        verb: The verb.
        description: What --help says.
    """

    def __init__(self, verb: str, description: str) -> None:
        super().__init__(
            prog=f"store-engine {verb}",
            description=description,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parses, as all ways to parse do at last; or gives itself to `parser_of`."""
        if args is _COLLECT:
            raise _CollectedError(self)
        self._refuse_unknown(sys.argv[1:] if args is None else args)
        return super().parse_known_args(args, namespace)

    def _refuse_unknown(self, args: Sequence[str]) -> None:
        """Names an option that is none, before argparse asks for what it thus missed."""
        for arg in itertools.takewhile(lambda arg: arg != "--", args):
            name = arg.partition("=")[0]
            known = self._option_string_actions
            if name.startswith("--") and " " not in name and name not in known:
                near = nearest(name, known)
                self.error(f"no option is named {name}" + (f"; {near}?" if near else ""))

    def format_help(self) -> str:
        """Adds what the exit statuses mean, one line each."""
        statuses = "\n".join(f"  {status:<4} {what}" for status, what in STATUSES.items())
        return f"{super().format_help()}\nexit status:\n{statuses}\n"

    def error(self, message: str) -> NoReturn:
        """Prints the usage and what is wrong, then exits with status 2."""
        super().error(printable(message))


def module_of(verb: str) -> str:
    """Returns the name of a verb's module."""
    return verb.replace("-", "_")


def parser_of(verb: str) -> VerbParser:
    """Returns the parser of a verb, which does nothing."""
    try:
        importlib.import_module(f"store_engine.cli.{module_of(verb)}").main(_COLLECT)
    except _CollectedError as collected:
        parser: VerbParser = collected.args[0]
        return parser
    raise ValueError(f"{verb} parses its arguments by no VerbParser")


def add_run_argument(parser: argparse.ArgumentParser) -> None:
    """Declares the run directory: the first argument, or --run DIR."""
    parser.add_argument("run", nargs="?", type=Path, metavar="RUN", help="the run directory")
    parser.add_argument("--run", dest="run_option", type=Path, metavar="DIR", help="the same")


def add_overrides_argument(parser: argparse.ArgumentParser, example: str) -> None:
    """Declares `section.key=value ...`, after the run directory."""
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="section.key=value",
        help=f"change a value of the config, such as {example}",
    )


def add_json_argument(parser: argparse.ArgumentParser) -> None:
    """Declares --json."""
    parser.add_argument("--json", action="store_true", help="print JSON and nothing else")


def add_device_argument(parser: argparse.ArgumentParser) -> None:
    """Declares --device; who loads a model looks whether the device is there."""
    parser.add_argument(
        "--device",
        type=_device_name,
        default="auto",
        help="cpu, cuda, cuda:N, or auto: cuda where there is one (default)",
    )


def add_backend_argument(parser: argparse.ArgumentParser) -> None:
    """Declares --backend."""
    parser.add_argument(
        "--backend",
        choices=["auto", "cpp", "torch", "triton", "graph"],
        default="auto",
        help="of the beam search (default auto)",
    )


def claim_output(out: Path, *inputs: Path) -> None:
    """Makes the folder of what is to be written, before anything is loaded.

    Args:
        out: The file or folder that an option names.
        inputs: The files that the verb reads.

    Raises:
        InputError: `out` is one of the inputs, or a file of a run, this one or another; or its
            folder cannot be made or written to.
    """
    from store_engine.runs.run_paths import RunPaths

    try:
        place = out.resolve()
        is_own = any(
            (root / "run.json").is_file() and RunPaths(root).holds(place) for root in place.parents
        )
        is_input = any(path.resolve() == place for path in inputs)
    except (OSError, RuntimeError, ValueError) as error:  # a loop of links, a NUL
        raise InputError(f"{out}: cannot be written: {error}") from error
    if is_own:
        raise InputError(f"{out}: is a file of a run, name another output")
    if is_input:
        raise InputError(f"{out}: is read, name another output")
    folder = place.parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        what = f"{error.filename}: {error.strerror}"
        raise InputError(f"{out}: its folder cannot be made: {what}") from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise InputError(f"{out}: its folder cannot be written to: Permission denied")


def print_json(value: Any) -> None:
    """Prints JSON on stdout.

    Raises:
        FloatingPointError: A number is not finite, which JSON cannot say.
    """
    try:
        text = json.dumps(value, indent=1, allow_nan=False)
    except ValueError as error:
        raise FloatingPointError("the result holds a number that is not finite") from error
    print(text)


def warn(message: str) -> None:
    """Prints what is no error and should be looked at, on stderr."""
    print(f"warning: {printable(message)}", file=sys.stderr)


@contextlib.contextmanager
def warnings_as_lines() -> Iterator[None]:
    """Prints the warnings of the library, each as one line on stderr."""
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always", UserWarning)
        try:
            yield
        finally:
            for one in found:
                warn(str(one.message))


def _start(verb: str, arguments: list[str]) -> int:
    # libgomp reads it when torch is loaded: a thread that waits for the others sleeps soon. On
    # cores that other processes keep busy, long spinning makes two threads ten times slower
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    with needs(f"store-engine {verb}", _EXTRAS.get(verb)):
        module = importlib.import_module(f"store_engine.cli.{module_of(verb)}")
        status: int = module.main(arguments)
        return status


def _show_usage(verb: str) -> int:
    """Prints the help or the version, or refuses an unknown verb."""
    listed = "\n".join(f"  {name:<12} {what}" for name, what in VERBS.items())
    if verb in ("-h", "--help"):
        print(_USAGE.format(listed))
    elif verb == "--version":
        from store_engine import __version__

        print(__version__)
    else:
        near = nearest(verb, VERBS)
        hint = f"did you mean {near!r}?" if near else "store-engine --help lists them"
        raise InputError(f"no verb is named {verb!r}; {hint}")
    return 0


def _settle_run(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Makes `args.run` the run directory, by whichever way it was given."""
    if "run_option" not in args:
        return
    if args.run_option is None and args.run is None:
        parser.error("the run directory is missing: RUN or --run DIR")
    if args.run_option is not None:
        if args.run is not None and "overrides" not in args:
            parser.error(f"one run directory is wanted, got {args.run} and {args.run_option}")
        if args.run is not None:  # the first argument was no run then, but an override
            args.overrides.insert(0, str(args.run))
        args.run = args.run_option


def _device_name(text: str) -> str:
    if not re.fullmatch(r"auto|cpu|cuda(:\d{1,3})?", text):
        raise argparse.ArgumentTypeError(f"must be cpu, cuda, cuda:N or auto, got {text!r}")
    return text


def _drop_output() -> None:
    """Sends the rest of stdout nowhere, so that Python's last flush does not fail again."""
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), sys.stdout.fileno())


def _say(line: str, status: int) -> int:
    with contextlib.suppress(OSError):  # nobody reads stderr any more: the status is what is left
        print(printable(line), file=sys.stderr)
    return status
