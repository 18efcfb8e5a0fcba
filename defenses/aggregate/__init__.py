"""Defenses that combine contributions."""
