"""Evidence: scores and rankings, a file that is checked, and fitting on all kinds of data."""

import dataclasses

import numpy as np
import pytest

from store_engine.collaborative.evidence import Evidence, Mix
from store_engine.collaborative.experts import Expert
from store_engine.collaborative.fit_evidence import fit_evidence, fit_terms, updated
from store_engine.config import EvidenceConfig
from store_engine.data.catalog import Catalog
from store_engine.data.histories import Histories
from store_engine.data.split import Examples, leave_one_out
from store_engine.data.synthetic import synthetic
from store_engine.errors import InputError
from store_engine.evaluation.baselines import co_visitation
from store_engine.evaluation.metrics import ranking_metrics

NOBODY = Examples([], np.empty(0, dtype=np.int32))
SETTINGS = EvidenceConfig(rank=32, neighbours=50)


def small(**changes) -> Evidence:
    parts = {
        "indptr": np.array([0, 2, 2, 3]),
        "indices": np.array([1, 2, 0], dtype=np.int32),
        "data": np.array([1, 0.5, 2], dtype=np.float32),
        "decay": 0.5,
        "window": 2,
        "weights": {"graph": 1.0},
        "mix": Mix("unit", 0.7),
    }
    return Evidence(**(parts | changes))


def rows(*sequences: list[int]) -> list[np.ndarray]:
    return [np.array(sequence, dtype=np.int32) for sequence in sequences]


def test_scores_and_ranking_by_hand():
    asked = rows([0, 2, 0], [2, 1], [])
    assert small().score(asked).tolist() == [[1, 1, 0.5], [1, 0, 0], [0, 0, 0]]
    allowed = small().top(asked, 3, exclude_history=False)
    assert allowed.tolist() == [[0, 1, 2], [0, -1, -1], [-1] * 3]
    left_out = small().top(asked, 2, exclude_history=True)
    assert left_out.tolist() == [[1, -1], [0, -1], [-1] * 2]


def test_a_scale_multiplies_all_votes():
    twice = small().scaled(0.5).scaled(4.0)
    assert twice.data.tolist() == [2, 1, 4]
    assert twice.scale == 2.0


@pytest.mark.parametrize("left", [[0, 1, 2], [0, 2], [1], []])
def test_without_some_items(left):
    is_kept = np.isin(np.arange(3), left)
    dense = small().matrix.toarray()[np.ix_(left, left)]
    assert (small().of_items(is_kept).matrix.toarray() == dense).all()


def expert(*data, name="graph", weight=-1.5) -> Expert:
    return Expert(name, weight, 0.25, 0.5, np.array(data, dtype=np.float16))


def test_experts_lose_the_votes_of_items_that_are_left_out():
    kept = small(experts=(expert(1, 2, 3),)).of_items(np.array([True, False, True]))
    assert kept.experts[0].data.tolist() == [2, 3] == (kept.data * [4, 1.5]).tolist()


def test_experts_are_saved(tmp_path):
    path = tmp_path / "evidence.npz"
    small(experts=(expert(1, 2, 3), expert(0, 0, 1, name="text", weight=2.0))).save(path)
    got = Evidence.load(path).experts
    assert [(e.name, e.weight, e.unit, e.decay, e.data.tolist()) for e in got] == [
        ("graph", -1.5, 0.25, 0.5, [1, 2, 3]),
        ("text", 2.0, 0.25, 0.5, [0, 0, 1]),
    ]
    arrays = dict(np.load(path))
    for name, other in (
        ("expert_names", np.array(["graph"])),
        ("expert_numbers", np.ones((2, 2))),
        ("expert_numbers", np.array([[1, 0, 1], [1, 1, 1.0]])),
        ("expert_data", np.ones((2, 4), np.float16)),
        ("expert_data", np.ones((1, 3), np.float16)),
        ("expert_data", np.full((2, 3), np.nan, np.float16)),
        ("expert_data", np.ones((2, 3), np.float64)),
    ):
        np.savez(path, **(arrays | {name: other}))
        with pytest.raises(InputError, match="not an evidence file"):
            Evidence.load(path)


def test_save_and_load(tmp_path):
    small(scale=3.0).save(tmp_path / "evidence.npz")
    loaded = Evidence.load(tmp_path / "evidence.npz")
    for name in ("indptr", "indices", "data"):
        got, want = getattr(loaded, name), getattr(small(), name)
        assert got.dtype == want.dtype and (got == want).all()
    assert (loaded.decay, loaded.window, loaded.mix) == (0.5, 2, ("unit", 0.7))
    assert loaded.weights == {"graph": 1.0}
    assert loaded.scale == 3.0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"indptr": np.array([0, 2, 2, 3], dtype=np.int32)}, "1-d int64"),
        ({"indices": np.array([1, 2, 0])}, "1-d int64"),
        ({"data": np.ones((3, 1), dtype=np.float32)}, "1-d int64"),
        ({"data": np.ones(2, dtype=np.float32)}, "fit each other"),
        ({"indptr": np.empty(0, dtype=np.int64)}, "fit each other"),
        ({"indptr": np.array([0, 2, 1, 3])}, "rise from 0 to 3"),
        ({"indptr": np.array([0, 2, 2, 2])}, "rise from 0 to 3"),
        ({"indptr": np.array([1, 2, 2, 3])}, "rise from 0 to 3"),
        ({"indices": np.array([1, 3, 0], dtype=np.int32)}, r"in \[0, 3\)"),
        ({"indices": np.array([1, 2, -1], dtype=np.int32)}, r"in \[0, 3\)"),
        ({"indices": np.array([1, 1, 0], dtype=np.int32)}, "must rise"),
        ({"data": np.array([1, np.nan, 1], dtype=np.float32)}, "finite"),
        ({"data": np.array([1, -1, 1], dtype=np.float32)}, "not negative"),
        ({"decay": 0.0}, "decay"),
        ({"decay": float("nan")}, "decay"),
        ({"window": 0}, "window"),
        ({"experts": (Expert("text", 1, 1, 1, np.ones(2, np.float16)),)}, "3 votes, has 2"),
        ({"weights": {"graph": float("inf")}}, "weights"),
        ({"weights": {"graph": -1.0}}, "weights"),
        ({"mix": Mix("unit", float("nan"))}, "weights"),
        ({"mix": Mix("cube", 1.0)}, "form"),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(value),
)
def test_what_is_no_evidence(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        small(**changes)


def test_a_damaged_file(tmp_path):
    path = tmp_path / "evidence.npz"
    with pytest.raises(InputError, match="No such file"):
        Evidence.load(path)
    small().save(path)
    arrays = dict(np.load(path))
    np.savez(path, **(arrays | {"indices": np.array([1, 9, 0], dtype=np.int32)}))
    with pytest.raises(InputError, match="not an evidence file"):
        Evidence.load(path)


def repeated(events: Histories) -> Histories:
    """Every event three times, so that the last two are repeats."""
    return Histories(events.user_ids, np.repeat(events.rows, 3), 3 * events.offsets)


def ndcg(rankings: np.ndarray, targets: np.ndarray) -> float:
    return ranking_metrics(rankings, targets, (10,))["ndcg@10"]


def test_fitting_beats_co_visitation_and_is_the_same_again():
    items, events = synthetic(150, 600, 10, seed=0)
    split = leave_one_out(events)
    evidence = fit_evidence(split.train, split.valid, items, SETTINGS)
    again = fit_evidence(split.train, split.valid, items, SETTINGS)
    assert evidence.data.tobytes() == again.data.tobytes()
    assert evidence.weights == again.weights and evidence.decay == again.decay
    assert np.diff(evidence.indptr).max() <= 50
    test = split.test
    ours = evidence.top(test.histories, 10, exclude_history=True)
    theirs = co_visitation(split.train, 150, test.histories, 10, exclude_history=True)
    assert ndcg(ours, test.targets) > ndcg(theirs, test.targets)


def test_an_item_votes_for_itself_where_items_come_again():
    items, events = synthetic(60, 200, 6, seed=0)
    split = leave_one_out(repeated(events))
    evidence = fit_evidence(split.train, split.valid, items, SETTINGS, exclude_history=False)
    assert evidence.weights["own"] > 0 and evidence.matrix.diagonal().min() > 0
    test = split.test
    got = evidence.top(test.histories, 10, exclude_history=False)
    assert ndcg(got, test.targets) > 0.9
    again = updated(evidence, split.train, items, SETTINGS)
    assert again.matrix.diagonal().min() > 0


def test_new_events_count_without_a_new_choice():
    items, events = synthetic(60, 200, 6, seed=0)
    split = leave_one_out(events)
    evidence = fit_evidence(split.train, split.valid, items, SETTINGS)
    same = updated(evidence, split.train, items, SETTINGS)
    assert same.data.tobytes() == evidence.data.tobytes() and same.weights == evidence.weights
    more = updated(evidence, events, items, SETTINGS)
    assert more.decay == evidence.decay and more.weights == evidence.weights
    assert more.data.tobytes() != evidence.data.tobytes()
    assert evidence.experts == ()  # nobody has weighed them


def test_experts_keep_their_numbers_as_events_come():
    items, events = synthetic(60, 200, 6, seed=0)
    split = leave_one_out(events)
    fitted = fit_terms(split.train, split.valid, items, SETTINGS)
    plain = fitted.evidence(SETTINGS.neighbours)
    evidence = dataclasses.replace(plain, experts=fitted.experts(plain)[1:])
    same, more = (updated(evidence, some, items, SETTINGS) for some in (split.train, events))
    numbers = [(e.name, e.weight, e.unit, e.decay) for e in evidence.experts]
    assert numbers == [(e.name, e.weight, e.unit, e.decay) for e in more.experts] and numbers
    for one, other, term in zip(evidence.experts, same.experts, more.experts, strict=True):
        assert one.data.tobytes() == other.data.tobytes() != term.data.tobytes()


@pytest.mark.parametrize(
    ("num_items", "sequences"),
    [(1, []), (1, [[0]]), (2, [[0, 1]]), (3, [[0, 0, 0]]), (40, [[0, 1, 2], [2, 1]])],
    ids=str,
)
@pytest.mark.parametrize("exclude_history", [True, False], ids=["left out", "allowed"])
def test_hardly_any_data(histories, num_items, sequences, exclude_history):
    items = Catalog(tuple(f"i{n}" for n in range(num_items)), {"title": ("",) * num_items})
    train = histories(*sequences)
    some = Examples(rows([0], []), np.array([num_items - 1, 0], dtype=np.int32))
    for valid in (NOBODY, some):
        evidence = fit_evidence(train, valid, items, SETTINGS, exclude_history=exclude_history)
        assert evidence.num_items == num_items
        assert evidence.top(rows([0]), 2, exclude_history=exclude_history).shape == (1, 2)


def test_a_large_catalogue_does_without_the_regression(histories):
    items, events = synthetic(60, 50, 6, seed=0)
    settings = EvidenceConfig(rank=8, max_regression_items=59)
    assert "regression" not in fit_evidence(events, NOBODY, items, settings).weights
