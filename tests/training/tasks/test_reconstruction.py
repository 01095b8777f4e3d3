import numpy as np
import pytest

from store_engine.model.targets import IGNORE


@pytest.fixture
def task(task_named):
    return task_named("reconstruction")


def test_half_a_pass_is_half_of_the_items(task, task_data):
    rows = task.sample(0)[:, 0]
    assert len(rows) == len(set(rows)) == task_data.texts.num_items // 2


def test_it_reads_the_codes_and_writes_the_text(task, task_data):
    tokens, targets = task.document(np.array([5]))
    texts, codes = task_data.texts, task_data.items.read[5].tolist()
    text = texts.content(5)[1:]
    assert tokens.tolist() == [texts.bos_id, *codes, *text]
    assert targets.tolist() == [IGNORE] * len(codes) + [*text, texts.eos_id]
