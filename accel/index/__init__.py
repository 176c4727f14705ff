"""Vectors and words of a corpus, on disk and in memory, exact and checked."""
