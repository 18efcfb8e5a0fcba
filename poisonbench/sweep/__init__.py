"""Many experiments at once, on one machine or on many: every cell ends as a record."""
