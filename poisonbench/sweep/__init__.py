"""Many experiments at once, on one or several machines; every experiment ends with a record."""
