"""What rows are made of: one file for each form of a column."""
