"""Tasks: data sets and how they are divided into four splits. Only this package reads data sets."""
