"""What is kept on disk: stored values and records."""
