"""Defenses that repair a trained model."""
