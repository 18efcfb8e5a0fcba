"""Attacks: one file a method, one folder a family."""
