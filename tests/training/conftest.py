import pytest
from stages import ALL_TASKS, ITEMS, make_stages


@pytest.fixture(scope="session")
def stages():
    return make_stages()


@pytest.fixture(scope="session")
def stages_with():
    """stages_with(*overrides) makes both stages of another config."""
    return lambda *overrides: make_stages(overrides)


@pytest.fixture(scope="session")
def all_tasks():
    """The second stage with all four tasks."""
    return make_stages(ALL_TASKS)[2]


@pytest.fixture(scope="session")
def item_stage():
    """The second stage with items as tokens, without dropout."""
    return make_stages([override for override in ITEMS if "dropout" not in override])[2]


@pytest.fixture(scope="session")
def task_named(all_tasks):
    """task_named(name) is one of the four tasks."""
    return {task.name: task for task in all_tasks.mixture.tasks}.__getitem__


@pytest.fixture(scope="session")
def task_data(all_tasks):
    """What the four tasks' documents are made of."""
    return all_tasks.mixture._data
