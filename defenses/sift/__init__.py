"""Filters of passages between search and reader."""
