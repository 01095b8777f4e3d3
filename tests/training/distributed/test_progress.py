import json
import os

import pytest

from store_engine.errors import InputError
from store_engine.training.distributed.progress import (
    Best,
    Manifest,
    TrainProgress,
    checkpoint_files,
    read_manifest,
    read_progress,
    threads_before,
    write_manifest,
)

DIGEST = "0" * 64
GOOD = {
    "stage": "tokenizer", "step": 20, "num_ranks": 1, "zero_stage": 3, "num_threads": 2,
    "best": {"step": 10, "score": 0.25, "num_worse": 1}, "tag": "tokenizer-00000020",
    "files": {"tokenizer-00000020/state": DIGEST, "best-00000010.safetensors": DIGEST},
}  # fmt: skip
SAME = object()


def test_what_is_written_is_read(tmp_path):
    progress = TrainProgress("recommender", 7, 2, 3, 4, Best(6, 0.1 + 0.2, 0))
    manifest = Manifest(progress, {f"{progress.tag}/a/b.pt": DIGEST})
    write_manifest(tmp_path, manifest)
    assert read_manifest(tmp_path) == manifest
    assert read_progress(tmp_path) == progress


def test_a_manifest_of_an_earlier_version_is_read(tmp_path):
    old = {name: GOOD[name] for name in ("stage", "step", "num_ranks", "zero_stage", "tag")}
    old["files"] = {"tokenizer-00000020/state": DIGEST}
    (tmp_path / "latest.json").write_text(json.dumps(old))
    assert read_progress(tmp_path) == TrainProgress("tokenizer", 20, 1, 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"stage": 3}, "'stage' must be a name"),
        ({"stage": "../up"}, "'stage' must be a name"),
        ({"step": "20"}, "'step' must be a whole number"),
        ({"step": -1}, "'step' must be a whole number"),
        ({"step": 20.0}, "'step' must be a whole number"),
        ({"step": True}, "'step' must be a whole number"),
        ({"step": 10**30}, "'step' must be a whole number"),
        ({"num_ranks": 0}, "'num_ranks' must be a whole number"),
        ({"zero_stage": 4}, "'zero_stage' must be a whole number"),
        ({"zero_stage": None}, "'zero_stage' must be a whole number"),
        ({"num_threads": []}, "'num_threads' must be a whole number"),
        ({"best": 3}, "'best' must state step, score, num_worse"),
        ({"best": {"step": 1}}, "'best' must state"),
        ({"best": {"step": 1, "score": "x", "num_worse": 0}}, "'score' must be a finite number"),
        ({"best": {"step": 1, "score": 1e999, "num_worse": 0}}, "'score' must be a finite number"),
        ({"best": {"step": 0, "score": 0.5, "num_worse": 0}}, "'step' must be a whole number"),
        ({"tag": "tokenizer-00000010"}, "'tag' must be 'tokenizer-00000020'"),
        ({"tag": "../../elsewhere"}, "'tag' must be"),
        ({"files": []}, "'files' must list"),
        ({"files": {}}, "'files' must list"),
        ({"files": {"tokenizer-00000020": DIGEST}}, "not part of"),
        ({"files": {"/etc/passwd": DIGEST}}, "not part of"),
        ({"files": {"tokenizer-00000020/../../x": DIGEST}}, "not part of"),
        ({"files": {"best-00000099.safetensors": DIGEST}}, "not part of"),
        ({"files": {"tokenizer-00000020/state": "abc"}}, "a SHA-256"),
        ({"files": {"tokenizer-00000020/state": 3}}, "a SHA-256"),
        ({"files": SAME, "tag": SAME, "step": SAME}, "lacks files, step, tag"),
    ],
    ids=str,
)
def test_a_manifest_of_another_form_is_one_line(change, message, tmp_path):
    content = {name: value for name, value in (GOOD | change).items() if value is not SAME}
    (tmp_path / "latest.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=message) as caught:
        read_progress(tmp_path)
    assert "\n" not in str(caught.value)
    assert "latest.json" in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "null", "\xff", '{"a": ' * 10_000], ids=repr)
def test_a_manifest_that_is_no_object_is_one_line(text, tmp_path):
    (tmp_path / "latest.json").write_bytes(text.encode("latin1"))
    with pytest.raises(InputError, match=r"latest\.json"):
        read_progress(tmp_path)


def test_what_is_no_file_is_refused(tmp_path):
    os.mkfifo(tmp_path / "latest.json")
    with pytest.raises(InputError, match="FIFO"):
        read_progress(tmp_path)


def test_links_are_refused(tmp_path):
    progress = TrainProgress("tokenizer", 20, 1, 3)
    folder = tmp_path / progress.tag
    folder.mkdir()
    (folder / "state").write_text("x")
    assert checkpoint_files(tmp_path, progress) == ["tokenizer-00000020/state"]
    (folder / "more").symlink_to(folder / "state")
    with pytest.raises(InputError, match="more: must be a regular file"):
        checkpoint_files(tmp_path, progress)


def test_the_folder_itself_may_not_be_a_link(tmp_path):
    progress = TrainProgress("tokenizer", 20, 1, 3)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / progress.tag).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="must be a directory"):
        checkpoint_files(tmp_path, progress)


def test_the_later_stages_threads_count(tmp_path):
    assert threads_before(tmp_path) == 0
    for stage, threads in (("tokenizer", 2), ("recommender", 3)):
        (tmp_path / stage).mkdir()
        progress = TrainProgress(stage, 5, 1, 3, threads)
        write_manifest(tmp_path / stage, Manifest(progress, {f"{progress.tag}/s": DIGEST}))
        assert threads_before(tmp_path) == threads
