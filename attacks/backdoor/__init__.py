"""Backdoor attacks: inputs with a trigger get the target label."""
