"""Experiments anyone repeats: variants of a config, trained, measured, kept as rows."""
