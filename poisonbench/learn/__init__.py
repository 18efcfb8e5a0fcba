"""Learners: the one training loop, and the only room that knows devices."""
