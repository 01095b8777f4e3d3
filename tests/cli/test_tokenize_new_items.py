"""From new items in a file to recommendations: SIDs and features, then the live catalogue."""

import csv

import numpy as np
import pytest
import torch
from engines import SMALL, catalog_of

from store_engine import Engine
from store_engine._C import ItemTrie
from store_engine.cli.main import main
from store_engine.config import Config, DataConfig, ModelConfig, RecommenderConfig, TokenizerConfig
from store_engine.data.catalog import Catalog
from store_engine.data.histories import Histories
from store_engine.model.store_model import StoreModel
from store_engine.model.weights import save_weights
from store_engine.runs.run_directory import RunDirectory, RunOrigin
from store_engine.sid.clusters import item_sids
from store_engine.sid.dense_tokenizer import DenseTokenizer, ItemTexts, encode_catalog
from store_engine.sid.item_features import fit_features
from store_engine.sid.item_tokens import recommender_model
from store_engine.sid.quantizers.item_clusters import ItemClusters
from store_engine.sid.sid_table import SidTable
from store_engine.text.text_vocabulary import TextVocabulary

NUM_CODES = 2


@pytest.fixture
def item_run(tmp_path):
    """A finished run with random weights, whose last code is the item itself."""
    catalog = catalog_of(60)
    config = Config(
        data=DataConfig(max_history=8, text_fields=("title",)),
        model=ModelConfig(**SMALL),
        tokenizer=TokenizerConfig(num_codes=NUM_CODES, codebook_size=4, last_level="item"),
        recommender=RecommenderConfig(history="items", decoder="heads", head_size=8),
    )
    vocabulary = TextVocabulary.train(catalog.fields["title"], vocab_size=300)
    torch.manual_seed(0)
    tokenizer = DenseTokenizer(StoreModel(config.model, len(vocabulary)), NUM_CODES).eval()
    texts = ItemTexts(catalog, vocabulary, config.data.max_text_tokens)
    dense_tokens = encode_catalog(tokenizer, texts, NUM_CODES)
    features = fit_features(dense_tokens, 16)
    described = features(dense_tokens)
    sids, sizes = item_sids(described[:, :-1], 4, 0)
    clusters = ItemClusters.of(described[:, None], sids)
    table = SidTable(sids, sizes, catalog.item_ids, clusters, features=features)
    model = recommender_model(config, len(vocabulary), table)

    def write_data(paths):
        catalog.save(paths.items)
        rows = np.arange(60, dtype=np.int32)
        Histories(("u", "v"), rows, np.array([0, 20, 60])).save(paths.histories)
        vocabulary.save(paths.root)

    origin = RunOrigin(config, "fixture")
    with RunDirectory.create(tmp_path / "run", origin, write_data) as run:
        with run.writing(run.tokenizer_weights):
            save_weights(tokenizer.state_dict(), run.tokenizer_weights)
        with run.writing(run.sids):
            table.save(run.sids)
        with run.writing(run.trie, run.model_weights):
            ItemTrie(sids, list(sizes)).save(str(run.trie))
            save_weights(model.state_dict(), run.model_weights)
    return run.root


@pytest.fixture
def new_csv(tmp_path):
    path = tmp_path / "new.csv"
    path.write_text("item_id,title\n" + "".join(f"new {n},Title [of] item {n}\n" for n in range(5)))
    return path


def test_new_items_of_a_file_are_recommended(item_run, new_csv, tmp_path):
    out, features = tmp_path / "sids.csv", tmp_path / "features.npz"
    args = ["--items", str(new_csv), "--out", str(out), "--features", str(features)]
    assert main(["tokenize", str(item_run), *args]) == 0
    with out.open(encoding="utf-8", newline="") as file:
        _, *rows = csv.reader(file)
    sids = np.array([row[1:] for row in rows], dtype=np.int32)
    with np.load(features) as arrays:
        assert arrays["item_ids"].tolist() == [f"new {n}" for n in range(5)]
        described = arrays["features"]
    engine = Engine.load(item_run, dtype="float32")
    ids = tuple(f"new {n}" for n in range(5))
    catalog = Catalog(ids, {"title": tuple(f"Title [of] item {n}" for n in range(5))})
    engine.add_items(catalog, sids, described)
    found = engine.recommend([["new 3", "item 7"]], 65, beam_width=65)[0]
    assert {item.item_id for item in found} >= set(ids)
    total = np.logaddexp.reduce([item.logprob for item in found])
    assert total == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--features", "x.npz"], "--features is for new items"),
        (["--items", "new.csv", "--features", "new.csv/x.npz"], "its folder cannot be made"),
        (["--items", "new.csv", "--features", "run/model.safetensors"], "is a file of a run"),
        (["--items", "new.csv", "--features", "./new.csv"], "new.csv: is read, name another"),
        (
            ["--items", "new.csv", "--features", "x.npz", "--out", "./x.npz"],
            "x.npz: is written twice",
        ),
    ],
)
def test_refuses(options, message, item_run, new_csv, capsys, monkeypatch):
    monkeypatch.chdir(new_csv.parent)
    assert main(["tokenize", "run", *options]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1


def test_a_run_without_item_rows_has_no_features(run_dir, new_csv, capsys):
    args = ["--items", str(new_csv), "--features", str(new_csv.with_name("x.npz"))]
    assert main(["tokenize", str(run_dir), *args]) == 2
    assert "--features is for new items" in capsys.readouterr().err
