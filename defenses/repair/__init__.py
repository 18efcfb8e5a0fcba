"""Defenses that mend a trained model."""
