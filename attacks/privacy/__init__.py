"""Attacks that find out what a training tells about its rows."""
