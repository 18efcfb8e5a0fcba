"""Networks, each with features() and head()."""
