"""The Triton kernels of the ops, a file per op, loaded when an op first runs on Triton.

The package triton takes a gigabyte and is not needed on a CPU: the op's file beside this folder has
the formula, the reference and the public function, and imports nothing from here before.
"""
