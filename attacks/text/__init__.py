"""Backdoors in rows of words."""
