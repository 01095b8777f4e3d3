"""Items as tokens of the model: rows of their own, one position each, heads instead of steps."""

import numpy as np
import pytest
import torch
from engines import SMALL, catalog_of

from store_engine._C import ItemTrie
from store_engine.config import DecodingConfig, ModelConfig
from store_engine.decoding.engine import Engine
from store_engine.errors import InputError
from store_engine.model.attention import PackedSequences
from store_engine.model.item_rows import ItemTokens
from store_engine.model.store_model import IGNORE, StoreModel
from store_engine.sid.item_tokens import slot_order

BOS, NUM_ITEMS, NUM_FEATURES = 1, 60, 6
UPPER, FANOUT = (4, 3), 16  # more last codes than a prefix has items

# last level, history, decoder, skip
FORMS = [
    (level, history, decoder, skip)
    for level in ("code", "item")
    for history in ("codes", "items")
    for decoder in ("transformer", "heads")
    for skip in (False, True)
    if not (decoder == "transformer" and history == "items") and not (decoder == "heads" and skip)
]
ROWS = [form for form in FORMS if form[0] == "item"]


def item_sids(num_items=NUM_ITEMS, seed=0):
    """SIDs whose last code is the item's place among those of its prefix, with gaps."""
    rng = np.random.default_rng(seed)
    sids = np.zeros((num_items, 3), dtype=np.int32)
    sids[:, :2] = rng.integers(0, UPPER, (num_items, 2))
    sids[:12, :2] = [(a, b) for a in range(UPPER[0]) for b in range(UPPER[1])]  # every prefix
    for prefix in np.unique(sids[:, :2], axis=0):
        own = (sids[:, :2] == prefix).all(1)
        sids[own, 2] = rng.permutation(FANOUT)[: own.sum()]
    return sids


class Case:
    """A model of one form with its items."""

    def __init__(self, level, history, decoder, skip, is_tied=True):
        torch.manual_seed(0)
        self.sids = item_sids()
        self.sizes = (*UPPER, FANOUT)
        self.has_rows, self.are_read = level == "item", history == "items"
        self.order = slot_order(self.sids)
        self.slots = self.order.argsort()
        code_sizes = UPPER if self.has_rows else self.sizes
        items = None
        if self.has_rows or self.are_read or decoder == "heads":
            items = ItemTokens(
                self.sids[self.order][:, : len(code_sizes)],
                num_features=NUM_FEATURES * self.has_rows,
                are_read=self.are_read,
                head_size=12 * (decoder == "heads"),
                is_tied=is_tied,
            )
        self.model = StoreModel(ModelConfig(**SMALL), 20, code_sizes, items=items, skip=skip).eval()
        for parameter in self.model.parameters():
            if parameter.ndim > 1:  # far from indifferent
                torch.nn.init.normal_(parameter, std=0.3)
        self.model.requires_grad_(False)

    def engine(self, backend="auto", dtype=torch.float32, model=None, **config):
        config = {"beam_width": 100, "prefix_cache_mib": 0} | config
        return Engine(
            (model or self.model).to(dtype),
            catalog_of(len(self.sids)),
            self.sids,
            bos=BOS,
            max_history=8,
            config=DecodingConfig(**config),
            trie=ItemTrie(self.sids, list(self.sizes)),
            backend=backend,
        )

    def read(self, row):
        """The tokens of an item in a history."""
        vocabulary = self.model.vocabulary
        item = vocabulary.item_offset + int(self.slots[row])
        if self.are_read:
            return [item]
        offsets = vocabulary.level_offsets
        codes = [int(c) + o for c, o in zip(self.sids[row], offsets, strict=False)]
        return [*codes, item] if self.has_rows else codes

    def losses(self, history):
        """Of every item after a history: the training loss, summed over the levels."""
        context = [BOS, *(token for row in history for token in self.read(row))]
        tokens, targets = [], []
        for row in range(len(self.sids)):
            own = self.read(row)
            if self.model.level_heads is not None:
                own = [self.model.vocabulary.item_offset + int(self.slots[row])]
            tokens += [*context, *own[:-1]]
            targets += [IGNORE] * (len(context) - 1) + own
        length = len(tokens) // len(self.sids)
        sequences = PackedSequences.from_lengths(torch.full((len(self.sids),), length), "cpu")
        losses = self.model(torch.tensor(tokens), sequences, torch.tensor(targets))
        return losses.view(len(self.sids), -1).sum(1).numpy()


@pytest.fixture(params=FORMS, ids=lambda form: "-".join(map(str, form)))
def case(request):
    return Case(*request.param)


@pytest.fixture(params=ROWS, ids=lambda form: "-".join(map(str, form)))
def row_case(request):
    return Case(*request.param)


def test_exact_scores_are_the_training_loss(case, histories):
    scores = case.engine().score_rows([h[-8:] for h in histories])
    for history, own in zip(histories, scores, strict=True):
        np.testing.assert_allclose(own, -case.losses(history[-8:]), atol=2e-4)


@pytest.mark.parametrize("level", ["code", "item"])
@pytest.mark.parametrize("is_tied", [False, True])
def test_rows_that_are_read_are_not_those_that_are_written(level, is_tied, histories):
    case = Case(level, "codes", "transformer", True, is_tied)
    scores = case.engine().score_rows(histories[:2])
    np.testing.assert_allclose(scores[0], -case.losses(histories[0]), atol=2e-4)


def test_probabilities_of_all_items_sum_to_one(row_case, histories):
    for normalize in ("codebook", "children"):
        scores = torch.from_numpy(row_case.engine(normalize=normalize).score_rows(histories))
        torch.testing.assert_close(scores.logsumexp(1), torch.zeros(5), atol=1e-5, rtol=0)


@pytest.mark.parametrize("normalize", ["codebook", "children"])
@pytest.mark.parametrize("backend", ["cpp", "torch"])
def test_a_wide_beam_equals_exact_scoring(case, histories, backend, normalize):
    engine = case.engine(backend, normalize=normalize)
    engine.define("even", [f"item {row}" for row in range(0, 60, 2)])
    for options in ({}, {"allow": "even", "exclude_history": True}):
        rows, logprobs = engine.recommend_rows(histories, 30, **options)
        exact_rows, exact = engine.recommend_rows(histories, 30, exact=True, **options)
        np.testing.assert_array_equal(rows, exact_rows)
        np.testing.assert_allclose(logprobs, exact, atol=1e-5)


def test_backends_agree_on_a_narrow_beam(case, histories):
    for normalize in ("codebook", "children"):
        engine = case.engine(beam_width=5, normalize=normalize)
        rows, logprobs = engine.recommend_rows(histories, 5, backend="cpp")
        others, found = engine.recommend_rows(histories, 5, backend="torch")
        np.testing.assert_array_equal(rows, others)
        np.testing.assert_allclose(logprobs, found, atol=1e-5)


def test_a_batch_is_as_good_as_one_by_one(case, histories):
    rows, logprobs = case.engine(beam_width=7).recommend_rows(histories, 5)
    alone = [case.engine(beam_width=7).recommend_rows([h], 5) for h in histories]
    np.testing.assert_array_equal(rows, np.concatenate([one[0] for one in alone]))
    np.testing.assert_allclose(logprobs, np.concatenate([one[1] for one in alone]), atol=1e-5)


def test_the_prefix_cache_changes_nothing(case, histories):
    want = case.engine().recommend_rows(histories, 5)
    engine = case.engine(prefix_cache_mib=1)
    for _ in range(2):
        rows, logprobs = engine.recommend_rows(histories, 5)
        np.testing.assert_array_equal(rows, want[0])
        np.testing.assert_allclose(logprobs, want[1], atol=1e-5)


def test_bfloat16_finds_nearly_the_same(row_case, histories):
    want = row_case.engine().score_rows(histories)
    rows, logprobs = row_case.engine(dtype=torch.bfloat16).recommend_rows(histories, 5)
    error = np.abs(logprobs - np.take_along_axis(want, rows, 1))
    assert np.median(error) < 0.1
    assert error.max() < 1.0


def test_refuses_other_sids(row_case):
    row_case.sids = row_case.sids[::-1].copy()
    row_case.sids[0] = (3, 2, 15)
    with pytest.raises(InputError, match="must be those that the model's items were given"):
        row_case.engine()


def test_refuses_two_items_of_one_sid():
    case = Case("item", "codes", "heads", False)
    case.sids[case.order[1]] = case.sids[case.order[0]]
    with pytest.raises(InputError, match=r"two items have the SID|those that the model's"):
        case.engine()
