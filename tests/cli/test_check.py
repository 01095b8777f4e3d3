import json
import os
import subprocess
import sys

import pytest

from store_engine.cli.check import main
from store_engine.files.digest import sha256
from store_engine.runs.run_directory import RunDirectory


def check(capsys, *arguments):
    status = main([str(argument) for argument in arguments])
    return status, capsys.readouterr()


def test_a_whole_run_is_whole(run_dir, capsys):
    status, printed = check(capsys, run_dir)
    assert status == 0
    lines = printed.out.splitlines()
    assert lines[0].startswith(f"{run_dir}: format 2, begun by store_engine 0.1.0 on 20")
    assert "training: finished, not measured" in lines
    assert "lock: free" in lines
    assert lines[-1] == "all is whole"
    assert sum(line.endswith("  whole") for line in lines) == 7
    assert check(capsys, run_dir, "--verify")[0] == 0


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda d: flip(d / "model.safetensors"), "not whole: model.safetensors"),
        (lambda d: flip(d / "config.toml"), "not whole: config.toml"),
        (lambda d: (d / "trie.bin").unlink(), "not whole: trie.bin"),
        (lambda d: (d / "metrics.json").write_text("{}"), "not whole: metrics.json"),
        (lambda d: ((d / "sids.npz").unlink(), os.mkfifo(d / "sids.npz")), "not whole: sids.npz"),
        (lambda d: (d / "tokenizer.json").write_text("{}"), "not whole: tokenizer.json"),
    ],
    ids=["flipped bit", "config", "missing", "unlisted", "fifo", "foreign vocabulary"],
)
@pytest.mark.timeout(20)
def test_what_is_not_whole_is_named(damage, message, run_dir, capsys):
    damage(run_dir)
    status, printed = check(capsys, run_dir)
    assert status == 2
    assert printed.out.splitlines()[-1] == "not all is whole"
    assert printed.err == f"error: {run_dir}: {message}\n"
    status, printed = check(capsys, run_dir, "--json")
    assert status == 2
    assert json.loads(printed.out)["is_whole"] is False


def test_what_is_no_run_is_one_line(tmp_path, capsys):
    for path in (tmp_path, tmp_path / "missing", "/dev/null"):
        status, printed = check(capsys, path)
        assert (status, printed.out) == (2, "")
        assert printed.err.startswith("error: ")
        assert printed.err.count("\n") == 1


def test_a_run_that_trains_says_how_far_it_is(run_dir, capsys):
    with RunDirectory.open_to_write(run_dir) as run:
        manifest = json.loads(run.manifest.read_text())
        del manifest["files"]["model.safetensors"]
        run.manifest.write_text(json.dumps(manifest))
        run.model_weights.unlink()
        folder = run.checkpoints / "recommender"
        (folder / "x").mkdir(parents=True)
        (folder / "x" / "state.pt").write_bytes(b"state")
        latest = {"step": 40, "files": {"x/state.pt": sha256(folder / "x" / "state.pt")}}
        (folder / "latest.json").write_text(json.dumps(latest))
        status, printed = check(capsys, run_dir, "--verify")
        assert status == 0
        assert "training: stage 2 is to be trained, checkpoint of step 40" in printed.out
        assert f"lock: held by process {os.getpid()} on " in printed.out
        (folder / "x" / "state.pt").write_bytes(b"stale")
        assert check(capsys, run_dir)[0] == 0
        status, printed = check(capsys, run_dir, "--verify")
        assert status == 2
        assert printed.err.endswith("not whole: checkpoints/recommender/x/state.pt\n")
        for content in ("{", '{"files": []}', '{"files": {"../../run.json": "0"}}'):
            (folder / "latest.json").write_text(content)
            status, printed = check(capsys, run_dir, "--verify")
            assert status == 2
            assert printed.err.endswith("not whole: checkpoints/recommender/latest.json\n")


def test_the_verb_is_there(run_dir):
    command = [sys.executable, "-m", "store_engine", "check", str(run_dir)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("all is whole\n")
