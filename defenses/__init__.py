"""Defenses: one file a method, one folder a slot."""
