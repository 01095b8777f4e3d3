from dataclasses import replace

import pytest

from benchmarks.training import task
from benchmarks.training.task import PEERS, Task, draw_documents, split_steps

TASK = Task("ours", "hidden=256,layers=4", "float32", "", 1, 2, 3, 1)


def test_every_provider_learns_the_same_tokens():
    documents = draw_documents(TASK)
    assert len(documents) == 6
    for provider in (*PEERS, "ours"):
        steps = split_steps(replace(TASK, provider=provider), documents)
        assert len(steps) == TASK.num_steps
        taken = sorted(id(document) for step in steps for document in step)
        assert taken == sorted(map(id, documents))


@pytest.mark.parametrize("has_deepspeed", [True, False])
def test_the_case_says_which_engine_trained(monkeypatch, has_deepspeed):
    monkeypatch.setattr(task, "HAS_DEEPSPEED", has_deepspeed)
    assert TASK.case.endswith("engine=torch") != has_deepspeed
