import pytest


@pytest.fixture
def serve(make_engine):
    """serve(**settings) -> a client, with the backend as `.backend`."""
    from one_engine import clients_of  # needs FastAPI, without which its tests are skipped

    yield from clients_of(make_engine)
