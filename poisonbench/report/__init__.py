"""Reports: pure functions of records. Imports no torch."""
