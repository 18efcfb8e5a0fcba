"""Retrieval: indexes that are searched, encoders, and readers of passages."""
