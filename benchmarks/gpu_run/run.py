"""Runs parts one after another, each a process of its own, and keeps what became of them."""

import importlib.util
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch

from benchmarks import PRETENDED, ROOT
from benchmarks.gpu_run.parts import Part, Result
from benchmarks.gpu_run.summary import write_summary
from benchmarks.gpu_run.versions import has_core


@dataclass
class Run:
    """All parts of one run, and where they write."""

    out: Path
    is_dry: bool
    minutes: float
    wheels: Path | None
    results: list[Result] = field(default_factory=list)
    began: float = field(default_factory=time.monotonic)

    @property
    def device(self) -> str:
        """Where the parts run."""
        if self.is_dry:
            return PRETENDED
        return "cuda" if torch.cuda.is_available() else "cpu"

    def environment(self) -> dict[str, str]:
        """The checkout first on the path, then what --wheels brought."""
        paths = [str(ROOT), str(self.out / "wheels"), os.environ.get("PYTHONPATH", "")]
        return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}

    def do(self, part: Part) -> None:
        """Runs a part, or says why not, and writes the summary anew."""
        began = time.monotonic()
        reason = self.why_not(part)
        result = Result(part.name, "skipped", reason) if reason else self.start(part)
        result.wall_s = round(time.monotonic() - began, 1)
        print(f"{result.part}: {result.status} {result.reason} ({result.wall_s} s)", flush=True)
        self.results.append(result)
        write_summary(self.out, self.device, self.results)

    def why_not(self, part: Part) -> str:
        """The reason to skip a part; empty if there is none."""
        if part.name == "build" and has_core():
            return "the C++ core is there"
        if self.is_dry and not part.dry_command:
            return "left out of a dry run"
        if part.on_gpu and not self.is_dry and self.device == "cpu":
            return "no CUDA device"
        missing = [name for name in part.needs if not self.has_module(name)]
        if missing:
            return f"not installed: {', '.join(missing)}"
        return "" if self.left_s() > 5 else "no time is left"

    def has_module(self, name: str) -> bool:
        """Whether a part could import it."""
        return importlib.util.find_spec(name) is not None or (self.out / "wheels" / name).exists()

    def left_s(self) -> float:
        """Seconds of the whole run that are left."""
        return 60 * self.minutes - (time.monotonic() - self.began)

    def start(self, part: Part) -> Result:
        """Runs a part to its end, or to its limit."""
        command = part.dry_command if self.is_dry else part.command
        names = {"out": str(self.out), "part": part.name, "device": self.device}
        args = [sys.executable, *(arg.format(**names) for arg in command)]
        limit_s, log = min(part.limit_s, self.left_s()), self.out / f"{part.name}.log"
        with log.open("w") as file:
            print("$ " + " ".join(args), file=file, flush=True)
            process = subprocess.Popen(
                args,
                cwd=ROOT,
                env=self.environment(),
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                status = process.wait(limit_s)
            except BaseException as error:  # its own children too, whatever ends it
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                if not isinstance(error, subprocess.TimeoutExpired):
                    raise
                return Result(part.name, "failed", f"stopped at its limit of {limit_s:.0f} s")
        return judge(part.name, status, log.read_text(errors="replace"))


def judge(name: str, status: int, log: str) -> Result:
    """What an exit status and the log say; a module that is missing is no failure."""
    if status == 0:
        return Result(name, "ok")
    missing = re.findall(r"^ModuleNotFoundError: No module named '([^']+)'", log, re.MULTILINE)
    if missing:
        return Result(name, "skipped", f"not installed: {missing[-1]}")
    last = (log.strip().splitlines() or [""])[-1]
    return Result(name, "failed", f"exit status {status}: {last}")
