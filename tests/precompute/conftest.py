from precompute.farend import tiny

__all__ = ["tiny"]
