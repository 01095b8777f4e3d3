import json

import pytest
from live_runs import make_run

from benchmarks.serving.check import check, is_right
from store_engine.decoding.engine import Engine
from store_engine.serving.owner import CatalogOwner
from store_engine.serving.service import BEFORE_ALL, EngineService, Found, Query, Refused

WORK = {"questions": [{"history": ["item 3"]}, {"user": "anna"}], "k": 5, "changes_per_s": 1}
TEXT = {"title": "red teapot", "brand": "brand 3"}
CHANGES = [
    ("/v1/items/remove", {"item_ids": ["item 9"]}),
    ("/v1/items", {"items": [{"item_id": "item 9", "text": TEXT}]}),
    ("/v1/items/update", {"items": [{"item_id": "item 9", "text": TEXT}]}),
    ("/v1/events", {"events": [{"user_id": "anna", "item_id": "item 9", "time": 1.0}]}),
]


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A run after four changes, and what honest clients of a right server would tell."""
    root = make_run(tmp_path_factory.mktemp("served") / "run")
    owner = CatalogOwner(root)
    replica, answers = EngineService(Engine.load(root, journal=False), "run"), []
    for path, body in [(None, None), *CHANGES]:
        if path is not None:
            act(owner, path, body)
        replica.apply(owner.since(BEFORE_ALL if path is None else replica.sequence))
        for number, found in enumerate(
            replica.answer([Query(history=("item 3",), k=5), Query(user="anna", k=5)])
        ):
            items = [[item_id, score] for item_id, score, _ in found.items]
            answers.append([number, found.sequence, items])
    owner.close()
    acknowledged = [[i + 1, path, body] for i, (path, body) in enumerate(CHANGES)]
    told = {"failures": [], "num_differing": 0, "num_stale": 0}
    return root, told | {"answers": answers, "acknowledged": acknowledged}


def act(owner, path, body):
    match path.split("/")[-1]:
        case "remove":
            owner.remove(body["item_ids"])
        case "items":
            owner.add([(one["item_id"], one["text"]) for one in body["items"]])
        case "update":
            owner.update([(one["item_id"], one["text"]) for one in body["items"]])
        case "events":
            owner.add_events([tuple(one.values()) for one in body["events"]], "error")


def copy(result):
    return json.loads(json.dumps(result))


def test_what_is_right_is_found_right(served):
    root, result = served
    half = copy(result) | {"acknowledged": []}  # of two rounds
    problems, counts = check(root, WORK, [copy(result), half])
    assert problems == []
    assert counts == {
        "failed": 0, "wrong": 0, "stale": 0, "checked": 20, "states": 5, "acknowledged": 4,
        "lost": 0,
    }  # fmt: skip


def another_item(result):
    items = result["answers"][0][2]
    items[-1][0] = next(f"item {i}" for i in range(60) if f"item {i}" not in dict(items))


def an_item_twice(result):
    items = result["answers"][0][2]
    items[1] = items[0]


def another_score(result):
    result["answers"][4][2][0][1] += 0.01


def an_answer_too_short(result):
    result["answers"][-1][2].pop()


def an_older_state(result):
    result["answers"][-1][1] = 3  # anna's, before her event


def another_change(result):
    result["acknowledged"][0][2] = {"item_ids": ["item 8"]}


def a_change_that_never_was(result):
    result["acknowledged"].append([5, *CHANGES[0]])


def a_kind_never_made(result):
    del result["acknowledged"][3]


def a_failure(result):
    result["failures"].append("/v1/recommend 503")


def unlike(result):
    result["num_differing"] += 1


def stale(result):
    result["num_stale"] += 1


@pytest.mark.parametrize(
    ("spoil", "count"),
    [
        (another_item, "wrong"),
        (an_item_twice, "wrong"),
        (another_score, "wrong"),
        (an_answer_too_short, "wrong"),
        (an_older_state, "wrong"),
        (another_change, "lost"),
        (a_change_that_never_was, "lost"),
        (a_kind_never_made, "failed"),
        (a_failure, "failed"),
        (unlike, "wrong"),
        (stale, "stale"),
    ],
)
def test_what_is_wrong_is_found(served, spoil, count):
    root, result = served
    spoil(result := copy(result))
    problems, counts = check(root, WORK, [result])
    assert (len(problems), counts[count]) == (1, 1), problems


@pytest.mark.parametrize(
    ("items", "own", "is_so"),
    [
        ([["a", -1.0], ["c", -2.00001]], {"c": -2.00002}, True),  # ties with b, which is left out
        ([["a", -1.0], ["c", -2.00001]], {"c": -3.0}, False),  # says that it does
        ([["a", -1.0], ["c", -2.00001]], {}, False),  # is not in the catalogue
        ([["a", -1.0], ["c", -2.01]], {"c": -2.01}, False),
        ([["a", -1.0]], {}, False),
    ],
)
def test_an_item_that_the_engine_left_out_must_tie_with_its_last(items, own, is_so):
    truth = Found([("a", -1.0, -1.0), ("b", -2.0, -2.0)], [], "run", 0)
    assert is_right(items, truth, lambda ids: {i: own[i] for i in ids if i in own}) is is_so


def test_nothing_is_right_where_the_engine_refuses():
    assert not is_right([], Refused("why"), dict)
