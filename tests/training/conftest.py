import tempfile

import numpy as np
import pytest

from store_engine.config import load_config
from store_engine.data.load import load_dataset
from store_engine.data.split import leave_one_out
from store_engine.files.token_file import TokenFile
from store_engine.sid.clusters import item_sids
from store_engine.sid.dense_tokenizer import ItemTexts
from store_engine.sid.item_features import fit_features
from store_engine.sid.sid_table import SidTable
from store_engine.text.text_vocabulary import TextVocabulary
from store_engine.training.stages import RecommenderStage, TokenizerStage


def make_stages(overrides=()):
    """Both stages on the synthetic data of tiny.toml, with random SIDs."""
    config = load_config("configs/tiny.toml", list(overrides))
    dataset = load_dataset(config.data)
    columns = dataset.catalog.fields.values()
    vocabulary = TextVocabulary.train([text for column in columns for text in column], 300)
    texts = ItemTexts(dataset.catalog, vocabulary, config.data.max_text_tokens)
    sids = np.random.default_rng(0).integers(0, 16, (dataset.catalog.num_items, 3), dtype=np.int32)
    table = SidTable(sids, (16, 16, 16), dataset.catalog.item_ids)
    if config.tokenizer.last_level == "item":
        dense_tokens = np.random.default_rng(0).standard_normal((len(sids), 2, 8))
        table = item_table(dense_tokens.astype(np.float32), dataset.catalog.item_ids)
    train = leave_one_out(dataset.histories).train
    with tempfile.TemporaryDirectory() as folder:  # what is mapped stays readable
        file = TokenFile.write(folder, (train[user] for user in range(train.num_users)))
    return (
        config,
        TokenizerStage(config, texts, len(vocabulary)),
        RecommenderStage(config, texts, len(vocabulary), file, table),
    )


def item_table(dense_tokens, item_ids):
    """SIDs of eight clusters, then the item."""
    features = fit_features(dense_tokens, 6)
    sids, sizes = item_sids(dense_tokens.reshape(len(dense_tokens), -1), 8, 0)
    return SidTable(sids, sizes, item_ids, features=features)


ITEMS = (
    "tokenizer.last_level=item",
    "recommender.history=items",
    "recommender.decoder=heads",
    "recommender.item_softmax=0.5",
    "recommender.residual_dropout=0.3",
    "recommender.window_overlap=3",
)
ALL_TASKS = (
    "recommender.reconstruction=0.5",
    "recommender.scoring=2",
    "recommender.alignment=1.5",
    "recommender.first_item_loss=true",
)


@pytest.fixture(scope="session")
def stages():
    return make_stages()


@pytest.fixture(scope="session")
def stages_with():
    """stages_with(*overrides) makes both stages of another config."""
    return lambda *overrides: make_stages(overrides)


@pytest.fixture(scope="session")
def all_tasks():
    """The second stage with all four tasks."""
    return make_stages(ALL_TASKS)[2]


@pytest.fixture(scope="session")
def item_stage():
    """The second stage with items as tokens, without dropout."""
    return make_stages([override for override in ITEMS if "dropout" not in override])[2]


@pytest.fixture(scope="session")
def task_named(all_tasks):
    """task_named(name) is one of the four tasks."""
    return {task.name: task for task in all_tasks.mixture.tasks}.__getitem__


@pytest.fixture(scope="session")
def task_data(all_tasks):
    """What the four tasks' documents are made of."""
    return all_tasks.mixture._data
