"""Recommends from an exported folder by transformers alone, kept inside the catalogue.

    python examples/generate_from_export.py EXPORTED ID,ID,ID

`store-engine export RUN --to EXPORTED` makes the folder.
"""

import json
import sys
from pathlib import Path

from transformers import AutoModelForCausalLM, AutoTokenizer

from store_engine.integrations.trie_beam_search import TrieBeamSearch


def main() -> None:
    """Prints ten items."""
    folder, history = Path(sys.argv[1]), sys.argv[2].split(",")
    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    sids = json.loads((folder / "sids.json").read_text(encoding="utf-8"))
    search = TrieBeamSearch(folder)
    prompt = "".join(token for item_id in history for token in sids[item_id])
    levels = len(sids[history[0]])
    generated = model.generate(
        **tokenizer([prompt], return_tensors="pt"),
        custom_generate=search,
        num_beams=20,
        num_return_sequences=10,
        max_new_tokens=levels,
    )
    item_of = {"".join(sid): item_id for item_id, sid in sids.items()}
    for tokens in generated[:, -levels:].tolist():
        print(item_of["".join(tokenizer.convert_ids_to_tokens(tokens))])


if __name__ == "__main__":
    main()
