from benchmarks.tabulating.figures import NOT_MEASURED, Figures


def test_a_case_that_was_not_measured_has_no_figures():
    assert Figures.find([], "n=1e6", "step_ms").by_provider == {}
    assert Figures({"ours": 1.0}).cell("transformers") == NOT_MEASURED
