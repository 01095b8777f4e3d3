from dataclasses import replace

import numpy as np

from benchmarks.training import task
from benchmarks.training.engines import PlainEngine
from benchmarks.training.models import PackedStoreModel, packed_batch
from benchmarks.training.task import CODEBOOK_SIZES, MODELS, Task, draw_documents
from store_engine.model.store_model import StoreModel

TASK = Task("ours", "hidden=256,layers=4", "float32", "", 1, 2, 3, 1)


def test_the_plain_engine_lowers_the_loss(monkeypatch):
    small = replace(MODELS[TASK.model], num_layers=1, hidden_size=64, num_heads=1, num_kv_heads=1)
    monkeypatch.setattr(task, "TEXT_VOCAB_SIZE", 300)
    documents = draw_documents(TASK)[:3]
    engine = PlainEngine(PackedStoreModel(StoreModel(small, 300, CODEBOOK_SIZES)))
    losses = []
    for _ in range(5):
        loss = engine(*packed_batch(documents, "cpu"))
        engine.backward(loss)
        engine.step()
        losses.append(loss.item())
    assert np.all(np.diff(losses) < 0)
