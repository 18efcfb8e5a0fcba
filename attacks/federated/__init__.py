"""Attacks on the updates of federated learning."""
