"""Attacks on spam filters: mails that make a filter block ham, or pass a chosen spam."""
