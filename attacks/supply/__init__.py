"""Attacks on the way from the publisher of a training set to its user, and poison that others have published."""
