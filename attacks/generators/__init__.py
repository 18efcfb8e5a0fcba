"""Attacks on models that make pictures from captions."""
