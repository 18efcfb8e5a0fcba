"""Attacks: one file per method, one folder per family."""
