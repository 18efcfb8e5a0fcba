"""One run: the experiment, its stages, and the figures that they give."""
