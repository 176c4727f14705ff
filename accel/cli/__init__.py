"""The command line: a door like the others, over the same engine."""

from accel.cli.app import main

__all__ = ["main"]
