import pytest

from benchmarks.tabulating.markdown import number, times


@pytest.mark.parametrize(
    ("x", "want"),
    [(0.0921, "0.092"), (0.7964, "0.796"), (1.372, "1.37"), (10.114, "10.1"), (3649.4, "3,649")],
)
def test_figures_have_three_digits(x, want):
    assert number(x) == want


@pytest.mark.parametrize(("x", "want"), [(0.98, "1.0 x"), (8.66, "8.7 x"), (26.2, "26 x")])
def test_ratios_are_short(x, want):
    assert times(x) == want
