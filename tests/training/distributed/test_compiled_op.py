import os
import time
from types import SimpleNamespace

import pytest
from deepspeed.accelerator import get_accelerator

from store_engine import waiting
from store_engine.training.distributed import compiled_op as module
from store_engine.training.distributed.compiled_op import clear_stale_lock, compiled_op


@pytest.fixture
def op_folder(tmp_path, monkeypatch):
    """The folder of an op that this machine can compile and has not yet."""
    builder = SimpleNamespace(name="an_op", is_compatible=lambda verbose: True)
    monkeypatch.setattr(get_accelerator(), "create_op_builder", {"AnOpBuilder": builder}.get)
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    monkeypatch.setattr(waiting, "_UNSAID_S", 0.01)
    return tmp_path / "an_op"


def compile_slowly(name="AnOpBuilder"):
    with compiled_op(name):
        time.sleep(0.3)


@pytest.mark.parametrize("is_built", [False, True], ids=["first", "again, or by another process"])
def test_a_compile_is_told_with_its_folder(op_folder, capsys, is_built):
    if is_built:  # for another environment: DeepSpeed compiles it once more
        op_folder.mkdir()
        (op_folder / "an_op.so").touch()
    compile_slowly()
    said = capsys.readouterr()
    assert f"DeepSpeed makes an_op ready in {op_folder}" in said.err
    assert said.out == ""


def test_what_is_ready_at_once_is_not_told(op_folder, capsys, monkeypatch):
    monkeypatch.setattr(waiting, "_UNSAID_S", 60)
    compile_slowly()
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("why", ["another rank", "no such op", "cannot"])
def test_nothing_is_said_where_nothing_is_compiled(op_folder, monkeypatch, capsys, why):
    if why == "another rank":
        monkeypatch.setenv("LOCAL_RANK", "1")
    elif why == "cannot":
        builder = get_accelerator().create_op_builder("AnOpBuilder")
        builder.is_compatible = lambda verbose: False
    compile_slowly("OtherBuilder" if why == "no such op" else "AnOpBuilder")
    assert capsys.readouterr() == ("", "")


def test_the_lock_of_a_killed_compile_is_removed_before_it(op_folder, capsys):
    lock = make_lock(op_folder, age_s=1000)
    compile_slowly()
    assert not lock.exists()


def make_lock(folder, age_s):
    """A folder as a compile leaves it that was killed `age_s` seconds ago."""
    folder.mkdir()
    for name in ("lock", "build.ninja"):
        (folder / name).touch()
    then = (folder / "lock").stat().st_mtime - age_s
    for path in (*folder.iterdir(), folder):
        os.utime(path, (then, then))
    return folder / "lock"


def test_the_lock_of_a_killed_compile_is_removed(tmp_path, capsys):
    lock = make_lock(tmp_path / "op", age_s=1000)
    clear_stale_lock(tmp_path / "op")
    assert not lock.exists()
    assert f"{lock}: removed, no compile is running" in capsys.readouterr().out


def test_a_young_lock_may_be_another_machines(tmp_path, capsys, monkeypatch):
    lock, naps = make_lock(tmp_path / "op", age_s=10), []

    def nap(seconds):
        naps.append(seconds)
        lock.unlink()  # the other machine is done

    monkeypatch.setattr(module.time, "sleep", nap)
    clear_stale_lock(tmp_path / "op")
    assert naps == [1.0]
    said = capsys.readouterr().out
    assert "removed if nothing happens there for" in said
    assert "removed, no compile" not in said


def test_a_lock_that_a_process_holds_stays(tmp_path, capsys):
    lock = make_lock(tmp_path / "op", age_s=1000)
    with lock.open():
        clear_stale_lock(tmp_path / "op")
    assert lock.exists()
    assert capsys.readouterr().out == ""


def test_without_a_lock_nothing_is_said(tmp_path, capsys):
    clear_stale_lock(tmp_path / "none")
    assert capsys.readouterr().out == ""


def test_a_lock_that_is_left_later_is_removed_too(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_WATCH_S", 0.01)
    with module._lock_watched(tmp_path / "op"):
        lock = make_lock(tmp_path / "op", age_s=1000)  # by another process, killed meanwhile
        deadline = time.monotonic() + 60
        while lock.exists() and time.monotonic() < deadline:
            time.sleep(0.01)
    assert not lock.exists()
