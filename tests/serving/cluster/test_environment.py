import os

import pytest

from store_engine.serving.cluster.environment import set_for_ray


@pytest.mark.parametrize(("is_verbose", "to_stderr"), [(False, "0"), (True, "1")])
def test_what_the_user_has_set_stays(monkeypatch, is_verbose, to_stderr):
    monkeypatch.setattr(os, "environ", {"RAY_SERVE_USE_GRPC_BY_DEFAULT": "0"})
    set_for_ray(is_verbose=is_verbose)
    assert os.environ["RAY_SERVE_USE_GRPC_BY_DEFAULT"] == "0"
    assert os.environ["RAY_SERVE_LOG_TO_STDERR"] == to_stderr
