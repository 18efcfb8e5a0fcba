"""Defenses that refuse inputs at test time."""
