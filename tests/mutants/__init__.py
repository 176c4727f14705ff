"""The proof that the net catches: code broken on purpose, and which check dies of it. ``make mutants``."""
