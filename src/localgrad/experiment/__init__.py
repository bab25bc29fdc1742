"""Experiments: configuration, training loop, run folders, comparisons."""
