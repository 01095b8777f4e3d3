"""`store-engine serve` in a process of its own, and the processes of its replicas."""

import os
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks import ROOT
from benchmarks.measuring.harness import Options

MAX_BATCH = 128
_REPLICA = b"SERVE_REPLICA::store_engine#engines", b"ray::ServeReplica:store_engine:engines"
_MARK = "STORE_ENGINE_BENCHMARK"  # in the environment of all processes of a server of ours


@contextmanager
def server(options: Options, run_dir: Path) -> Iterator[str]:
    """Runs `store-engine serve`; gives its address.

    Raises:
        RuntimeError: It did not start, or did not end as it should.
    """
    command = [sys.executable, "-m", "store_engine", "serve", str(run_dir), "--port", "0"]
    command += ["--threads", str(options.threads), "--replicas", str(options.extra.replicas)]
    command += ["--max-batch", str(MAX_BATCH), "--max-waiting", "4096", "--timeout-s", "60"]
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": str(options.threads)}
    os.environ[_MARK] = env[_MARK] = uuid.uuid4().hex
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=env)
    assert process.stderr is not None
    try:
        said = []
        for line in process.stderr:
            said.append(line)
            if line.startswith("serving at "):
                break
        else:
            raise RuntimeError("the server did not start: " + "".join(said[-20:]))
        threading.Thread(target=process.stderr.read, daemon=True).start()
        yield line.split()[2].rstrip(",")
    finally:
        process.terminate()
        if process.wait(120) != 0:
            raise RuntimeError(f"the server ended with status {process.returncode}")


def a_replica() -> int:
    """The process id of an engine's replica."""
    mark = f"{_MARK}={os.environ[_MARK]}".encode()
    for path in Path("/proc").glob("[0-9]*"):
        try:
            name, variables = (path / "cmdline").read_bytes(), (path / "environ").read_bytes()
        except OSError:
            continue
        if any(one in name for one in _REPLICA) and mark in variables:
            return int(path.name)
    raise RuntimeError("there is no replica to kill")
