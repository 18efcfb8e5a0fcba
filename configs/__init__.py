"""The registry: one YAML a plugin. Found by path; this file exists so that a wheel carries it."""
