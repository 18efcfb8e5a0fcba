"""Attacks on retrieval: passages that enter the index."""
