"""What figures and recommenders are called in print, on every table and page."""

FIGURES = {  # recall@1 is ndcg@1 too
    "recall@1": "R@1",
    "recall@5": "R@5",
    "recall@10": "R@10",
    "recall@20": "R@20",
    "ndcg@10": "N@10",
    "mrr": "MRR",
}
TRAINING_FREE = ("popularity", "co_visitation", "co_visitation_updated", "own_items")
_RECOMMENDERS = {
    "co_visitation": "co-visitation",
    "co_visitation_updated": "co-visitation, updated",
    "own_items": "own items, latest first",
    "llm_alone": "LLM alone",
    "evidence_alone": "evidence alone",
    "training_events": "the whole, of training events",
    "training_llm_alone": "LLM, of training events",
    "training_evidence_alone": "evidence, of training events",
}


def recommender_title(name: str) -> str:
    """Names a recommender of metrics.json for people; one that is not known keeps its name."""
    return _RECOMMENDERS.get(name, name)
