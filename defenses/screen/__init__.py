"""Defenses that reject inputs at test time."""
