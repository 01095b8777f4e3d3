"""GPUs of the cluster: who takes a share of one is placed beside it and sees it alone."""

import logging
import os

import pytest

pytest.importorskip("ray.serve", reason="Ray is not installed: pip install 'store-engine[serve]'")

import ray

from store_engine.errors import InputError
from store_engine.serving.cluster.application import parts
from store_engine.serving.cluster.connection import check_gpus, connect, device_of, gpus_of
from store_engine.serving.settings import ServeSettings


def options_of(tmp_path, **settings):
    """What Ray is told of the owner and of a replica, and the device that they are told."""
    owner, engines = parts(tmp_path, ServeSettings(**settings))
    told = [one._bound_deployment.ray_actor_options for one in (owner, engines)]
    own = owner._bound_deployment.init_args[1], engines._bound_deployment.init_args[1]
    return told, {one.device for one in own}


@pytest.mark.parametrize(
    ("device", "shares", "told"),
    [("cpu", (0, 0), "cpu"), ("auto", (0, 0), "cpu"), ("cuda", (0.1, 0.9), "cuda")],
)
def test_the_owner_and_the_replicas_take_what_they_compute_on(tmp_path, device, shares, told):
    options, devices = options_of(tmp_path, device=device, threads=3)
    assert tuple(one["num_gpus"] for one in options) == shares
    assert [one["num_cpus"] for one in options] == [0, 3]
    assert devices == {told}


def test_as_many_gpus_as_replicas_have_room_for_the_owner():
    engine, owner = gpus_of("cuda")
    assert engine + owner == 1
    assert 2 * engine > 1  # no two replicas share one


TOKENS = "ray._private.authentication.authentication_token_setup"


@pytest.mark.parametrize("is_verbose", [False, True])
def test_of_rays_lines_warnings_come_through(monkeypatch, is_verbose):
    told = {}
    monkeypatch.setattr(ray, "init", lambda **options: told.update(options))
    levels = {"ray.serve": logging.INFO, TOKENS: logging.INFO}
    for name, level in levels.items():
        monkeypatch.setattr(logging.getLogger(name), "level", level)
        monkeypatch.setattr(logging.getLogger(name), "filters", [])
        logging.getLogger(name).manager._clear_cache()
    connect(1, is_verbose=is_verbose)
    assert told["log_to_driver"] is is_verbose
    assert told["logging_level"] == ("info" if is_verbose else "warning")
    assert logging.getLogger("ray.serve").isEnabledFor(logging.INFO) is is_verbose
    assert logging.getLogger("ray.serve").isEnabledFor(logging.WARNING)
    for text, is_shown in (
        ("Token authentication is enabled for this Ray cluster. Set %s", is_verbose),
        ("Token authentication is disabled for this Ray cluster.", True),
    ):
        record = logging.makeLogRecord({"msg": text, "levelno": logging.WARNING})
        assert bool(logging.getLogger(TOKENS).filter(record)) is is_shown


@pytest.fixture
def one_gpu(monkeypatch):
    """A cluster that thinks that it has one GPU."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    ray.init(num_cpus=1, num_gpus=1, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.mark.slow
def test_ray_shows_the_gpu_to_both_at_once(one_gpu):
    class Looks:
        def visible(self):
            return os.environ.get("CUDA_VISIBLE_DEVICES")

    kind, shares = ray.remote(Looks), gpus_of("cuda")
    actors = [kind.options(num_cpus=0, num_gpus=share).remote() for share in shares]
    assert ray.get([one.visible.remote() for one in actors]) == ["0", "0"]
    assert device_of("auto") == "cuda"
    check_gpus(1)
    with pytest.raises(InputError, match="at most the number of GPUs, 1, got 2"):
        check_gpus(2)
