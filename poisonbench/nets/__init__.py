"""Networks; each has features() and head()."""
