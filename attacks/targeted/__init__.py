"""Attacks on chosen test rows."""
