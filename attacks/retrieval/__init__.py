"""Attacks on retrieval: passages and triggers that make a victim read what the attacker wants."""
