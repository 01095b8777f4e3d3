"""Click-through on MovieLens-100k: will this user rate this film 4 or 5? Ours beside baselines.

    python benchmarks/scoring.py --out FILE.jsonl
    python benchmarks/scoring.py --run RUN --out FILE.jsonl    # SIDs and first weights of a run

Events are split by time alone, for all users at once: the first 80 % to train, 10 % to choose, the
last 10 % to test. Whoever scores an event may look at everything that came before it, the labels
too. Providers:
    popularity           how many training events the film has; a logistic curve makes it a chance
    item_rate            the film's share of positives so far, smoothed
    logistic_regression  film, user, words; shares of positives of the user and the film so far; how
                         far the film's words are like those of films that the user liked
    scorer               the LLM reads `codes label codes label ...` and answers YES or NO behind
                         each item's codes; every label is a target, and so is the next item, 1:1
    scorer_of_run        a run's own click-through head, which learned from random negatives
A run must not have learned from the test's events: train it on the films' texts alone, or on the
training period.
"""

import argparse
import datetime
import json
import sys
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

# run as a script, only benchmarks/ is on the path
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from torch import Tensor

from benchmarks.measuring.harness import commit, machine
from store_engine.collaborative.item_space import item_space
from store_engine.collaborative.spaces import word_weights
from store_engine.config import EvidenceConfig, ModelConfig
from store_engine.data.catalog import Catalog
from store_engine.data.histories import Histories
from store_engine.data.movielens import FILES, find_ml100k
from store_engine.data.packing import Document, IntArray, history_windows, pack
from store_engine.data.readers import read_items
from store_engine.data.split import Examples
from store_engine.data.tables.table import read_table
from store_engine.errors import InputError
from store_engine.evaluation.metrics import auc, gauc, log_loss
from store_engine.evaluation.scoring import Scorer
from store_engine.model.attention import PackedSequences
from store_engine.model.store_model import StoreModel
from store_engine.model.targets import IGNORE
from store_engine.model.unified_vocabulary import UnifiedVocabulary
from store_engine.runs.run import Run, load_run
from store_engine.training.item_start import fit_to

TEXT_FIELDS = ("movie_title", "class", "release_year")
POSITIVE = 4.0  # the lowest rating that counts as YES
TRAIN, VALID, TEST = range(3)
SHARES = (0.8, 0.9)  # of the events, in time, at which validation and test begin
PRIOR = 5.0  # events that a share of positives is smoothed by
REGULARIZATION = (0.003, 0.01, 0.03, 0.1, 0.3)  # of the logistic regression, tried

# the scorer
MODEL = ModelConfig(
    hidden_size=64,
    num_layers=2,
    num_heads=2,
    num_kv_heads=2,
    head_dim=32,
    intermediate_size=192,
    dropout=0.2,
)
MAX_EVENTS = 100  # that it reads
EVENTS_PER_STEP = 1600
LR = 3e-3
PATIENCE = 4

Floats = NDArray[np.float64]


class Events(NamedTuple):
    """Ratings by user, then time."""

    users: IntArray
    rows: IntArray  # of the catalogue
    labels: IntArray  # 1 = YES
    times: IntArray  # places in the order of time over all users, 0 the earliest
    periods: IntArray  # TRAIN, VALID or TEST

    @property
    def offsets(self) -> IntArray:
        """(num_users + 1,) where each user's events begin."""
        return np.r_[0, np.bincount(self.users).cumsum()]


class Model(NamedTuple):
    """A scorer with all that it needs to write and read events."""

    net: StoreModel
    tokens: IntArray  # (num_items, num_levels) unified ids of the films' codes
    bos: int
    first_label: int


def load_events(folder: Path) -> tuple[Catalog, Events]:
    """Reads films and ratings, and splits these by time."""
    catalog = read_items(folder / FILES[1], "item_id", TEXT_FIELDS)
    table = read_table(folder / FILES[0], ["user_id", "item_id", "timestamp", "rating"])
    row_of = {item_id: row for row, item_id in enumerate(catalog.item_ids)}
    items, users = table.keys("item_id"), table.keys("user_id").codes.astype(np.int64)
    rows = np.array([row_of[item_id] for item_id in items.unique])[items.codes]
    labels = np.array([float(str(value)) >= POSITIVE for value in table.columns["rating"]])
    clock = table.times("timestamp").order
    times = np.empty(len(rows), dtype=np.int64)
    times[np.argsort(clock, kind="stable")] = np.arange(len(rows))
    # all events of one moment are of one period
    begins = np.sort(clock)[[int(share * len(rows)) for share in SHARES]]
    periods = np.searchsorted(begins, clock, side="right")
    order = np.lexsort([times, users])
    arrays = (users, rows, labels.astype(np.int64), times, periods)
    return catalog, Events(*(array[order] for array in arrays))


def shares_so_far(groups: IntArray, events: Events) -> tuple[Floats, Floats]:
    """Per event its group's smoothed share of positives before it, and the number of events."""
    prior = events.labels[events.periods == TRAIN].mean()
    shares, counts = np.empty(len(groups)), np.empty(len(groups))
    positives, seen = np.zeros(groups.max() + 1), np.zeros(groups.max() + 1)
    for event in np.argsort(events.times):
        group = groups[event]
        counts[event] = seen[group]
        shares[event] = (positives[group] + PRIOR * prior) / (seen[group] + PRIOR)
        positives[group] += events.labels[event]
        seen[group] += 1
    return shares, counts


def likeness(events: Events, words: sp.csr_matrix) -> Floats:
    """Per event: words @ (mean words of films liked - of those not liked) before it."""
    found = np.zeros(len(events.rows))
    for begin, end in zip(events.offsets[:-1], events.offsets[1:], strict=True):
        own = words[events.rows[begin:end]]
        alike, labels = (own @ own.T).toarray(), events.labels[begin:end]
        before = np.tri(end - begin, k=-1)
        for label, sign in ((1, 1.0), (0, -1.0)):
            is_of = before * (labels == label)
            found[begin:end] += sign * (alike * is_of).sum(1) / np.maximum(is_of.sum(1), 1)
    return found


def popularity(events: Events) -> Floats:
    """A logistic curve through log(1 + training events) of the film."""
    is_train = events.periods == TRAIN
    counts = np.bincount(events.rows[is_train], minlength=events.rows.max() + 1)
    feature = np.log1p(counts[events.rows])[:, None]
    curve = LogisticRegression().fit(feature[is_train], events.labels[is_train])
    chances: Floats = curve.predict_proba(feature)[:, 1]
    return chances


def logistic_regression(events: Events, catalog: Catalog) -> Floats:
    """The regression whose regularisation is best on the validation period."""
    words = word_weights(catalog)
    is_train = events.periods == TRAIN
    dense = np.stack(
        [
            *shares_so_far(events.users, events),
            *shares_so_far(events.rows, events),
            likeness(events, words),
        ],
        axis=1,
    )
    dense[:, [1, 3]] = np.log1p(dense[:, [1, 3]])
    dense = StandardScaler().fit(dense[is_train]).transform(dense)
    ids = np.stack([events.users, events.rows], axis=1)
    one_hot = OneHotEncoder(handle_unknown="ignore").fit(ids[is_train]).transform(ids)
    features = sp.hstack([one_hot, words[events.rows], dense]).tocsr()
    best, chances = -1.0, np.empty(0)
    for strength in REGULARIZATION:
        model = LogisticRegression(C=strength, max_iter=1000)
        model.fit(features[is_train], events.labels[is_train])
        tried = model.predict_proba(features)[:, 1]
        if (score := measure(tried, events, VALID)["auc"]) > best:
            best, chances = score, tried
    return chances


def new_model(events: Events, catalog: Catalog) -> Model:
    """A fresh LLM; a film is one code, whose rows start from the training period's space."""
    is_train = events.periods == TRAIN
    counts = np.bincount(events.users[is_train], minlength=events.users.max() + 1)
    ids = tuple(str(user) for user in range(len(counts)))
    rows = events.rows[is_train].astype(np.int32)
    train = Histories(ids, rows, np.r_[0, counts.cumsum()].astype(np.int64))
    found = item_space(train, Examples([], np.empty(0, np.int32)), catalog, EvidenceConfig())
    space = torch.from_numpy(fit_to(found.vectors, MODEL.hidden_size))
    made = _model(MODEL, 1, np.arange(catalog.num_items)[:, None], (catalog.num_items,))
    with torch.no_grad():
        for table in (made.net.code_embedding, made.net.code_head):
            table.weight[: catalog.num_items] = space
    return made


def model_of_run(run: Run, catalog: Catalog) -> Model:
    """The LLM of a run, with new rows for the labels.

    Raises:
        InputError: The run is not about these films.
    """
    if run.catalog.item_ids != catalog.item_ids:
        raise InputError(f"{run.directory.root}: its items are not the films of MovieLens-100k")
    table, vocabulary = run.sid_table, run.vocabulary
    made = _model(
        run.config.model, len(vocabulary), table.sids, table.codebook_sizes, vocabulary.bos_id
    )
    weights = dict(run.model.named_parameters())
    with torch.no_grad():
        for name, parameter in made.net.named_parameters():
            parameter[: len(weights[name])] = weights[name].float().cpu()
    return made


def _model(
    config: ModelConfig,
    text_size: int,
    sids: NDArray[np.integer],
    codebook_sizes: tuple[int, ...],
    bos: int = 0,
) -> Model:
    vocabulary = UnifiedVocabulary(text_size, codebook_sizes)
    net = StoreModel(config, text_size, (*codebook_sizes, 2))
    return Model(net, vocabulary.to_ids(sids), bos, len(vocabulary))


def document(model: Model, events: Events, window: IntArray, is_target: NDArray[np.bool_]) -> Any:
    """Writes events [begin, end): `<bos>`, then codes and label of each.

    Args:
        model: Its codes.
        events: All ratings.
        window: begin and end.
        is_target: (num_events,) whether an event's codes and label are to be learned.
    """
    begin, end = window.tolist()
    labels = events.labels[begin:end, None] + model.first_label
    written = np.hstack([model.tokens[events.rows[begin:end]], labels])
    targets = np.where(is_target[begin:end, None], written, IGNORE)
    targets[0, :-1] = IGNORE  # nothing says what comes first
    return Document(np.r_[model.bos, written.ravel()[:-1]], targets.ravel(), 0)


def train_scorer(model: Model, events: Events, seed: int, max_epochs: int) -> int:
    """Trains until the validation's AUC gets no better; returns the epoch that was kept."""
    rng = np.random.default_rng(seed)
    optimizer = torch.optim.AdamW(model.net.parameters(), LR, betas=(0.9, 0.98), weight_decay=0.05)
    best, best_epoch, kept = -1.0, 0, model.net.state_dict()
    for epoch in range(1, max_epochs + 1):
        model.net.train()
        for batch in _epoch(model, events, rng):
            losses = model.net(batch.tokens, PackedSequences(batch.cu_seqlens), batch.targets)
            is_label = batch.targets[batch.targets != IGNORE] >= model.first_label
            loss = losses[is_label].mean() + losses[~is_label].mean()
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.net.parameters(), 1.0)
            optimizer.step()
        found = measure(chances_of(model, events), events, VALID)
        print(f"epoch {epoch}: validation {found}", file=sys.stderr, flush=True)
        if found["auc"] > best:
            best, best_epoch = found["auc"], epoch
            kept = {name: tensor.clone() for name, tensor in model.net.state_dict().items()}
        if epoch - best_epoch >= PATIENCE:
            break
    model.net.load_state_dict(kept)
    return best_epoch


def _epoch(model: Model, events: Events, rng: np.random.Generator) -> Iterator[Any]:
    """An epoch's packed batches; the cuts of long histories differ from epoch to epoch."""
    is_train = events.periods == TRAIN
    windows = history_windows(events.offsets, MAX_EVENTS, rng)
    windows = windows[[bool(is_train[begin:end].any()) for begin, end in windows]]
    rng.shuffle(windows)
    steps = np.diff(windows).ravel().cumsum() // EVENTS_PER_STEP
    for step in range(steps[-1] + 1):
        yield pack([document(model, events, w, is_train) for w in windows[steps == step]])


@torch.no_grad()
def chances_of(model: Model, events: Events) -> Floats:
    """P(YES) of the events after training; each sees MAX_EVENTS / 2 before it, if there are."""
    model.net.eval()
    chances = np.zeros(len(events.rows))
    half, every = MAX_EVENTS // 2, np.ones(len(events.rows), dtype=np.bool_)
    level, width = len(model.net.codebook_sizes) - 1, model.tokens.shape[1] + 1
    for first, last in pairwise(events.offsets.tolist()):
        for new in range(first, last, half):
            window = np.array([max(first, new - half), min(last, new + half)])
            if events.periods[window[1] - 1] == TRAIN:  # nothing is asked here
                continue
            batch = pack([document(model, events, window, every)])
            embeddings = model.net.embed(batch.tokens)
            hidden = model.net.hidden_states(embeddings, PackedSequences(batch.cu_seqlens))
            asked: Tensor = model.net.level_logits(hidden[width - 1 :: width], level)
            yes = asked.float().softmax(-1)[:, 1].double().numpy()
            chances[new : window[1]] = yes[new - window[0] :]
    return chances


def chances_of_run(run: Run, events: Events) -> Floats:
    """P(YES) by a run's own scorer, after the films that the user liked before."""
    chances = np.zeros(len(events.rows))
    asked = np.flatnonzero(events.periods != TRAIN)
    liked = []
    for event in asked:
        own = np.arange(events.offsets[events.users[event]], event)
        liked.append(events.rows[own[events.labels[own] == 1]].astype(np.int32))
    chances[asked] = Scorer(run).probabilities(liked, events.rows[asked])
    return chances


def measure(chances: Floats, events: Events, period: int) -> dict[str, float]:
    """AUC, GAUC by user and LogLoss over one period."""
    of = events.periods == period
    scores, labels = chances[of], events.labels[of]
    return {
        "auc": auc(scores, labels),
        "gauc": gauc(scores, labels, events.users[of]),
        "log_loss": log_loss(scores, labels),
    }


def main() -> None:
    """Measures all providers and writes a JSON line for each."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", default="", metavar="FOLDER", help="ml-100k's, else the cache")
    parser.add_argument("--run", type=Path, metavar="RUN")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=40, help="at most")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.jsonl")
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    catalog, events = load_events(find_ml100k(options.data))
    found = {
        "popularity": popularity(events),
        "item_rate": shares_so_far(events.rows, events)[0],
        "logistic_regression": logistic_regression(events, catalog),
    }
    run = load_run(options.run) if options.run else None
    began = time.perf_counter()
    model = model_of_run(run, catalog) if run else new_model(events, catalog)
    epoch = train_scorer(model, events, options.seed, options.epochs)
    seconds = time.perf_counter() - began
    found["scorer"] = chances_of(model, events)
    if run and run.has_scoring:
        found["scorer_of_run"] = chances_of_run(run, events)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with options.out.open("a", encoding="utf-8") as file:
        for name, chances in found.items():
            row: dict[str, Any] = {"dataset": "ml-100k", "protocol": "global temporal, rating >= 4"}
            row |= {"model": name, "seed": options.seed, "metrics": measure(chances, events, TEST)}
            row |= {"num_test": int((events.periods == TEST).sum())}
            row |= {"seconds": seconds, "epoch": epoch} if name == "scorer" else {}
            row |= {"machine": machine(), "threads": torch.get_num_threads()}
            row |= {"commit": commit(), "date": datetime.date.today().isoformat()}
            file.write(json.dumps(row) + "\n")
            shown = "  ".join(f"{key} {value:.4f}" for key, value in row["metrics"].items())
            print(f"{name:20} {shown}")


if __name__ == "__main__":
    main()
