"""Targeted attacks: they change the answers for chosen test rows."""
