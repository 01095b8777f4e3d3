"""Benchmarks: each checks that every provider computes the same thing, then times it.

decode.py    end-to-end recommendation: ours (C++), ours (PyTorch), transformers.generate
kernels.py   the Triton kernels and their references
"""
