"""Defenses that change the training."""
