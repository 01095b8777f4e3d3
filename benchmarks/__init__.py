"""Benchmarks: each checks that every provider computes the same thing, then times it.

decode.py            end-to-end recommendation beside plain PyTorch and transformers.generate
prefix_reuse.py      a user's next request, with and without the prefix cache
trie.py              the beam step beside every other way to constrain a beam
train.py             training beside transformers on the same architecture
kernels.py           the Triton kernels and their references
kernel_resources.py  what the kernels take of a GPU, from compiled code: no GPU is needed
search_profile.py    kernels, copies and waits of a search on a GPU
startup.py           what importing the package costs
first_gpu_run.py     all of these that half an hour on a GPU has time for
tables.py            the README's tables, from results/*.csv
"""
