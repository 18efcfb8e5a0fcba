"""Attacks that plant a trigger."""
