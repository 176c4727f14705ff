"""Documents in: docstrings of what is installed, and a person's own files, as passages."""
