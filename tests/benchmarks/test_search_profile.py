import pytest

from benchmarks.search_profile import Span, busy_us, summarise


@pytest.mark.parametrize(
    ("times", "want"),
    [
        ([], 0.0),
        ([(5, 7)], 2.0),
        ([(5, 7), (7, 8), (10, 11)], 4.0),
        ([(0, 10), (2, 3), (9, 12)], 12.0),  # two streams at once
        ([(9, 12), (0, 10)], 12.0),
    ],
    ids=["none", "one", "apart", "overlap", "unsorted"],
)
def test_busy_time_counts_a_moment_once(times, want):
    assert busy_us([Span("k", True, *map(float, pair)) for pair in times]) == want


def test_what_a_search_asks_of_the_device():
    spans = [
        Span("aten::mm", False, 0.0, 2.0),
        Span("cudaStreamSynchronize", False, 2.0, 9.0),
        Span("gemm", True, 2.0, 6.0),
        Span("Memcpy HtoD (Pageable -> Device)", True, 6.0, 7.0),
        Span("Memcpy DtoD (Device -> Device)", True, 7.0, 8.0),
        Span("aten::add", False, 9.0, 10.0),
    ]
    figures = {name: figure for name, (figure, _) in summarise(spans).items()}
    want = {"operations": 2, "kernels": 3, "copies": 1, "waits": 1, "busy_share": 0.6}
    assert figures == want


def test_a_cpu_shows_operations_alone():
    assert list(summarise([Span("aten::mm", False, 0.0, 2.0)])) == ["operations"]
