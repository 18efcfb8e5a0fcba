"""The commands `python -m poisonbench COMMAND`; a command line without one runs an experiment."""
