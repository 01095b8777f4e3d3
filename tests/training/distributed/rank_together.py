"""Ranks users as one of several ranks and writes what it got; run by test_rank_share.py.

python tests/training/distributed/rank_together.py FOLDER RANK NUM_RANKS
"""

import sys
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "fixtures"))
from engines import BOS, SIZES, catalog_of, random_model, random_sids

from store_engine.config import DecodingConfig
from store_engine.data.split import Examples
from store_engine.decoding.engine import Engine
from store_engine.evaluation import evaluate_run
from store_engine.evaluation.evaluate_run import rank_all
from store_engine.training.distributed.process_group import exit_rank
from store_engine.training.distributed.rank_share import RankShare

folder, rank, num_ranks = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
evaluate_run.USERS_PER_CALL = 8  # several parts for few users
torch.set_num_threads(1)
torch.manual_seed(0)
store = f"file://{folder}/store{num_ranks}"
torch.distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=num_ranks)
sids = random_sids(60, SIZES) // 2  # some items share a SID: their order is drawn
config = DecodingConfig(beam_width=20, prefix_cache_mib=0)
engine = Engine(random_model(), catalog_of(60), sids, bos=BOS, max_history=8, config=config)
rng = np.random.default_rng(0)
histories = [rng.integers(0, 60, rng.integers(0, 9)).astype(np.int32) for _ in range(43)]
examples = Examples(histories, np.zeros(43, dtype=np.int32))
asked = [len(histories)]
recommend = engine.recommend_rows


def count(histories, *args, **options):
    asked[0] -= len(histories)
    return recommend(histories, *args, **options)


engine.recommend_rows = count
share = RankShare.of_process_group(torch.device("cpu"))
rankings = rank_all(engine, examples, 10, share=share)
np.savez(folder / f"{num_ranks}-{rank}.npz", rankings=rankings, num_left=asked[0])
exit_rank(0)
