from pathlib import Path

import pytest

from store_engine.config import DataConfig
from store_engine.data.load import load_dataset
from store_engine.errors import InputError


def write(folder: Path) -> Path:
    folder.mkdir()
    (folder / "ml-100k.item").write_text("item_id:token\tmovie_title:x\tclass:x\n1\tHeat\tCrime\n")
    (folder / "ml-100k.inter").write_text(
        "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
        + "".join(f"u\t1\t3\t{t}\n" for t in range(3))
        + "v\t1\t3\t9\n"
    )
    return folder


def test_movielens(tmp_path):
    config = DataConfig(path=str(write(tmp_path / "ml")), text_fields=("movie_title", "class"))
    dataset = load_dataset(config)
    assert dataset.name == "ml-100k"
    assert {name: texts[0] for name, texts in dataset.catalog.fields.items()} == {
        "movie_title": "Heat",
        "class": "Crime",
    }
    assert (dataset.histories.num_users, dataset.num_dropped_users) == (1, 1)


@pytest.mark.parametrize("is_absolute", [False, True])
def test_files(tmp_path, is_absolute):
    folder = write(tmp_path / "shop")
    config = DataConfig(
        name="files",
        path="/nowhere" if is_absolute else str(folder),
        items=str(folder / "ml-100k.item") if is_absolute else "ml-100k.item",
        interactions=str(folder / "ml-100k.inter") if is_absolute else "ml-100k.inter",
        text_fields=("movie_title",),
    )
    dataset = load_dataset(config)
    assert dataset.name == "shop"
    assert dataset.histories.num_events == 3


def test_synthetic():
    config = DataConfig(name="synthetic", num_items=20, num_users=30, num_topics=4, seed=5)
    dataset = load_dataset(config)
    assert dataset.name == "synthetic"
    assert (dataset.catalog.num_items, dataset.histories.num_users) == (20, 30)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "files", "path": "/nowhere"}, "/nowhere/items.csv: .*No such file"),
        ({"name": "ml-100k", "path": "/nowhere"}, "needs ml-100k.inter and ml-100k.item"),
        ({"name": "synthetic", "num_topics": 999}, "num_topics <= num_items"),
    ],
    ids=["files", "ml-100k", "synthetic"],
)
def test_rejects(changes, message):
    with pytest.raises(InputError, match=message):
        load_dataset(DataConfig(**changes))


def test_the_name_is_that_of_the_folder_as_the_user_wrote_it(tmp_path, monkeypatch):
    stored = write(tmp_path / "3f9a")
    (tmp_path / "shop").symlink_to(stored)
    names = {"items": "ml-100k.item", "interactions": "ml-100k.inter", "text_fields": ("class",)}
    config = DataConfig(name="files", path=str(tmp_path / "shop"), **names)
    assert load_dataset(config).name == "shop"
    monkeypatch.chdir(tmp_path / "shop")
    assert load_dataset(DataConfig(name="files", path=".", **names)).name in ("shop", "3f9a")


def test_the_report(tmp_path):
    folder = write(tmp_path / "ml")
    config = DataConfig(path=str(folder), text_fields=("movie_title", "class"))
    assert load_dataset(config).report.lines() == [
        "read 1 items and 4 events of 2 users",
        "dropped 1 users with fewer than 3 events",
    ]
    config = DataConfig(name="synthetic", num_items=20, num_users=30, num_topics=4)
    assert load_dataset(config).report.lines()[0].startswith("read 20 items and ")
