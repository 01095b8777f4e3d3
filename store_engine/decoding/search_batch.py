"""One batch of a call: prefill, search, ranking; with evidence its best items are scored too."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from store_engine.catalog.catalog_view import CatalogView, StaticView
from store_engine.catalog.item_filter import ItemFilter
from store_engine.decoding.allowance import Allowance
from store_engine.decoding.backends import Backend, GraphBackend, SearchSpace, check_beams
from store_engine.decoding.beam_search import begin_search, search_beams
from store_engine.decoding.evidence import EvidenceScorer, Found, ItemEvidence
from store_engine.decoding.exact import rank_catalog, score_catalog
from store_engine.decoding.forced_paths import ForcedPaths
from store_engine.decoding.graphs.graph_search import MAX_CONTEXT, GraphSearch, Requests, Sizes
from store_engine.decoding.ranking import rank_beams, rank_scores
from store_engine.inference.decoding_model import DecodingModel
from store_engine.inference.kv_cache import KVCache
from store_engine.inference.prefill_batch import PrefillBatch
from store_engine.kernels.trie_topk import Normalize

Rows = NDArray[np.int64]

_EVIDENCE_SHARE = 0.25  # candidates that it names, of the beam width; at least k


@dataclass(frozen=True)
class Call:
    """What a call of the engine asks for, all names resolved.

    Args:
        model: With the items of the view.
        histories: Catalogue rows of each.
        allowance: What each may be given, of the view that is searched.
        k: Items wanted.
        width: Beams.
        normalize: What a softmax runs over.
        backend: The steps of the beam search; None scores every item,
        is_one_scan: and that in one scan of the core.
        evidence: To add; None: the LLM alone.
        voters: The allowance by the rows that `evidence` counts in; None without evidence.
    """

    model: DecodingModel
    histories: list[Rows]
    allowance: Allowance
    k: int
    width: int
    normalize: Normalize
    backend: Backend | None
    is_one_scan: bool
    evidence: EvidenceScorer | None
    voters: Allowance | None

    @property
    def view(self) -> CatalogView:
        """The catalogue that is searched."""
        return self.allowance.view


def search_batch(call: Call, ids: Rows, batch: PrefillBatch, cache: KVCache) -> Found:
    """Finds the best items of a batch.

    Args:
        call: What is asked for.
        ids: The histories of the batch.
        batch: The same as tokens.
        cache: Overwritten.

    Raises:
        NonFiniteLogitsError: The model gave NaN or +inf for some of the requests.
    """
    view, model = call.view, call.model
    space = SearchSpace(view.trie, call.allowance.item_filter(ids), call.normalize)
    if call.backend is None and call.is_one_scan:
        rows, logprobs = rank_catalog(model, space, cache, batch, call.k)
        return Found.llm_alone(view.rows(rows), logprobs)
    if call.backend is None:
        scores = score_catalog(model, space, cache, batch)
        return _rank_all(call, ids, space, scores)
    if call.evidence is None:
        writer = begin_search(model, space, cache, batch, call.width)
        beams = search_beams(writer, space, cache, call.width, call.backend)
        rows, logprobs = rank_beams(space, beams, call.k)
        return Found.llm_alone(view.rows(rows), logprobs)
    wanted = _candidates(call, ids, space.item_filter)
    forced = _paths(call, wanted)
    width = _width_beside(call, forced.num_items)
    writer = begin_search(model, space, cache, batch, width, forced.num_items)
    beams = search_beams(writer, space, cache, width, call.backend, forced)
    rows, logprobs = rank_beams(space, beams, width)
    rows = np.hstack([view.rows(rows), wanted])
    logprobs = np.hstack([logprobs, forced.result().cpu().numpy()])
    evidence = call.evidence.score([call.histories[i] for i in ids], rows)
    return Found.best_of(rows, logprobs, evidence, call.k, view)


def search_batch_by_graph(
    call: Call, ids: Rows, histories: list[Rows], graphs: GraphSearch
) -> Found:
    """Finds the best items of a batch that is `for_graph`, as `search_batch` does.

    Args:
        call: What is asked for.
        ids: The histories of the batch.
        histories: What is read of each.
        graphs: The search.

    Raises:
        NonFiniteLogitsError: The model gave NaN or +inf for some of the requests.
    """
    view, allowance = call.view, call.allowance
    assert isinstance(view, StaticView)
    events = [call.histories[i] for i in ids]
    requests = Requests(histories, *allowance.of_batch(ids), events)
    sizes, sparse = Sizes(call.width, call.k), None
    if call.evidence is not None:
        assert isinstance(call.evidence, ItemEvidence)
        sparse, num = call.evidence.sparse, _num_candidates(call)
        width = _width_beside(call, num * len(sparse.naming))
        sizes = Sizes(width, width, num)
    best = graphs.search(view, requests, sizes, call.normalize, sparse)
    check_beams(best)
    rows, logprobs, evidence, _ = best
    return Found(rows[:, : call.k], logprobs[:, : call.k], evidence[:, : call.k])


def for_graph(call: Call, histories: list[Rows]) -> bool:
    """Says whether `search_batch_by_graph` does what is asked.

    Long histories take the steps of a search, and so does evidence that no graph can hold.
    """
    if not isinstance(call.backend, GraphBackend):
        return False
    if call.evidence is not None and not (
        isinstance(call.evidence, ItemEvidence) and call.evidence.sparse.fits_a_device
    ):
        return False
    return 1 + call.view.tokens.shape[1] * max(map(len, histories)) <= MAX_CONTEXT


def _candidates(call: Call, ids: Rows, item_filter: ItemFilter | None) -> Rows:
    """(batch, num) catalogue rows of the most votes within the batch's filter."""
    assert call.evidence is not None
    assert call.voters is not None
    if call.voters is not call.allowance:
        item_filter = call.voters.item_filter(ids)
    if item_filter is None and not isinstance(call.voters.view, StaticView):
        item_filter = call.voters.filter_of(ids)  # of the items that there are now
    histories = [call.histories[i] for i in ids]
    return call.evidence.top(histories, _num_candidates(call), item_filter)


def _num_candidates(call: Call) -> int:
    """Items that the evidence names: of those that were counted, and as many new ones."""
    return min(max(call.k, int(_EVIDENCE_SHARE * call.width)), call.view.trie.num_items)


def _width_beside(call: Call, num_named: int) -> int:
    """Beams beside some items that are named.

    Prefixes beside the beams cost as much as beams: there are no more in all, where k allows it.
    """
    return min(call.width, max(2 * call.k, call.width - num_named))


def _paths(call: Call, wanted: Rows) -> ForcedPaths:
    """The paths of catalogue rows (batch, width), -1 for none."""
    device = call.model.device
    sids = torch.from_numpy(call.view.table.sids[wanted]).to(device, torch.int64)
    return ForcedPaths(sids, torch.from_numpy(wanted >= 0).to(device))


def _rank_all(call: Call, ids: Rows, space: SearchSpace, scores: torch.Tensor) -> Found:
    """Ranks by the scores (batch, num_items) of the trie's rows, plus evidence where it counts."""
    view = call.view
    if call.evidence is None:
        rows, logprobs = rank_scores(space, scores, call.k)
        return Found.llm_alone(view.rows(rows), logprobs)
    histories = [call.histories[i] for i in ids]
    every = np.tile(view.rows(np.arange(view.trie.num_items)), (len(histories), 1))
    evidence = torch.from_numpy(call.evidence.score(histories, every)).to(scores.device)
    rows, _ = rank_scores(space, scores + evidence, call.k)
    at = torch.from_numpy(rows.clip(min=0)).to(scores.device)
    own = (part.gather(1, at).cpu().numpy() for part in (scores, evidence))
    logprobs, evidences = own
    return Found(
        view.rows(rows),
        np.where(rows >= 0, logprobs, np.float32(-np.inf)),
        np.where(rows >= 0, evidences, np.float32(0)),
    )
