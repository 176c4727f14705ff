"""The offer board, leases and jobs: what is to be had, what is rented, and what is under way."""

from accel.fleet.board import Board
from accel.fleet.jobs import JobRunner

__all__ = ["Board", "JobRunner"]
