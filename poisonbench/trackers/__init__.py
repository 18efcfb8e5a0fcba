"""Trackers: services that receive records in addition to the disk."""
