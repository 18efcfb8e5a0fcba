"""Tasks: real data in, four splits out. The only room that reads data sets."""
