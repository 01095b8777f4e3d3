import torch

from benchmarks.training.models import padded_batch
from benchmarks.training.task import Task, draw_documents

TASK = Task("ours", "hidden=256,layers=4", "float32", "", 1, 2, 3, 1)


def test_padding_has_no_target():
    documents = draw_documents(TASK)
    tokens, mask, targets = padded_batch(documents, "cpu")
    assert tokens.shape == mask.shape == targets.shape
    assert torch.equal(targets == -100, mask == 0)
    assert int(mask.sum()) == sum(len(document.tokens) for document in documents)
