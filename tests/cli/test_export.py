import os

import pytest

from store_engine.cli.main import main
from store_engine.integrations import export_run
from store_engine.text.text_vocabulary import TextVocabulary

pytest.importorskip("transformers")


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def place(run_dir, tmp_path_factory, monkeypatch):
    """An empty folder, in which the command runs."""
    folder = tmp_path_factory.mktemp("place")
    monkeypatch.chdir(folder)
    return folder


def test_a_run_is_exported_whole(run_dir, place, capsys):
    assert main(["export", str(run_dir), "--to", "new/exported"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines == ["new/exported: LlamaForCausalLM, 300 text tokens, then codes"]
    assert names(place / "new") == ["exported"]
    assert {"config.json", "model.safetensors", "sids.json"} <= set(names(place / "new/exported"))
    assert main(["import", "new/exported", "--to", "back"]) == 0
    assert capsys.readouterr().out == "back: a run of 60 items\n"


@pytest.mark.parametrize("kind", ["folder", "file", "link", "dangling link", "here"])
def test_what_is_there_is_never_touched(kind, run_dir, place, capsys):
    out = place / "out"
    if kind == "folder":
        out.mkdir()
    elif kind == "file":
        out.write_text("mine")
    elif kind == "link":
        out.symlink_to(place)
    elif kind == "dangling link":
        out.symlink_to(place / "nowhere")
    before = names(place)
    assert main(["export", str(run_dir), "--out", "." if kind == "here" else str(out)]) == 2
    error = capsys.readouterr().err
    assert "is there already, name a new folder" in error
    assert error.count("\n") == 1
    assert names(place) == before


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_an_export_that_fails_leaves_nothing(error, run_dir, place, capsys, monkeypatch):
    def fail(self, directory):
        assert "out.partial-" in str(directory)
        raise error

    monkeypatch.setattr(TextVocabulary, "save", fail)
    status = main(["export", str(run_dir), "--out", "out"])
    assert status == (2 if isinstance(error, OSError) else 130)
    assert names(place) == []
    err = capsys.readouterr().err.splitlines()[-1]
    full = "error: out/store_engine: cannot be written: No space left on device"
    assert err in (full, "interrupted")


def test_a_folder_that_cannot_be_made_is_one_line(run_dir, place, capsys):
    (place / "file").write_text("")
    assert main(["export", str(run_dir), "--out", "file/out"]) == 2
    assert f"file/out: its folder cannot be made: {place / 'file'}: File" in capsys.readouterr().err
    assert names(place) == ["file"]


def test_the_folder_appears_in_one_rename(run_dir, place, monkeypatch):
    renamed = []

    def rename(source, target):
        renamed.append((names(place), names(source)))
        os.replace(source, target)

    monkeypatch.setattr(export_run.os, "rename", rename)
    assert main(["export", str(run_dir), "--out", "out"]) == 0
    around, inside = renamed[-1]
    assert "out" not in around
    assert inside == names(place / "out")


def test_removed_items_stay_behind(run_dir, tmp_path, capsys):
    assert main(["remove-items", str(run_dir), "--items", "item 3"]) == 0
    assert main(["export", str(run_dir), "--to", str(tmp_path / "out")]) == 0
    assert ", without the 1 that were removed" in capsys.readouterr().out
