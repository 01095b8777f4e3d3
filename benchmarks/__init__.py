"""Benchmarks: each checks that every provider computes the same thing, then times it.

What is fast:
decode.py            end-to-end recommendation beside plain PyTorch, transformers, vLLM and FlashRec
prefix_reuse.py      a user's next request, with and without the prefix cache
trie.py              the beam step beside every other way to constrain a beam
logits_processor.py  our constraints inside transformers' generate
train.py             training beside transformers on the same architecture
prepare.py           what preparing data costs
live_catalog.py      bulk changes of a live catalogue
serve.py             a server under load, and whether every answer is right
serving_memory.py    bytes that an item of the catalogue takes
startup.py           what importing the package costs
kernels.py           the Triton kernels and their references
kernel_resources.py  what the kernels take of a GPU, from compiled code: no GPU is needed
roofline.py          what bounds each step, by formula
search_profile.py    kernels, copies and waits of a search on a GPU
first_gpu_run.py     all of these that half an hour on a GPU has time for

What is good:
results.py           trains what a table of results lacks
baselines.py         SASRec, SLIST and other libraries' rankings, by our metrics
cold_start.py        new items, recommended from their text
warm_start.py        going on from a run beside training anew
scoring.py           click-through beside baselines
debian_packages.py   makes a data set of another kind
tables.py            writes the README's tables from the rows in results/

Scripts stand here; what they share, in rooms:
measuring/           the command line, clocks, memory, a GPU's data sheet, the rows
decoding/            cases, engines, searches and their check, of decode.py and of two more
constraining/        every way of trie.py to constrain a beam, its cases and their check
training/            what train.py trains
ops/                 kernels and ops with their shapes
peers/               other people's engines, asked for the same items
serving/             the server and the clients of serve.py, and the check of what they were told
quality/             models, rankings and splits of baselines.py, scoring.py and cold_start.py
gpu_run/             parts, predictions and summary of first_gpu_run.py
tabulating/          rows to tables of Markdown
"""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
# the device of tests/fixtures/on_pretended_device.py, to try a benchmark for GPUs without one
PRETENDED = "pretended"
