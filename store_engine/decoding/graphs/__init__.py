"""Searches by CUDA graphs: fixed shapes, static buffers, no wait."""
