"""Mutated files for every loader: only a result, an InputError or an OSError may come out.

    python tests/fuzz/harness.py --target all --mutants 20000 --seed 0 --jobs 2
    python tests/fuzz/harness.py --target gguf --mutant 137 --keep DIR   # one again, aloud

Mutants are loaded in child processes, many in each, with a bounded address space. A mutant has a
deadline in processor time, so that a busy machine changes nothing, and a long one in real time for
what waits for ever. A child that dies, by a signal of its own or by the deadline's, costs one
mutant: the next child goes on behind it. Whatever was found is loaded once more alone, before it
counts.

Exit status: 0 if nothing was found, else 1.
"""

import argparse
import contextlib
import json
import os
import random
import resource
import selectors
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter, deque
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from target import Target, broken
from targets import available

_CHUNK = 250  # mutants per child: what a loader leaks does not add up for long
_ADDRESS_SPACE = 2 << 30  # bytes beyond what the child has at its start
_MAX_FINDINGS = 300  # per target, loaded once more and listed
_FINE = ("result", "InputError", "OSError")


class Finding(NamedTuple):
    """What may not come out of a loader."""

    mutant: int
    kind: str  # "crash", "hang" or "exception"
    text: str


class Plan(NamedTuple):
    """What all children share."""

    seeds: dict[str, Path]  # target -> folder of its valid files
    seed: int
    jobs: int
    cpu_seconds: float  # per mutant
    real_seconds: float


class Chunk(NamedTuple):
    """Mutants to load in one child."""

    target: Target
    begin: int
    end: int


def mutate(target: Target, seed_folder: Path, folder: Path, number: int, seed: int) -> None:
    """Writes mutant `number` of a target into an empty folder."""
    rng = random.Random(f"{seed} {target.name} {number}")
    variants = sorted(seed_folder.iterdir())
    source = rng.choice(variants)
    names = [name for name in target.mutations if (source / name).exists()]
    damaged = rng.choice(names)
    for path in source.rglob("*"):
        copy = folder / path.relative_to(source)
        copy.parent.mkdir(parents=True, exist_ok=True)
        if path.is_file():
            content = path.read_bytes()
            if path.relative_to(source).as_posix() == damaged:
                with contextlib.suppress(ValueError, KeyError, IndexError, RecursionError):
                    content = rng.choice(target.mutations[damaged])(content, rng)
            copy.write_bytes(content)


def outcome(target: Target, folder: Path) -> tuple[str, str]:
    """Loads what is in a folder: what came out, in a word and in words."""
    try:
        target.load(folder)
    except target.allowed as error:
        return "OSError" if isinstance(error, OSError) else "InputError", ""
    except BaseException as error:
        frames = traceback.extract_tb(error.__traceback__)
        own = [frame for frame in frames if "/store_engine/" in frame.filename]
        where = f"{Path(own[-1].filename).name}:{own[-1].lineno}" if own else "outside"
        return (
            "exception",
            f"{type(error).__name__} at {where}: {' '.join(str(error).split())[:200]}",
        )
    return "result", ""


def work(chunk: Chunk, plan: Plan, report: int) -> None:
    """The child: loads mutants one after the other, and writes a line for each."""
    sink = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(sink, stream)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + _ADDRESS_SPACE
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    for name in (signal.SIGALRM, signal.SIGPROF):
        signal.signal(name, signal.SIG_DFL)
    seed_folder = plan.seeds[chunk.target.name]
    for number in range(chunk.begin, chunk.end):
        with tempfile.TemporaryDirectory(dir=seed_folder.parent) as folder:
            mutate(chunk.target, seed_folder, Path(folder), number, plan.seed)
            signal.setitimer(signal.ITIMER_PROF, plan.cpu_seconds)
            signal.setitimer(signal.ITIMER_REAL, plan.real_seconds)
            kind, text = outcome(chunk.target, Path(folder))
            signal.setitimer(signal.ITIMER_PROF, 0)
            signal.setitimer(signal.ITIMER_REAL, 0)
        os.write(report, (json.dumps([number, kind, text]) + "\n").encode())


def run_chunks(chunks: list[Chunk], plan: Plan) -> Iterator[tuple[Chunk, int, str, str]]:
    """Runs chunks in children, some at a time: yields each mutant's outcome."""
    waiting, selector = deque(chunks), selectors.DefaultSelector()
    running: dict[int, tuple[Chunk, int, bytearray]] = {}
    while waiting or running:
        while waiting and len(running) < plan.jobs:
            chunk = waiting.popleft()
            ours, theirs = os.pipe()
            sys.stdout.flush()
            process = os.fork()
            if process == 0:
                with contextlib.suppress(BaseException):
                    os.close(ours)
                    work(chunk, plan, theirs)
                    os._exit(0)
                os._exit(1)
            os.close(theirs)
            running[ours] = (chunk, process, bytearray())
            selector.register(ours, selectors.EVENT_READ)
        for key, _ in selector.select():
            chunk, process, buffer = running[key.fd]
            part = os.read(key.fd, 1 << 16)
            buffer += part
            if part:
                continue
            selector.unregister(key.fd)
            os.close(key.fd)
            del running[key.fd]
            status = os.waitpid(process, 0)[1]
            lines = [json.loads(line) for line in bytes(buffer).splitlines()]
            yield from ((chunk, number, kind, text) for number, kind, text in lines)
            done = chunk.begin + len(lines)
            if done < chunk.end:
                yield (chunk, done, *_death(status))
                if done + 1 < chunk.end:
                    waiting.appendleft(chunk._replace(begin=done + 1))


def _death(status: int) -> tuple[str, str]:
    number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
    if number in (signal.SIGPROF, signal.SIGALRM):
        return "hang", "the deadline passed"
    name = signal.Signals(number).name if number else f"exit {os.waitstatus_to_exitcode(status)}"
    return "crash", name


def _fast_folder() -> str | None:
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def make_seeds(chosen: list[Target], root: Path) -> dict[str, Path]:
    """Writes the valid files of each target, in a child: the parent starts no library's threads."""
    folders = {target.name: root / target.name for target in chosen}
    process = os.fork()
    if process == 0:
        status = 1
        try:
            for target in chosen:
                folders[target.name].mkdir()
                target.make_seeds(folders[target.name])
                for variant in folders[target.name].iterdir():
                    copy = root / "try" / target.name / variant.name
                    shutil.copytree(variant, copy)
                    target.load(copy)  # a seed that does not load would prove nothing
            status = 0
        except BaseException:
            traceback.print_exc()
        sys.stderr.flush()
        os._exit(status)
    if os.waitpid(process, 0)[1] != 0:
        raise SystemExit("a seed file does not load")
    return folders


def fuzz(chosen: list[Target], mutants: int, plan: Plan) -> dict[str, dict[str, object]]:
    """Loads mutants of every target -> per target the counts of outcomes, and the findings."""
    counts = {target.name: Counter[str]() for target in chosen}
    found: dict[str, list[Chunk]] = {target.name: [] for target in chosen}
    chunks = [
        Chunk(target, begin, min(begin + _CHUNK, mutants))
        for target in chosen
        for begin in range(0, mutants, _CHUNK)
    ]
    for chunk, number, kind, _ in run_chunks(chunks, plan):
        counts[chunk.target.name][kind] += 1
        if kind not in _FINE:
            found[chunk.target.name].append(Chunk(chunk.target, number, number + 1))
    again = [one for ones in found.values() for one in ones[:_MAX_FINDINGS]]
    findings: dict[str, list[Finding]] = {name: [] for name in counts}
    for chunk, number, kind, text in run_chunks(again, plan):
        if kind not in _FINE:
            findings[chunk.target.name].append(Finding(number, kind, text))
    return {
        name: {"counts": dict(count), "findings": sorted(findings[name])}
        for name, count in counts.items()
    }


def show_one(target: Target, number: int, seed: int, keep: Path | None) -> None:
    """Loads one mutant in this process, aloud, with no limits."""
    with tempfile.TemporaryDirectory() as root:
        folder = keep or Path(root) / "mutant"
        folder.mkdir(parents=True)
        mutate(target, make_seeds([target], Path(root))[target.name], folder, number, seed)
        print(f"{target.name} {number}: {sorted(path.name for path in folder.iterdir())}")
        print(*outcome(target, folder))


def main(arguments: list[str] | None = None) -> int:
    """Parses the command line, runs, and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--target", default="all", help="a name, several with commas, or all")
    parser.add_argument("--mutants", type=int, default=200, help="per target")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1, help="children at a time")
    parser.add_argument("--cpu-seconds", type=float, default=10.0, help="deadline of a mutant")
    parser.add_argument("--real-seconds", type=float, default=120.0, help="of one that waits")
    parser.add_argument("--json", type=Path, help="write all findings here")
    parser.add_argument("--mutant", type=int, help="load this one mutant, aloud")
    parser.add_argument("--keep", type=Path, help="with --mutant: a new folder for its files")
    options = parser.parse_args(arguments)

    real = {target.name: target for target in available()}
    known = real | {target.name: target for target in broken()}
    names = list(real) if options.target == "all" else options.target.split(",")
    if unknown := set(names) - set(known):
        parser.error(f"unknown target {', '.join(unknown)}; there are {', '.join(known)}")
    chosen = [known[name] for name in names]
    if options.mutant is not None:
        for target in chosen:
            show_one(target, options.mutant, options.seed, options.keep)
        return 0

    begin = time.monotonic()
    with tempfile.TemporaryDirectory(dir=_fast_folder()) as root:
        plan = Plan(
            make_seeds(chosen, Path(root)),
            options.seed,
            options.jobs,
            options.cpu_seconds,
            options.real_seconds,
        )
        results = fuzz(chosen, options.mutants, plan)
    if options.json:
        options.json.write_text(json.dumps(results))
    print(f"{'target':<24}{'mutants':>9}{'results':>9}{'refused':>9}{'found':>7}")
    for name, result in results.items():
        counts, findings = result["counts"], result["findings"]
        refused = counts.get("InputError", 0) + counts.get("OSError", 0)
        row = (sum(counts.values()), counts.get("result", 0), refused, len(findings))
        print(f"{name:<24}" + "".join(f"{n:>{w}}" for n, w in zip(row, (9, 9, 9, 7), strict=True)))
        kinds = Counter((kind, text.split(": ")[0]) for _, kind, text in findings)
        for (kind, text), count in kinds.most_common(12):
            first = next(f for f in findings if (f[1], f[2].split(": ")[0]) == (kind, text))
            print(f"    {count} x {kind}, first mutant {first[0]}: {first[2]}")
    print(f"{time.monotonic() - begin:.0f} s")
    return int(any(result["findings"] for result in results.values()))


if __name__ == "__main__":
    sys.exit(main())
