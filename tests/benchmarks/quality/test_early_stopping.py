import pytest
import torch
from torch import nn

from benchmarks.quality.early_stopping import EarlyStopping


@pytest.mark.parametrize(
    ("scores", "best", "last"),
    [([1, 2, 3], 2, 2), ([1, 5, 5, 4, 6], 1, 3), ([3, 2, 1], 0, 2), ([1, 2, 1, 3, 2, 1], 3, 5)],
    ids=["better", "of-equals-the-first", "never-better", "late"],
)
def test_the_best_weights_come_back(scores, best, last):
    model = nn.Linear(1, 1)
    stopping = EarlyStopping(model, patience=2)
    for epoch, score in enumerate(scores):
        nn.init.constant_(model.weight, epoch)
        if stopping.should_stop(epoch, score):
            break
    stopping.restore()
    assert (stopping.best_epoch, epoch) == (best, last)
    assert model.weight.item() == best


def test_without_an_epoch_nothing_changes():
    model = nn.Linear(2, 2)
    before = model.weight.detach().clone()
    EarlyStopping(model, patience=1).restore()
    torch.testing.assert_close(model.weight, before)
