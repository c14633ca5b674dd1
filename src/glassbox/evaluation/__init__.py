"""Accuracy of a causal language model on held-out samples."""
