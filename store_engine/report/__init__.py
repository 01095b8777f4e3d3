"""A run on one HTML page: what it learned, what it is worth, and what to change."""
