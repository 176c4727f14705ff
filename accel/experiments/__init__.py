"""Measurements: how well stages rank, when a question has no answer here, what a GPU would buy."""
