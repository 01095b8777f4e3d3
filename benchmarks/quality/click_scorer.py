"""Click-through by the LLM: it reads `codes label codes label ...` and foretells each label."""

import sys
from collections.abc import Iterator
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.quality.click_events import TRAIN, VALID, Events, Floats, measure
from benchmarks.quality.early_stopping import EarlyStopping
from store_engine.collaborative.item_space import item_space
from store_engine.config import EvidenceConfig, ModelConfig
from store_engine.data.catalog import Catalog
from store_engine.data.histories import Histories
from store_engine.data.packing import Document, IntArray, history_windows, pack
from store_engine.data.split import Examples
from store_engine.errors import InputError
from store_engine.evaluation.scoring import Scorer
from store_engine.model.attention import PackedSequences
from store_engine.model.store_model import StoreModel
from store_engine.model.targets import IGNORE
from store_engine.model.unified_vocabulary import UnifiedVocabulary
from store_engine.runs.run import Run
from store_engine.training.item_start import fit_to

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


class Model(NamedTuple):
    """A scorer with all that it needs to write and read events."""

    net: StoreModel
    tokens: IntArray  # (num_items, num_levels) unified ids of the films' codes
    bos: int
    first_label: int


def new_model(events: Events, catalog: Catalog) -> Model:
    """A fresh LLM; a film is one code, whose rows start from the training period's space."""
    is_train = events.periods == TRAIN
    counts = np.bincount(events.users[is_train], minlength=events.users.max() + 1)
    ids = tuple(str(user) for user in range(len(counts)))
    rows = events.rows[is_train].astype(np.int32)
    train = Histories(ids, rows, np.r_[0, counts.cumsum()].astype(np.int64))
    found = item_space(train, Examples([], np.empty(0, np.int32)), catalog, EvidenceConfig())
    space = torch.from_numpy(fit_to(found.vectors, MODEL.hidden_size))
    made = make_model(MODEL, 1, np.arange(catalog.num_items)[:, None], (catalog.num_items,))
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
    made = make_model(
        run.config.model, len(vocabulary), table.sids, table.codebook_sizes, vocabulary.bos_id
    )
    weights = dict(run.model.named_parameters())
    with torch.no_grad():
        for name, parameter in made.net.named_parameters():
            parameter[: len(weights[name])] = weights[name].float().cpu()
    return made


def make_model(
    config: ModelConfig,
    text_size: int,
    sids: NDArray[np.integer],
    codebook_sizes: tuple[int, ...],
    bos: int = 0,
) -> Model:
    """A fresh LLM with a level of two codes behind the items' own: NO and YES.

    Args:
        config: Its sizes.
        text_size: Text tokens.
        sids: (num_items, num_levels) codes of the films.
        codebook_sizes: Of the levels.
        bos: Text token that every document begins with.
    """
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
    stopping = EarlyStopping(model.net, PATIENCE)
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
        if stopping.should_stop(epoch, found["auc"]):
            break
    stopping.restore()
    return stopping.best_epoch


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
