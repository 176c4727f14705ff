"""Results that need not be computed again: exact, or not at all."""

from accel.cache.exact import ExactCache

__all__ = ["ExactCache"]
