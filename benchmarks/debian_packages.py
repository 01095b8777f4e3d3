"""A data set of another kind, made on any Debian machine: what software is used together.

    python benchmarks/debian_packages.py --out data/debian

A user is a source package of the distribution, its events are the packages that its binaries
depend on, in an order drawn by seed, as a dependency has no time; an item's text is its name,
section and description. Five-core. Read from `apt-cache dumpavail`, so no download of its own.
"""

import csv
import re
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from store_engine.cli.main import VerbParser, guard
from store_engine.errors import InputError

_RELATIONS = ("Depends", "Recommends")
_CORE = 5  # fewest events of a user and of an item
_MOST = 200  # events of a user; what depends on more is no choice of a person

Stanza = dict[str, str]


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    parser = VerbParser("debian_packages", __doc__ or "")
    parser.prog = "python benchmarks/debian_packages.py"
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where it goes")
    parser.add_argument("--seed", type=int, default=0, help="of the order of a user's events")
    args = parser.parse_args(argv)
    return guard(lambda: _make(args.out, args.seed))


def _make(out: Path, seed: int) -> int:
    stanzas = {stanza["Package"]: stanza for stanza in parse(_available())}
    if not stanzas:
        raise InputError("apt-cache dumpavail lists no package: run apt-get update first")
    users = k_core(dependencies(stanzas), _CORE)
    items = sorted({name for names in users.values() for name in names})
    out.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    with (out / "items.csv").open("w", newline="", encoding="utf-8") as file:
        write = csv.writer(file).writerow
        write(["item_id", "name", "section", "description"])
        for name in items:
            stanza = stanzas[name]
            write([name, name.replace("-", " "), stanza.get("Section", ""), stanza["Description"]])
    with (out / "interactions.csv").open("w", newline="", encoding="utf-8") as file:
        write = csv.writer(file).writerow
        write(["user_id", "item_id", "timestamp"])
        for user in sorted(users):
            for i, name in enumerate(rng.permutation(users[user])):
                write([user, name, i])
    print(f"{out}: {len(users):,} users, {len(items):,} items, {_events(users):,} events")
    return 0


def parse(text: str) -> Iterator[Stanza]:
    """Reads the stanzas of a Packages file; a description's further lines are joined."""
    for block in text.split("\n\n"):
        unfolded = re.sub(r"\n[ \t]+", " ", block)
        pairs = (line.split(":", 1) for line in unfolded.splitlines() if ":" in line)
        stanza = {name: value.strip() for name, value in pairs}
        if {"Package", "Description"} <= stanza.keys():
            yield stanza


def dependencies(stanzas: dict[str, Stanza]) -> dict[str, list[str]]:
    """Lists by source package what its binaries depend on, of alternatives the first, itself not.

    Args:
        stanzas: By package.
    """
    found: dict[str, set[str]] = defaultdict(set)
    for name, stanza in stanzas.items():
        source = stanza.get("Source", name).split(" ")[0]
        for relation in _RELATIONS:
            for alternatives in stanza.get(relation, "").split(","):
                wanted = re.split(r"[ |:(\[]", alternatives.strip(), maxsplit=1)[0]
                other = stanzas.get(wanted)
                if other is not None and other.get("Source", wanted).split(" ")[0] != source:
                    found[source].add(wanted)
    return {source: sorted(names) for source, names in found.items() if len(names) <= _MOST}


def k_core(users: dict[str, list[str]], k: int) -> dict[str, list[str]]:
    """Drops users and items with fewer than k events, until none is left."""
    while True:
        counts = Counter(name for names in users.values() for name in names)
        kept = {user: [n for n in names if counts[n] >= k] for user, names in users.items()}
        kept = {user: names for user, names in kept.items() if len(names) >= k}
        if _events(kept) == _events(users):
            return kept
        users = kept


def _events(users: dict[str, list[str]]) -> int:
    return sum(map(len, users.values()))


def _available() -> str:
    try:
        done = subprocess.run(["apt-cache", "dumpavail"], capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise InputError(f"apt-cache dumpavail cannot be run: {error}") from error
    return done.stdout.decode("utf-8", "replace")


if __name__ == "__main__":
    sys.exit(main())
