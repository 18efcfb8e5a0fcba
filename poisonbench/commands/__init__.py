"""Commands beside the run itself: `python -m poisonbench COMMAND`."""
