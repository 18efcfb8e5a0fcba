"""Trackers: where records may go beside the disk."""
