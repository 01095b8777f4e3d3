import os
import shutil

import pytest

from store_engine.files import directory_swap
from store_engine.files.directory_swap import LOCK_NAME, StagedDirectory, recover
from store_engine.files.lock import FileLock

LEFTOVER = "0123456789abcdef"


@pytest.fixture(params=[True, False], ids=["exchange", "two steps"])
def exchanges(request, monkeypatch):
    if not request.param:
        monkeypatch.setattr(directory_swap, "_exchange", lambda first, second: False)
    return request.param


def publish(target, content, replaces=None):
    staged = StagedDirectory.stage(target)
    (staged.path / "file").write_text(content)
    return staged.publish(replaces)


def content(target):
    return (target / "file").read_text()


def test_a_directory_appears_when_it_is_published(tmp_path):
    target = tmp_path / "a" / "run"
    staged = StagedDirectory.stage(target)
    assert not target.exists()
    (staged.path / "file").write_text("new")
    staged.publish().release()
    assert content(target) == "new"
    assert os.listdir(tmp_path / "a") == ["run"]


def test_another_is_replaced(tmp_path, exchanges):
    target = tmp_path / "run"
    old = publish(target, "old")
    (target / "folder").mkdir()
    (target / "folder" / "x").write_text("x")
    (target / "link").symlink_to(tmp_path)
    new = publish(target, "new", old)
    assert content(target) == "new"
    assert os.listdir(tmp_path) == ["run"]
    assert (target / LOCK_NAME).exists()
    with pytest.raises(ValueError, match="in use"):
        FileLock.acquire(target / LOCK_NAME, "run")
    new.release()


def test_a_second_step_that_fails_undoes_the_first(tmp_path, monkeypatch):
    monkeypatch.setattr(directory_swap, "_exchange", lambda first, second: False)
    target = tmp_path / "run"
    old = publish(target, "old")
    real, steps = os.rename, []

    def rename(source, destination):
        steps.append(source)
        if len(steps) == 2:
            raise OSError(5, "Input/output error")
        real(source, destination)

    monkeypatch.setattr(os, "rename", rename)
    staged = StagedDirectory.stage(target)
    with pytest.raises(OSError, match="Input/output"):
        staged.publish(old)
    staged.discard()
    assert content(target) == "old"
    assert os.listdir(tmp_path) == ["run"]


def test_the_exchange_is_one_step_here(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    (tmp_path / "a" / "x").write_text("x")
    assert directory_swap._exchange(tmp_path / "a", tmp_path / "b")
    assert os.listdir(tmp_path / "b") == ["x"]
    with pytest.raises(FileNotFoundError):
        directory_swap._exchange(tmp_path / "a", tmp_path / "missing")


def test_a_place_that_was_taken_meanwhile_is_left(tmp_path):
    target = tmp_path / "run"
    staged = StagedDirectory.stage(target)
    publish(target, "first").release()
    with pytest.raises(OSError, match="not empty"):
        staged.publish()
    staged.discard()
    assert content(target) == "first"
    assert os.listdir(tmp_path) == ["run"]


def leave(target, kind, text="left", lock=True):
    """What a process that was killed leaves beside `target`."""
    path = target.with_name(f"{target.name}.{kind}-{LEFTOVER}")
    path.mkdir()
    if text:
        (path / "file").write_text(text)
    if lock:
        (path / LOCK_NAME).touch()
    return path


@pytest.mark.parametrize("kind", ["partial", "old"])
def test_leftovers_are_removed(tmp_path, kind):
    target = tmp_path / "run"
    publish(target, "whole").release()
    leave(target, kind)
    recover(target)
    assert os.listdir(tmp_path) == ["run"]
    assert content(target) == "whole"


def test_an_old_directory_without_a_new_one_comes_back(tmp_path):
    target = tmp_path / "run"
    leave(target, "old", "old")
    leave(target, "partial", "half")
    recover(target)
    assert content(target) == "old"
    assert os.listdir(tmp_path) == ["run"]


def test_what_lives_is_left_alone(tmp_path):
    target = tmp_path / "run"
    staged = StagedDirectory.stage(target)
    old = leave(target, "old", "old")
    lock = FileLock.acquire(old / LOCK_NAME, "old")
    recover(target)
    assert staged.path.exists()
    assert old.exists()
    assert not target.exists()
    lock.release()
    staged.discard()


@pytest.mark.parametrize(
    "name",
    ["run.partial", "run.old-x", "run.partial-0123456789ABCDEF", "run2.partial-" + LEFTOVER,
     "run.backup-" + LEFTOVER, "xrun.old-" + LEFTOVER, "run.partial-" + LEFTOVER + "0"],
)  # fmt: skip
def test_what_is_not_ours_is_left_alone(tmp_path, name):
    target = tmp_path / "run"
    publish(target, "whole").release()
    (tmp_path / name).mkdir()
    (tmp_path / name / LOCK_NAME).touch()
    without_lock = leave(target, "partial", lock=False)
    (tmp_path / f"run.old-{LEFTOVER}").write_text("a file")
    (tmp_path / f"run.old-{LEFTOVER[::-1]}").symlink_to(tmp_path / "run")
    recover(target)
    assert (tmp_path / name).exists()
    assert without_lock.exists()
    assert (tmp_path / f"run.old-{LEFTOVER}").exists()
    assert content(target) == "whole"


@pytest.mark.parametrize("name", ["[run]", "r*n", "r?n", "run", "-run"])
def test_names_are_no_patterns(tmp_path, name):
    target = tmp_path / name
    publish(target, "whole").release()
    leave(target, "partial")
    leave(tmp_path / "rxn", "partial")
    recover(target)
    assert sorted(os.listdir(tmp_path)) == sorted([name, f"rxn.partial-{LEFTOVER}"])


def test_staging_survives_a_cleaner_that_takes_it_for_a_leftover(tmp_path, monkeypatch):
    real = FileLock.acquire
    calls = []

    def acquire(path, what):
        calls.append(path)
        if len(calls) == 1:  # the cleaner was here first
            shutil.rmtree(path.parent)
        return real(path, what)

    monkeypatch.setattr(FileLock, "acquire", acquire)
    staged = StagedDirectory.stage(tmp_path / "run")
    assert len(calls) == 2
    staged.discard()
    assert os.listdir(tmp_path) == []
