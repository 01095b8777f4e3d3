"""Evidence counted anew: what is served changes, what is measured does not."""

import json

import numpy as np
import pytest

from store_engine import Engine
from store_engine.cli.main import main
from store_engine.collaborative.fit_evidence import fit_evidence
from store_engine.config import load_config
from store_engine.data.split import leave_one_out
from store_engine.evaluation.evaluate_run import evaluate_run
from store_engine.files.json_file import write_json
from store_engine.prepare.recipe import Recipe, TableRecipe
from store_engine.prepare.rules import Rules
from store_engine.runs.run import load_run
from store_engine.runs.run_directory import RunDirectory


@pytest.fixture
def evident_run(run_dir):
    """The run with evidence."""
    with RunDirectory.open_to_write(run_dir) as run:
        config = load_config(run.config, ["decoding.evidence=auto", "evidence.smoothing=0"])
        run.write_config(config)
        opened = load_run(run_dir)
        split = leave_one_out(opened.histories)
        evidence = fit_evidence(split.train, split.valid, opened.catalog, config.evidence)
        for path in (run.training_evidence, run.evidence):
            with run.writing(path):
                evidence.save(path)
    return run_dir


def top(run_dir, history):
    found = Engine.load(run_dir).recommend([history], k=30, evidence=True)[0]
    return max(found, key=lambda item: item.evidence)


def test_new_events_count_at_once_but_not_in_what_is_measured(evident_run, tmp_path, capsys):
    before = evaluate_run(evident_run)["metrics"]
    first, last = (
        load_run(evident_run).catalog.item_ids[3],
        load_run(evident_run).catalog.item_ids[50],
    )
    assert top(evident_run, [first]).item_id != last
    lines = [
        f"n{user},{item},{time}" for user in range(40) for time, item in enumerate((first, last))
    ]
    file = tmp_path / "new.csv"
    file.write_text("\n".join(["user_id,item_id,timestamp", *lines, "n1,nothing,7"]) + "\n")
    assert main(["evidence", str(evident_run), "--interactions", str(file)]) == 2
    assert "unknown item id 'nothing'" in capsys.readouterr().err
    arguments = ["--interactions", str(file), "--unknown-items", "drop", "--json"]
    assert main(["evidence", str(evident_run), *arguments]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["num_new_events"], found["num_unknown"]) == (80, 1)
    assert top(evident_run, [first]).item_id == last
    assert evaluate_run(evident_run)["metrics"] == before
    assert main(["check", str(evident_run)]) == 0


def test_a_shops_file_is_read_as_the_runs_data_were(evident_run, tmp_path, capsys):
    marks = {"format": "delimited", "delimiter": ",", "quote": '"', "escape": '"'}
    events = TableRecipe(**marks, user="who", item="what", time="when")
    recipe = Recipe(events, rules=Rules(positive="count > 0"), time_form="%d.%m.%Y")
    with RunDirectory.open_to_write(evident_run) as directory, directory.writing(directory.recipe):
        write_json(directory.recipe, recipe.as_json())
    first, last = load_run(evident_run).catalog.item_ids[:2]
    rows = [f"1,{item},n{user},0{n + 1}.02.2024" for user in range(40)
            for n, item in enumerate((first, last))]  # fmt: skip
    file = tmp_path / "new.csv"
    file.write_text("\n".join(["count,what,who,when", *rows, "0,x,n1,01.02.2024"]) + "\n")
    assert main(["evidence", str(evident_run), "--interactions", str(file), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["num_new_events"], found["num_unknown"]) == (80, 0)
    assert found["notes"][0].endswith("81 events read; left out: 1 x not count > 0")
    file.write_text("\n".join(["count,what,who,when", *rows, "1,x,n1,01.02.2024"]) + "\n")
    arguments = ["evidence", str(evident_run), "--interactions", str(file)]
    assert main(arguments) == 2
    assert "1 events name items that the 60 of the catalogue lack" in capsys.readouterr().err
    assert main([*arguments, "--unknown-items", "drop"]) == 0
    assert "80 of them new, 1 of unknown items left out" in capsys.readouterr().out


def test_an_exported_run_recommends_with_what_was_counted_last(evident_run, tmp_path):
    pytest.importorskip("transformers")
    from store_engine.integrations.export_run import export_run
    from store_engine.integrations.import_run import import_run

    assert main(["evidence", str(evident_run)]) == 0
    run = load_run(evident_run)
    export_run(run, tmp_path / "exported")
    back = import_run(tmp_path / "exported", tmp_path / "back")
    assert np.array_equal(back.evidence_now.data, run.evidence_now.data)


def test_it_goes_with_the_evidence_that_was_weighed(evident_run):
    assert main(["evidence", str(evident_run)]) == 0
    run = load_run(evident_run)
    assert run.evidence_now.num_items == 60
    assert not np.array_equal(run.evidence_now.data, run.evidence.data)  # the test's events count
    with RunDirectory.open_to_write(evident_run) as directory:
        changed = run.training_evidence.scaled(2.0)
        with directory.writing(directory.training_evidence):
            changed.save(directory.training_evidence)
        with directory.writing(directory.evidence):
            run.evidence.save(directory.evidence)
    again = load_run(evident_run)
    assert np.array_equal(again.evidence_now.data, run.evidence.data)  # the newer one is stale


def test_a_run_without_evidence_is_refused(run_dir, capsys):
    assert main(["evidence", str(run_dir)]) == 2
    assert "has no item-item evidence to count anew" in capsys.readouterr().err


def test_a_run_that_is_written_to_is_refused(evident_run, capsys):
    with RunDirectory.open_to_write(evident_run):
        assert main(["evidence", str(evident_run)]) == 2
    assert capsys.readouterr().err.count("\n") == 1
