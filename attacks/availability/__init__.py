"""Attacks that lower the accuracy on every row."""
