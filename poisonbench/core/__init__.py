"""Values and protocols: what all other packages share."""
