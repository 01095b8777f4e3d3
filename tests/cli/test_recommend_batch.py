"""`store-engine recommend` with --input, --users or --all-users."""

import csv
import gzip
import json
import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from store_engine.cli.recommend import main
from store_engine.decoding.engine import Engine

HISTORIES = {"anna": ["item 3", "item 1"], "bo": [], "cy": ["item 9"] * 12, "dee": ["item 59"]}


def shard(path, histories=HISTORIES):
    path.parent.mkdir(exist_ok=True)
    pq.write_table(
        pa.table({"user_id": list(histories), "history": list(histories.values())}), path
    )
    return str(path)


def wanted(run_dir, histories, k=10, **options):
    found = Engine.load(run_dir).recommend(list(histories.values()), k, **options)
    return {
        user: [item.item_id for item in items] for user, items in zip(histories, found, strict=True)
    }


def written(path):
    return {row["user_id"]: row["item_ids"] for row in pq.read_table(path).to_pylist()}


def ends(status, capsys, *arguments):
    assert main([*map(str, arguments)]) == status
    return capsys.readouterr()


def test_a_file_of_histories(run_dir, tmp_path, capsys):
    source, output = shard(tmp_path / "in.parquet"), tmp_path / "out.parquet"
    said = ends(0, capsys, run_dir, "--input", source, "--output", output, "-k", "7")
    assert said.out == f"{output}: 4 users served\n"
    assert written(output) == wanted(run_dir, HISTORIES, 7)
    scores = pq.read_table(output)["scores"].to_pylist()
    assert all(one == sorted(one, reverse=True) and len(one) == 7 for one in scores)


def test_allow_deny_and_exclude_hold_for_everybody(run_dir, tmp_path, capsys):
    source, output = shard(tmp_path / "in.parquet"), tmp_path / "out.parquet"
    options = ["--allow", "item 1,item 2,item 3,item 4", "--deny", "item 2", "--exclude", "item 4"]
    ends(
        0, capsys, run_dir, "--input", source, "--output", output, "--no-exclude-history", *options
    )
    found = written(output)
    assert list(found) == list(HISTORIES)
    assert all(sorted(items) == ["item 1", "item 3"] for items in found.values())


def test_nothing_allowed_is_nothing_recommended(run_dir, tmp_path, capsys):
    source, output = shard(tmp_path / "in.parquet"), tmp_path / "out.parquet"
    ends(0, capsys, run_dir, "--input", source, "--output", output, "--allow", "")
    assert written(output) == {user: [] for user in HISTORIES}


def test_users_of_the_run(run_dir, tmp_path, capsys):
    every = {"u": [f"item {i}" for i in range(20)], "v": [f"item {i}" for i in range(20, 60)]}
    output = tmp_path / "out.parquet"
    ends(0, capsys, run_dir, "--all-users", "--output", output)
    assert written(output) == wanted(run_dir, every)
    ends(0, capsys, run_dir, "--users", "v", "--output", tmp_path / "v.parquet")
    assert written(tmp_path / "v.parquet") == wanted(run_dir, {"v": every["v"]})
    said = ends(2, capsys, run_dir, "--users", "v,w", "--output", tmp_path / "w.parquet")
    assert "unknown user id 'w'" in said.err


@pytest.mark.parametrize("who", [["--all-users"], ["--input", "in.parquet"]], ids=["run", "file"])
@pytest.mark.parametrize("name", ["out.csv", "out.tsv.gz", "out.jsonl"])
def test_a_text_says_the_same_as_parquet_and_is_kept(
    run_dir, tmp_path, capsys, monkeypatch, name, who
):
    monkeypatch.chdir(tmp_path)
    shard(tmp_path / "in.parquet")
    ends(0, capsys, run_dir, *who, "--output", "out.parquet")
    ends(0, capsys, run_dir, *who, "--output", name)
    with (gzip.open if name.endswith(".gz") else open)(name, "rt") as file:
        if ".jsonl" in name:
            found = {row["user_id"]: row["item_ids"] for row in map(json.loads, file)}
        else:
            rows = list(csv.DictReader(file, delimiter="\t" if "tsv" in name else ","))
            assert [int(row["rank"]) for row in rows] == [*range(1, 11)] * (len(rows) // 10)
            catalog = Engine.load(run_dir).catalog
            titles = catalog.fields["title"]
            assert {row["title"] for row in rows} <= set(titles)
            found = {}
            for row in rows:
                assert row["title"] == titles[catalog.row_of(row["item_id"])]
                found.setdefault(row["user_id"], []).append(row["item_id"])
    assert found == written("out.parquet")
    stamp = os.stat(name).st_mtime_ns
    assert "1 of 1 files were there" in ends(0, capsys, run_dir, *who, "--output", name).out
    assert os.stat(name).st_mtime_ns == stamp
    assert "--overwrite" in ends(2, capsys, run_dir, *who, "--output", name, "-k", "3").err
    ends(0, capsys, run_dir, *who, "--output", name, "-k", "3", "--overwrite")


def test_users_on_the_screen(run_dir, capsys):
    every = {"v": [f"item {i}" for i in range(20, 60)], "u": [f"item {i}" for i in range(20)]}
    said = json.loads(ends(0, capsys, run_dir, "--users", "v,u", "-k", "3", "--json").out)
    found = {one["user_id"]: [item["item_id"] for item in one["items"]] for one in said}
    assert list(found) == ["v", "u"] and found == wanted(run_dir, every, 3)
    shown = ends(0, capsys, run_dir, "--users", "v,u", "-k", "3").out
    assert shown.index("user v") < shown.index(found["v"][0]) < shown.index("user u")
    assert "unknown user id 'w'" in ends(2, capsys, run_dir, "--users", "w").err
    assert "--ray is of use only" in ends(2, capsys, run_dir, "--users", "v", "--ray").err


def test_users_and_items_that_came_later(run_dir, tmp_path, capsys):
    engine = Engine.load(run_dir)
    engine.add_events([("u", "item 30", 1), ("new", "item 40", 2)])
    engine.close()
    output = tmp_path / "out.parquet"
    ends(0, capsys, run_dir, "--all-users", "--output", output)
    assert list(written(output)) == ["u", "v", "new"]
    later = {"u": [*(f"item {i}" for i in range(20)), "item 30"], "new": ["item 40"]}
    assert written(output).items() >= wanted(run_dir, later).items()

    engine.remove_items([written(output)["u"][0]])
    engine.close()
    said = ends(2, capsys, run_dir, "--all-users", "--output", output)  # another catalogue now
    assert "--overwrite replaces it" in said.err


def test_a_folder_goes_on_where_it_was_stopped(run_dir, tmp_path, capsys):
    for name in "abc":
        shard(tmp_path / "in" / f"{name}.parquet", {f"{name}{u}": h for u, h in HISTORIES.items()})
    command = [run_dir, "--input", tmp_path / "in", "--output", tmp_path / "out", "--json"]
    first = json.loads(ends(0, capsys, *command).out)
    assert (first["num_shards"], first["num_kept"], first["num_users"]) == (3, 0, 12)
    assert sorted(os.listdir(tmp_path / "out")) == [".lock", *(f"{n}.parquet" for n in "abc")]
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.parquet")}

    (tmp_path / "out" / "b.parquet").unlink()
    (tmp_path / "out" / ".0123456789abcdef.tmp").touch()  # of a process that was killed
    again = json.loads(ends(0, capsys, *command).out)
    assert (again["num_kept"], again["num_users"]) == (2, 4)
    assert written(tmp_path / "out" / "b.parquet") == wanted(
        run_dir, {f"b{user}": history for user, history in HISTORIES.items()}
    )
    assert not (tmp_path / "out" / ".0123456789abcdef.tmp").exists()
    kept = [path for path, stamp in stamps.items() if path.stat().st_mtime_ns == stamp]
    assert sorted(path.name for path in kept) == ["a.parquet", "c.parquet"]


def test_other_options_or_inputs_are_not_mixed_into_old_output(run_dir, tmp_path, capsys):
    shard(tmp_path / "in" / "a.parquet")
    command = [run_dir, "--input", tmp_path / "in", "--output", tmp_path / "out"]
    ends(0, capsys, *command)
    assert "--overwrite replaces it" in ends(2, capsys, *command, "-k", "3").err
    shard(tmp_path / "in" / "a.parquet", {"eve": ["item 5"]})
    assert "--overwrite replaces it" in ends(2, capsys, *command).err
    ends(0, capsys, *command, "--overwrite")
    assert list(written(tmp_path / "out" / "a.parquet")) == ["eve"]


def test_one_bad_shard_does_not_keep_back_the_others(run_dir, tmp_path, capsys):
    shard(tmp_path / "in" / "a.parquet", {"u": ["nobody"]})
    shard(tmp_path / "in" / "b.parquet")
    command = [run_dir, "--input", tmp_path / "in", "--output", tmp_path / "out"]
    said = ends(2, capsys, *command)
    assert "a.parquet row 1: history: unknown item id 'nobody'" in said.err
    assert sorted(path.name for path in (tmp_path / "out").glob("*.parquet")) == ["b.parquet"]
    said = ends(0, capsys, *command, "--unknown", "skip", "--overwrite")
    assert "1 events left out, whose items are unknown" in said.out
    assert written(tmp_path / "out" / "a.parquet") == wanted(run_dir, {"u": []})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--input", "in.parquet"], "--output is missing"),
        (["--history", "", "--output", "x.csv"], "--output is of use only with --input, --us"),
        (["--history", "", "--ray"], "--ray is of use only with --input"),
        (["--users", "u", "--overwrite"], "--overwrite is of use only with --output"),
        (["--all-users", "--output", "x.parquet", "--ray"], "got users of the run"),
        (["--all-users", "--output", "x.xlsx"], "must be a file whose name ends in .parquet, .js"),
        (["--input", "in.parquet", "--output", "x.parquet", "--threads", "2"], "goes with --ray"),
        (["--input", "nowhere", "--output", "x.parquet"], "nowhere: No such file"),
        (["--input", "in.parquet", "--output", "in.parquet"], "is read, name another"),
        (["--all-users", "--output", "run/run.parquet", "-k", "0"], "k must be at least 1"),
    ],
)
def test_wrong_input_is_one_line_and_status_2(
    run_dir, tmp_path, capsys, monkeypatch, arguments, message
):
    monkeypatch.chdir(tmp_path)
    shard(tmp_path / "in.parquet")
    said = ends(2, capsys, run_dir, *arguments)
    assert message in said.err
    assert (said.err.count("\n"), said.out) == (1, "")
    assert not (tmp_path / "x.parquet").exists()


@pytest.mark.slow
def test_ray_gives_the_same(run_dir, tmp_path, capsys, monkeypatch):
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'store-engine[serve]'")
    import ray

    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    for name in "ab":
        shard(tmp_path / "in" / f"{name}.parquet")
    shard(tmp_path / "in" / "c.parquet", {"u": ["nobody"]})
    command = [run_dir, "--input", tmp_path / "in", "--output", tmp_path / "out", "--ray"]
    one = [run_dir, "--input", tmp_path / "in" / "a.parquet", "--ray"]
    try:
        said = ends(2, capsys, *command)
        ends(0, capsys, *one, "--output", tmp_path / "a.csv")
    finally:
        ray.shutdown()
    ends(0, capsys, *one[:-1], "--output", tmp_path / "here.csv")
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "here.csv").read_bytes()
    assert "c.parquet row 1: history: unknown item id 'nobody'" in said.err
    for name in "ab":
        assert written(tmp_path / "out" / f"{name}.parquet") == wanted(run_dir, HISTORIES)
