"""Defenses that prove robustness."""
