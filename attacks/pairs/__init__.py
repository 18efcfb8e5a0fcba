"""Attacks on pictures with captions."""
