import math
import re

import pytest

from store_engine.report.charts import WIDTH, Axes, Line, line_chart, short_number, ticks


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 1, [0, 0.25, 0.5, 0.75, 1.0]),
        (0, 100, [0, 25, 50, 75, 100]),
        (0.064, 0.072, [0.064, 0.066, 0.068, 0.07, 0.072]),
        (5, 5, [4.5, 4.75, 5.0, 5.25, 5.5]),
        (0, 0, [-1, -0.5, 0, 0.5, 1]),
        (-3, 7, [-5, -2.5, 0, 2.5, 5, 7.5]),
    ],
)
def test_ticks_are_round_and_reach_around(low, high, expected):
    assert ticks(low, high, 4) == pytest.approx(expected)


@pytest.mark.parametrize("high", [1e-300, 1e-9, 3.7, 9.99e5, 1e300])
def test_ticks_of_any_size_are_few_and_finite(high):
    found = ticks(0, high, 4)
    assert 3 <= len(found) <= 8 and found[0] <= 0 and found[-1] >= high * (1 - 1e-9)
    assert all(map(math.isfinite, found))


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.0721, "0.0721"), (9.5, "9.5"), (5000, "5,000"), (15000, "15k"), (2.5e6, "2.5M")],
)
def test_numbers_are_short(value, text):
    assert short_number(value) == text


@pytest.mark.parametrize("num_points", [1, 2, 241, 10_000])
def test_a_line_of_any_length_stays_on_the_page_and_small(num_points):
    line = Line("<b>&", range(num_points), [float(i % 7) for i in range(num_points)])
    chart = line_chart("a </svg>", [line], Axes("step"))
    assert "<b>" not in chart.svg and chart.svg.count("</svg>") == 1
    assert len(chart.svg) < 12_000
    numbers = re.search(r'class="line c0" d="M([^"]*)"', chart.svg).group(1)
    xs = [float(pair.split()[0]) for pair in numbers.split("L")]
    assert 0 <= min(xs) <= max(xs) <= WIDTH
