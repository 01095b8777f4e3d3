"""Prints a script that completes verbs, options and file names in a shell.

store-engine completion bash >> ~/.bashrc
store-engine completion zsh > "${fpath[1]}/_store-engine"
store-engine completion fish > ~/.config/fish/completions/store-engine.fish
"""

import argparse

from store_engine.cli.main import VERBS, parser_of, run_verb

SHELLS = ("bash", "zsh", "fish")
_FOLDERS = ("RUN", "DIR")
_FILES = ("FILE", "PATH", "PLAN", "FILE.csv", "FILE.jsonl")


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    return run_verb("completion", __doc__, _add_arguments, _complete, argv)


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", choices=SHELLS, help="the shell")


def _complete(args: argparse.Namespace) -> None:
    import shtab

    whole = argparse.ArgumentParser(prog="store-engine")
    whole.add_argument("--version", action="store_true", help="print the version")
    verbs = whole.add_subparsers(dest="verb", parser_class=argparse.ArgumentParser)
    for verb, what in VERBS.items():
        of_verb = parser_of(verb)
        for action in of_verb._actions:
            if action.metavar in _FOLDERS:
                action.complete = shtab.DIRECTORY  # type: ignore[attr-defined]
            elif action.metavar in _FILES:
                action.complete = shtab.FILE  # type: ignore[attr-defined]
        verbs.add_parser(verb, help=what, parents=[of_verb], add_help=False)
    print(shtab.complete(whole, args.shell))
