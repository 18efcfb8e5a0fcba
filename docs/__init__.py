"""The documentation: its pages are Markdown, and `docs.generate` makes the pages that are generated."""
