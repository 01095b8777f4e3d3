import numpy as np
import pytest
import torch

from store_engine.text.token_ids import check_ids


@pytest.mark.parametrize(
    "ids", [[0, 9], (0, 9), iter([0, 9]), np.array([0, 9]), torch.tensor([0, 9])]
)
def test_whole_numbers_of_every_kind(ids):
    got = check_ids(ids, 10)
    assert got == [0, 9]
    assert all(type(i) is int for i in got)


@pytest.mark.parametrize("ids", [[-1], [10], [0, 2**70]])
def test_refuses_ids_outside(ids):
    with pytest.raises(ValueError, match=r"ids must be in \[0, 10\)"):
        check_ids(ids, 10)


@pytest.mark.parametrize("ids", [[1.5], [1.0], ["1"], [None], np.array([1.0])])
def test_refuses_what_is_no_whole_number(ids):
    with pytest.raises(TypeError):
        check_ids(ids, 10)
