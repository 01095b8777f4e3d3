import numpy as np
import pytest

from store_engine.model.targets import IGNORE


@pytest.fixture
def task(task_named):
    return task_named("alignment")


def test_an_epoch_passes_over_the_items_as_often_as_said(task, task_data):
    counts = np.bincount(task.sample(0)[:, 0])
    assert set(counts) == {1, 2}
    assert counts.sum() == round(1.5 * task_data.texts.num_items)


def test_it_reads_the_text_and_writes_the_codes(task, task_data):
    tokens, targets = task.document(np.array([5]))
    content, codes = task_data.texts.content(5), task_data.items.written[5].tolist()
    assert tokens.tolist() == content + codes[:-1]
    assert targets.tolist() == [IGNORE] * (len(content) - 1) + codes
