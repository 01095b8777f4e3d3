"""A run that goes on from another: its config, its data, what it copies."""

import shutil

import numpy as np
import pytest

from store_engine.config import load_config
from store_engine.errors import InputError
from store_engine.files.digest import sha256
from store_engine.runs.continued import NewData, Parent
from store_engine.runs.open_run import begin_or_resume, read_run_data
from store_engine.runs.run import Run
from store_engine.runs.run_directory import RunDirectory
from store_engine.sid.sid_table import SidTable

pytestmark = pytest.mark.usefixtures("process_group")


@pytest.fixture
def parent_dir(tmp_path):
    """A run of four items and three users that looks finished; no weight of it is read."""
    items = "item_id,title\n" + "".join(f"i{i},film number {i}\n" for i in range(4))
    events = "".join(f"u{u},i{i},{i}\n" for u in range(3) for i in range(3))
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "items.csv").write_text(items)
    (folder / "interactions.csv").write_text("user_id,item_id,timestamp\n" + events)
    overrides = [f"run_dir={tmp_path}/old", "data.name=files", f"data.path={folder}"]
    overrides += ['data.text_fields=["title"]', "data.text_vocab_size=300", "eval.max_k=10"]
    config = load_config(None, [*overrides, "tokenizer.codebook_size=2", "recommender.epochs=9"])
    with begin_or_resume(config, False, False) as run:
        for path in (run.tokenizer_weights, run.model_weights):
            with run.writing(path):
                path.write_text(path.name)
        with run.writing(run.sids):
            sids = [[row % 2, row // 2, 0, 0] for row in range(4)]
            item_ids = Run(run).catalog.item_ids
            SidTable(np.array(sids, np.int32), (2, 2, 2, 1), item_ids).save(run.sids)
    return run.root


def begin(parent_dir, *overrides, new=NewData()):  # noqa: B008 - a tuple
    """Begins the next run; its data, and its directory closed."""
    parent = Parent(parent_dir, new)
    config = parent.config([], [f"run_dir={parent_dir}-2", *overrides])
    directory = begin_or_resume(config, False, False, parent)
    data = read_run_data(config, directory)
    directory.close()
    return data


def test_without_new_data_it_is_the_same_data_with_the_old_weights(parent_dir):
    old = RunDirectory.open(parent_dir)
    data = begin(parent_dir)
    new = data.directory
    assert data.catalog == Run(old).catalog
    assert Run(new).histories.rows.tolist() == Run(old).histories.rows.tolist()
    assert sha256(new.tokenizer_weights) == sha256(old.tokenizer_weights)
    assert sha256(new.start_weights) == sha256(old.model_weights)
    assert sha256(new.start_sids) == sha256(old.sids)
    assert not new.start_scoring.exists()
    assert new.is_complete(new.tokenizer_weights)  # stage 1 is done
    assert not new.is_complete(new.sids)
    assert new.foreign() == []
    lineage = Run(new).lineage
    assert lineage.run_dir == str(parent_dir)
    assert lineage.weights == sha256(old.model_weights)
    assert Run(old).lineage is None


def test_new_events_and_items_come_after_the_old_ones(parent_dir, tmp_path, capsys):
    (tmp_path / "items2.csv").write_text("item_id,title\nnew,ein Film für 漢\ni1,another name\n")
    events = "user_id,item_id,timestamp\nu1,new,9\nu1,i3,5\nu9,i0,1\nu9,new,2\nu9,i1,3\nrare,i0,1\n"
    (tmp_path / "events2.csv").write_text(events)
    new = NewData(str(tmp_path / "items2.csv"), str(tmp_path / "events2.csv"))
    run = Run(begin(parent_dir, new=new).directory)
    assert run.catalog.item_ids == ("i0", "i1", "i2", "i3", "new")
    assert run.catalog.fields["title"][1] == "another name"
    assert run.histories.user_ids == ("u0", "u1", "u2", "u9")
    assert [run.histories[u].tolist() for u in range(4)] == [
        [0, 1, 2], [0, 1, 2, 3, 4], [0, 1, 2], [0, 4, 1]
    ]  # fmt: skip
    assert run.vocabulary.decode(run.vocabulary.encode("für 漢")) == "für 漢"
    out = capsys.readouterr().out
    assert "dropped 1 users with fewer than 3 events" in out
    assert "1 new items, +1 users, +5 events" in out


def test_all_data_again(parent_dir, tmp_path, capsys):
    folder = tmp_path / "data"
    (folder / "items.csv").write_text("item_id,title\nnew,b\ni2,c\n")  # i0, i1, i3 are sold out
    events = "".join(f"u0,{item},{t}\n" for t, item in enumerate(("i0", "new")))
    events += "".join(f"u7,{item},{t}\n" for t, item in enumerate(("i3", "new", "i2")))
    (folder / "interactions.csv").write_text("user_id,item_id,timestamp\n" + events)
    run = Run(begin(parent_dir, f"data.path={folder}", "data.min_events=3").directory)
    assert run.catalog.item_ids == ("i0", "i1", "i2", "i3", "new")
    assert run.histories.user_ids == ("u7",)
    assert run.histories.rows.tolist() == [3, 4, 2]
    assert "fewer events before the test" not in capsys.readouterr().out


def test_users_who_lost_events_are_counted(parent_dir, tmp_path, capsys):
    folder = tmp_path / "data"
    events = "".join(f"u0,i{i},{i}\n" for i in range(4))
    (folder / "interactions.csv").write_text("user_id,item_id,timestamp\n" + events)
    begin(parent_dir, f"data.path={folder}")
    again = tmp_path / "old-2"
    again.rename(parent_dir.parent / "middle")
    (folder / "interactions.csv").write_text(
        "user_id,item_id,timestamp\n" + "".join(f"u0,i{i},{i}\n" for i in range(3))
    )
    with RunDirectory.open_to_write(parent_dir.parent / "middle") as run:
        for path, start in ((run.model_weights, run.start_weights), (run.sids, run.start_sids)):
            with run.writing(path):
                path.write_bytes(start.read_bytes())
    parent = Parent(parent_dir.parent / "middle", NewData())
    config = parent.config([], [f"run_dir={tmp_path}/last", f"data.path={folder}"])
    begin_or_resume(config, False, False, parent).close()
    assert "warning: 1 users have fewer events before the test than in" in capsys.readouterr().out


def test_another_split_may_test_what_was_trained(parent_dir, tmp_path, capsys):
    begin(parent_dir, "data.split=by_user", "data.valid_share=0.3", "data.test_share=0.3")
    assert "have fewer events before the test than in" in capsys.readouterr().out


def test_a_run_split_by_time_takes_all_data_again(parent_dir, tmp_path):
    (tmp_path / "later.csv").write_text("user_id,item_id,timestamp\nu0,i3,9\n")
    shares = ("data.split=temporal", "data.valid_share=0.3", "data.test_share=0.3")
    with pytest.raises(InputError, match="--data names all of today"):
        begin(parent_dir, *shares, new=NewData(None, str(tmp_path / "later.csv")))
    run = Run(begin(parent_dir, *shares, f"data.path={tmp_path / 'data'}").directory)
    assert run.split.protocol == "temporal"
    assert run.split.train.rows.tolist() == [0, 0, 0]


def test_epochs_are_a_quarter_then_stay(parent_dir, tmp_path):
    def epochs(*overrides, paths=()):
        config = Parent(parent_dir, NewData()).config(paths, [f"run_dir={tmp_path}/x", *overrides])
        return config.recommender.epochs

    (tmp_path / "fast.toml").write_text("[recommender]\nepochs = 7\n")
    (tmp_path / "other.toml").write_text("[train]\nseed = 7\n")
    assert epochs() == 3
    assert epochs("recommender.epochs=5") == 5
    assert epochs(paths=[tmp_path / "fast.toml"]) == 7
    assert epochs("recommender.epochs=0", paths=[tmp_path / "fast.toml"]) == 0
    assert epochs(paths=[tmp_path / "other.toml"]) == 3
    new = begin(parent_dir).directory
    with RunDirectory.open_to_write(new.root) as run:
        for path in (run.model_weights, run.sids):
            with run.writing(path):
                path.write_text("")
    assert Parent(new.root, NewData()).config([], ["run_dir=x"]).recommender.epochs == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("model.hidden_size=64", "model.hidden_size = 128, which --from must keep, got 64"),
        ("tokenizer.codebook_size=3", "made with tokenizer.codebook_size = 2"),
        ("tokenizer.epochs=3", "made with tokenizer.epochs"),
        ('data.text_fields=["title", "brand"]', "made with data.text_fields"),
        ("data.max_text_tokens=3", "made with data.max_text_tokens"),
        ("data.text_vocab_size=400", "made with data.text_vocab_size"),
        ("recommender.skip=true", "made with recommender.skip"),
        ("recommender.decoder=heads", "made with recommender.decoder"),
        ("run_dir=old", "goes on in a directory of its own: run_dir=PATH"),
        ("recommender.epochs=-1", "recommender.epochs must be in"),
        ("recommender.nothing=1", "unknown config key"),
    ],
)
def test_what_the_old_weights_depend_on_is_refused(change, message, parent_dir, monkeypatch):
    monkeypatch.chdir(parent_dir.parent)
    with pytest.raises(InputError, match=message):
        Parent(parent_dir, NewData()).config([], ["run_dir=new", change])


@pytest.mark.parametrize(
    "change",
    ["model.dropout=0.3", "recommender.lr=1e-4", "train.seed=3", "evidence.window=3",
     "data.max_history=9", "recommender.scoring=1", "decoding.evidence=auto"],
)  # fmt: skip
def test_what_they_do_not_depend_on_is_taken(change, parent_dir):
    assert Parent(parent_dir, NewData()).config([], ["run_dir=new", change])


def test_two_ways_to_name_the_data_are_refused(parent_dir):
    parent = Parent(parent_dir, NewData(interactions="new.csv"))
    with pytest.raises(InputError, match="one of the two is wanted"):
        parent.config([], ["run_dir=new", "data.path=."])


def test_a_run_that_is_not_finished_is_refused(parent_dir):
    (parent_dir / "model.safetensors").unlink()
    with pytest.raises(InputError, match="not finished"):
        Parent(parent_dir, NewData())


def test_damaged_weights_are_refused_and_leave_nothing(parent_dir):
    (parent_dir / "model.safetensors").write_text("other")
    with pytest.raises(InputError, match="changed or damaged"):
        begin(parent_dir)
    assert not (parent_dir.parent / "old-2").exists()


def test_unknown_items_among_the_new_events_are_refused(parent_dir, tmp_path):
    (tmp_path / "e.csv").write_text("user_id,item_id,timestamp\nu1,nope,9\n")
    with pytest.raises(InputError, match="unknown item id 'nope'"):
        begin(parent_dir, new=NewData(interactions=str(tmp_path / "e.csv")))


def test_lost_weights_of_stage_1_are_not_made_again(parent_dir):
    directory = begin(parent_dir).directory
    config = directory.read_config()
    directory.tokenizer_weights.unlink()
    with pytest.raises(InputError, match="lost since the run began"):
        begin_or_resume(config, True, False)


def test_the_old_run_may_go_before_a_resume(parent_dir):
    directory = begin(parent_dir).directory
    config = directory.read_config()
    shutil.rmtree(parent_dir)
    begin_or_resume(config, True, False).close()
