"""Pages of the documentation that are made from docstrings, configurations and pictures. Needs the extra `docs`."""
