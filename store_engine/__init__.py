"""Semantic-ID generative recommendation with one language model."""

__version__ = "0.1.0"
