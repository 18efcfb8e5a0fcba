"""Defenses that remove training rows."""
