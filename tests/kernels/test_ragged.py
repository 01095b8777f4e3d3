import torch

from store_engine.kernels.ragged import ragged_ranges, segment_logsumexp, top_columns


def test_ragged_ranges():
    owner, number = ragged_ranges(torch.tensor([5, 0, 7]), torch.tensor([2, 0, 3]))
    assert owner.tolist() == [0, 0, 2, 2, 2]
    assert number.tolist() == [5, 6, 7, 8, 9]


def test_segment_logsumexp():
    x = torch.tensor([1.0, 2.0, -torch.inf, -torch.inf, 5.0])
    got = segment_logsumexp(x, torch.tensor([0, 0, 2, 2, 3]), 5)
    want = [x[:2].logsumexp(0), -torch.inf, -torch.inf, 5.0, -torch.inf]
    torch.testing.assert_close(got, torch.tensor(want))


def test_top_columns_takes_the_first_of_equal_values():
    table = torch.randint(0, 4, (50, 30)).float()
    got = top_columns(table, 12)
    order = table.argsort(dim=1, descending=True, stable=True)
    assert torch.equal(got, order[:, :12])
