"""Benchmarks: each checks that every provider computes the same thing, then times it.

decode.py            end-to-end recommendation beside plain PyTorch, transformers, vLLM and FlashRec
prefix_reuse.py      a user's next request, with and without the prefix cache
trie.py              the beam step beside every other way to constrain a beam
train.py             training beside transformers on the same architecture
kernels.py           the Triton kernels and their references
kernel_resources.py  what the kernels take of a GPU, from compiled code: no GPU is needed
search_profile.py    kernels, copies and waits of a search on a GPU
startup.py           what importing the package costs
first_gpu_run.py     all of these that half an hour on a GPU has time for
tables.py            the README's tables, from results/*.csv

Scripts stand here; what they share, in rooms:
measuring/           the command line, clocks, memory, a GPU's data sheet, the rows
decoding/            cases, engines, searches and their check, of decode.py and of two more
training/            what train.py trains
ops/                 kernels and ops with their shapes
peers/               other people's engines, asked for the same items
serving/             the clients of serve.py, and the check of what they were told
"""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
# the device of tests/fixtures/on_pretended_device.py, to try a benchmark for GPUs without one
PRETENDED = "pretended"
