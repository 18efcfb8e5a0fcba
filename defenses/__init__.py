"""Defenses: one file per method, one folder per slot."""
