"""The offer board, live requests, leases and jobs: what is to be had, is rented, and is under way."""

from accel.fleet.board import Board
from accel.fleet.jobs import JobRunner
from accel.fleet.journal import Journal
from accel.fleet.live import LiveRunner

__all__ = ["Board", "JobRunner", "Journal", "LiveRunner"]
