"""Values and protocols: what every other room agrees on."""
