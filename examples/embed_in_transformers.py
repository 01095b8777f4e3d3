"""The same model under `transformers.generate`, kept inside the catalogue, with the same items.

    python examples/embed_in_transformers.py          # trains a toy into ./example_run first
    python examples/embed_in_transformers.py RUN      # a run of yours whose histories are codes

transformers must be installed. An item's SID is written as tokens behind the text vocabulary: code
c of level l has the id text_vocab_size + (codes of the levels before l) + c.
"""

import sys
from pathlib import Path

import torch
from filters_and_live_catalog import trained_toy

from store_engine import Engine, load_run
from store_engine.integrations.huggingface import export_huggingface
from store_engine.integrations.logits_processor import TrieLogitsProcessor

K = 10


def main() -> None:
    """Recommends by both, and compares."""
    run = load_run(Path(sys.argv[1]) if len(sys.argv) > 1 else trained_toy())
    engine = Engine.load(run, dtype="float32")
    ids, num_levels = engine.catalog.item_ids, engine.sids.shape[1]
    history = list(ids[:4])

    offsets = torch.tensor(engine.model.vocabulary.level_offsets)
    tokens_of = torch.from_numpy(engine.sids).long() + offsets[:num_levels]  # by catalogue row
    rows = [engine.catalog.row_of(item_id) for item_id in history]
    prompt = torch.cat([torch.tensor([run.vocabulary.bos_id]), tokens_of[rows].flatten()])

    exported = export_huggingface(engine.model)  # with a path: a folder for from_pretrained
    generated = exported.generate(
        prompt[None],
        num_beams=20,
        num_return_sequences=20,
        max_new_tokens=num_levels,
        do_sample=False,
        length_penalty=0.0,
        logits_processor=[TrieLogitsProcessor(engine)],
    )
    row_of_sid = {tuple(sid): row for row, sid in enumerate(tokens_of.tolist())}
    theirs = [ids[row_of_sid[tuple(sid)]] for sid in generated[:, -num_levels:].tolist()]
    ours = engine.recommend([history], K, beam_width=20, exclude_history=False, evidence=False)[0]

    print("transformers:", " ".join(theirs[:K]))
    print("store_engine:", " ".join(item.item_id for item in ours))
    assert theirs[:K] == [item.item_id for item in ours]


if __name__ == "__main__":
    main()
