"""Learners, the training loop, and devices."""
