"""Availability attacks: they lower the accuracy on all test rows."""
